//! One SQLite connection: how it is opened, and lent to a guest. Owns the pragmas and what is known of the schema; how a
//! guest's statement runs is told in [`crate::statement`].
//!
//! WAL with `synchronous=NORMAL`: a power loss may lose the newest commits but never the integrity, and what it loses the
//! log still has: the applied index goes back together with the data, and the node applies those entries again.
//! (<https://www.sqlite.org/pragma.html#pragma_synchronous>)
//!
//! For the count of steps to be the same on every replica a statement must never be compiled again in the middle of its
//! run, so statements are dropped from the cache after every change of the schema, and the schema is loaded again after
//! every rollback in a transaction that has changed it (SQLite then forgets it whole), outside the count.

use std::{fs::File, path::Path, sync::Arc};

use rusqlite::{Connection, Error as SqlError, OpenFlags, config::DbConfig, ffi, limits::Limit};
use telegraft_node::ports::{Cancellation, MachineFault};

use crate::{
    effects::Effects,
    errors::fault,
    guest::Context,
    keys::Keys,
    limits::Limits,
    policy::{self, Mode, Policy},
    snapshot::{file_fault, sync_dir, with_suffix},
    temporary,
};

/// Statements kept compiled on one connection.
const STATEMENTS_CACHED: usize = 256;

/// Bytes of one statement's text.
pub(crate) const SQL_BYTES_MAX: i32 = 256 << 10;

/// Statements with a longer text are not kept compiled: 256 of the longest would take gigabytes.
pub(crate) const SQL_BYTES_CACHED_MAX: usize = 16 << 10;

/// Arguments of one function call: several functions put all of them together before they look at the size of the result.
pub(crate) const FUNCTION_ARGUMENTS_MAX: i32 = 32;

/// SQLite's own maximum for a value, which holds for the host.
pub(crate) const VALUE_BYTES_HOST: i32 = 1_000_000_000;

/// Page cache of the writing connection, KiB. Decides results: a sort of a command's has as much memory before it writes to
/// temporary files, which costs steps.
const CACHE_KIB_WRITER: i32 = 64 << 10;

/// Page cache of each reading connection, KiB.
const CACHE_KIB_READER: i32 = 8 << 10;

/// A connection with its hooks.
pub(crate) struct Database {
    pub(crate) conn: Connection,
    pub(crate) policy: Arc<Policy>,
    /// Of the guest call that is running.
    pub(crate) limits: Limits,
    pub(crate) steps_left: i64,
    /// Largest value of the guest's, bytes.
    pub(crate) value_bytes: i32,
    /// The running call's statements can each be taken back, and its DDL has this reach at the least
    /// ([`crate::statement`]).
    pub(crate) care: Option<i32>,
    /// The running call is to begin again so.
    pub(crate) wants_care: Option<i32>,
    /// The running statement was taken back, and is to begin again with this reach.
    pub(crate) again: Option<i32>,
    pub(crate) writable: bool,
    /// By the open transaction.
    pub(crate) schema_changed: bool,
    /// SQLite's number for the schema that was seen last; only on a connection that reads.
    schema_version: i64,
    /// What was found out about the schema as it is now.
    pub(crate) schema: Schema,
}

/// What is known of a schema, each found out when it is first needed.
#[derive(Default)]
pub(crate) struct Schema {
    /// Bytes of its longest definition.
    pub(crate) definition_bytes: Option<usize>,
    /// What the keys of its indexes are.
    pub(crate) keys: Option<Arc<Keys>>,
}

impl Database {
    /// The writing connection; makes the file where there is none.
    pub(crate) fn open_writer(path: &Path) -> Result<Database, MachineFault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = (|| {
            let conn = Connection::open_with_flags_and_vfs(path, flags, temporary::vfs()?)?;
            conn.pragma_update(None, "journal_mode", "WAL")?;
            conn.pragma_update(None, "synchronous", "NORMAL")?;
            conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
            Database::set_up(conn, true)
        })();
        opened.map_err(|e| fault(&format!("cannot open {}", path.display()), &e))
    }

    /// A connection to a file that is being made ready to become the machine's: no WAL, every commit synced.
    pub(crate) fn open_aside(path: &Path) -> rusqlite::Result<Database> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags_and_vfs(path, flags, temporary::vfs()?)?;
        // Checks the answer: a file that stays in WAL mode would leave a part of itself in another.
        conn.pragma_update_and_check(None, "journal_mode", "MEMORY", |row| match &*row.get::<_, String>(0)? {
            "memory" => Ok(()),
            _ => Err(SqlError::InvalidQuery),
        })?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        Database::set_up(conn, true)
    }

    /// A connection that only reads.
    pub(crate) fn open_reader(path: &Path) -> Result<Database, MachineFault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = (|| {
            let conn = Connection::open_with_flags_and_vfs(path, flags, temporary::vfs()?)?;
            conn.pragma_update(None, "query_only", true)?;
            Database::set_up(conn, false)
        })();
        opened.map_err(|e| fault(&format!("cannot open {} for reading", path.display()), &e))
    }

    fn set_up(mut conn: Connection, writable: bool) -> rusqlite::Result<Database> {
        // A checkpoint of the writer may hold a reader up for a moment.
        conn.busy_timeout(std::time::Duration::from_secs(10))?;
        conn.pragma_update(None, "cache_size", -(if writable { CACHE_KIB_WRITER } else { CACHE_KIB_READER }))?;
        conn.pragma_update(None, "foreign_keys", true)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        // Schema texts may not call the functions this crate registers.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        // A plan never depends on the values bound to a statement, so not on which values came first.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // "x" is an identifier, never a string: a column that goes away must not change a statement's meaning.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
        let policy = if writable { policy::install(&mut conn) } else { policy::install_for_queries(&mut conn) }?;
        conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX)?;
        conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        conn.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
        conn.set_limit(Limit::SQLITE_LIMIT_FUNCTION_ARG, FUNCTION_ARGUMENTS_MAX)?;
        conn.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        let limits = Limits::DEFAULT;
        Ok(Database {
            conn,
            policy,
            limits,
            steps_left: 0,
            value_bytes: VALUE_BYTES_HOST,
            care: None,
            wants_care: None,
            again: None,
            writable,
            schema_changed: false,
            schema_version: -1,
            schema: Schema::default(),
        })
    }

    /// Makes everything committed survive a power loss.
    ///
    /// A checkpoint that moves all frames of the WAL syncs the WAL before it writes the first page to the database file,
    /// and the database file before it says that it is done (<https://www.sqlite.org/c3ref/wal_checkpoint_v2.html>, on
    /// PASSIVE; <https://www.sqlite.org/wal.html>, "Checkpointing"). With `synchronous=NORMAL` commits sync nothing, so
    /// this is what makes them last. A reader of an older state, for whom frames must stay, does not fail a checkpoint:
    /// it is cut short, and may not have synced anything. It is known by the frames it left, and then the WAL itself is
    /// synced here, which serves as well: after a power loss SQLite reads the commits out of it.
    pub(crate) fn make_durable(&self) -> Result<(), MachineFault> {
        let (busy, frames, moved) = self.checkpoint("PASSIVE")?;
        if !busy && frames == moved {
            return Ok(());
        }
        let Some(path) = self.conn.path().map(Path::new) else {
            return Err(MachineFault("the database has no file".to_owned()));
        };
        // Closing a descriptor gives up the locks of the whole process on its file, but the WAL carries none of SQLite's.
        let wal = with_suffix(path, "-wal");
        File::open(&wal).and_then(|file| file.sync_all()).map_err(|e| file_fault("sync", &wal, &e))?;
        sync_dir(path.parent().unwrap_or(path))
    }

    /// Moves everything into the database file, synced, and cuts the WAL to nothing. No other connection may be reading.
    pub(crate) fn empty_wal(&self) -> Result<(), MachineFault> {
        let (busy, frames, moved) = self.checkpoint("TRUNCATE")?;
        if busy || frames != 0 || moved != 0 {
            return Err(MachineFault(format!(
                "the WAL could not be emptied ({moved} of {frames} frames moved): another process uses the file; one \
                 host at a time can own it"
            )));
        }
        Ok(())
    }

    /// Whether it was kept from its work, and the number of frames in the WAL and of those that are in the database file.
    fn checkpoint(&self, mode: &str) -> Result<(bool, i64, i64), MachineFault> {
        let sql = format!("PRAGMA wal_checkpoint({mode}) -- _telegraft_");
        let row = self.conn.query_row(&sql, [], |row| Ok((row.get::<_, i64>(0)? != 0, row.get(1)?, row.get(2)?)));
        let (busy, frames, moved) = row.map_err(|e| fault("a checkpoint failed", &e))?;
        if frames < 0 {
            return Err(MachineFault("the database is not in WAL mode; does another process use the file?".to_owned()));
        }
        Ok((busy, frames, moved))
    }

    /// Closes the connection. Where it is the last one, SQLite removes the WAL.
    pub(crate) fn close(self) -> Result<(), MachineFault> {
        self.conn.close().map_err(|(_, e)| fault("cannot close the database", &e))
    }

    /// The connection, for the host's own statements. Each of them names something `_telegraft_…`, in a comment if need be.
    pub(crate) fn host(&self) -> &Connection {
        &self.conn
    }

    /// Lends the connection to a guest until [`Database::leave_guest`]. `care`: what [`Database::wants_care`] said, where the
    /// call begins again.
    pub(crate) fn enter_guest(&mut self, limits: &Limits, context: &Context, care: Option<i32>) {
        self.policy.set_mode(if self.writable { Mode::Write } else { Mode::Read });
        self.limits = *limits;
        self.steps_left = i64::try_from(limits.sql_steps).unwrap_or(i64::MAX);
        self.value_bytes = i32::try_from(limits.value_bytes).unwrap_or(VALUE_BYTES_HOST);
        self.care = care;
        (self.wants_care, self.again) = (None, None);
        self.policy.entry.begin(context.time_us, context.entropy);
    }

    /// [`Database::enter_guest`] for a query; its statements end once it is cancelled.
    pub(crate) fn enter_query(&mut self, limits: &Limits, context: &Context, cancellation: &Cancellation) {
        self.enter_guest(limits, context, None);
        self.policy.meter.end_when(cancellation);
    }

    /// Whether the query that has the connection was cancelled; never where it can write.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.policy.meter.is_cancelled()
    }

    pub(crate) fn leave_guest(&mut self) {
        self.policy.set_mode(Mode::Host);
    }

    /// Whether the call that has ended is to begin again, with statements that can be taken back, and with which reach for
    /// its DDL.
    pub(crate) fn wants_care(&self) -> Option<i32> {
        self.wants_care
    }

    /// No statement that knew the schema stays, and nothing that was known of it.
    pub(crate) fn forget_schema(&mut self) {
        self.conn.flush_prepared_statement_cache();
        self.schema = Schema::default();
    }

    /// To be called at the beginning of a read: where the schema is another than before, no statement that knew the old one
    /// stays, so that none is compiled again in the middle of its run.
    pub(crate) fn see_schema(&mut self) -> Result<(), MachineFault> {
        let version =
            || self.conn.prepare_cached("PRAGMA schema_version -- _telegraft_")?.query_row([], |row| row.get(0));
        let version = version().map_err(|e| fault("cannot read the schema's version", &e))?;
        if version != self.schema_version {
            self.forget_schema();
            self.schema_version = version;
        }
        Ok(())
    }

    /// Bounds the length of values. Cannot fail: the limit's number is known.
    pub(crate) fn bound_values(&self, bytes: i32) {
        let _ = self.conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes);
    }

    /// Whether the open entry leaves a deferred foreign key violated. SQLite itself would only look at the end of the
    /// transaction, which is the host's, and fail the whole batch.
    pub(crate) fn violates_foreign_keys(&self) -> bool {
        let (mut current, mut highest) = (0, 0);
        // SAFETY: the handle is that of an open connection, which outlives the call and is used by no other thread; the two
        // numbers are written to during the call only. (<https://www.sqlite.org/c3ref/db_status.html>; rusqlite has no
        // safe form of it.)
        #[allow(unsafe_code, reason = "see above")]
        let answer = unsafe {
            ffi::sqlite3_db_status(
                self.conn.handle(),
                ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
                &raw mut current,
                &raw mut highest,
                0,
            )
        };
        answer != ffi::SQLITE_OK || current != 0
    }

    /// SQL steps that the guest's call has used up.
    pub(crate) fn steps_used(&self) -> u64 {
        self.limits.sql_steps.saturating_sub(u64::try_from(self.steps_left).unwrap_or(0))
    }

    /// What the guest's statements of this entry have changed.
    pub(crate) fn effects(&self) -> &Effects {
        self.policy.effects()
    }

    /// To be called after an entry was undone: loads the schema again if the transaction had changed it, in this entry or an
    /// earlier one, so that no guest's statement does it within its step count.
    pub(crate) fn after_undo(&mut self, whole_transaction: bool) -> Result<(), MachineFault> {
        if self.schema_changed || whole_transaction {
            self.schema_changed &= !whole_transaction;
            self.load_schema()?;
        }
        Ok(())
    }

    /// Loads the schema again, outside any statement's count, where SQLite has forgotten it. As the host.
    pub(crate) fn load_schema(&mut self) -> Result<(), MachineFault> {
        self.forget_schema();
        self.conn.prepare("SELECT 1 FROM _telegraft_meta").map(drop).map_err(|e| fault("cannot read the schema", &e))
    }

    /// To be called when the host has replaced all of the guest's tables: no statement that knew the old ones stays.
    pub(crate) fn schema_replaced(&mut self) {
        self.schema_changed = true;
        self.forget_schema();
        self.policy.effects().saw_ddl(0);
    }

    /// To be called when the transaction is committed.
    pub(crate) fn after_commit(&mut self) {
        self.schema_changed = false;
    }
}

/// A name as SQL quotes it.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
