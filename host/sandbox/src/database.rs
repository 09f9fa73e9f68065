//! One SQLite connection: how it is opened, and how a guest's statement runs on it. Owns the pragmas and the step budget.
//!
//! WAL with `synchronous=NORMAL`: a power loss may lose the newest commits but never the integrity, and what it loses the
//! log still has: the applied index goes back together with the data, and the node applies those entries again.
//! (<https://www.sqlite.org/pragma.html#pragma_synchronous>)
//!
//! The step budget is counted exactly: a statement's VM step counter is reset before it runs and read after it. For the
//! count to be the same on every replica a statement must never be compiled again in the middle of its run, so statements
//! are dropped from the cache after every change of the schema, and the schema is loaded again after every rollback in a
//! transaction that has changed it (SQLite then forgets it whole), outside the count.
//!
//! The largest value that a guest may have bounds its statements' runs alone, not their compilation: SQLite takes a default
//! value or a message that it cannot write down for a lack of memory.

use std::{fs::File, path::Path, sync::Arc};

use rusqlite::{
    Connection, Error as SqlError, ErrorCode, OpenFlags, StatementStatus, config::DbConfig, ffi, limits::Limit,
};
use telegraft_node::ports::{Code, MachineFault};

use crate::{
    effects::{Effects, table_size},
    errors::{SqlEnd, fault, is_guests, over},
    guest::{Context, bindings::telegraft::machine::store, rejection},
    limits::Limits,
    policy::{self, Mode, Policy, SAME_NAMES},
    rows::{Collected, Sink, SteppedOver},
    snapshot::{file_fault, sync_dir, with_suffix},
    temporary,
};

/// Statements kept compiled on one connection.
const STATEMENTS_CACHED: usize = 256;

/// Bytes of one statement's text.
pub(crate) const SQL_BYTES_MAX: i32 = 256 << 10;

/// Statements with a longer text are not kept compiled: 256 of the longest would take gigabytes.
const SQL_BYTES_CACHED_MAX: usize = 16 << 10;

/// Arguments of one function call: several functions put all of them together before they look at the size of the result.
const FUNCTION_ARGUMENTS_MAX: i32 = 32;

/// SQLite's own maximum for a value, which holds for the host.
const VALUE_BYTES_HOST: i32 = 1_000_000_000;

/// One step of the budget for so many bytes of statement text, whether it is compiled or comes from the cache.
const TEXT_BYTES_PER_STEP: usize = 8;

/// Page cache of the writing connection, KiB. Decides results: a sort of a command's has as much memory before it writes to
/// temporary files, which costs steps.
const CACHE_KIB_WRITER: i32 = 64 << 10;

/// Page cache of each reading connection, KiB.
const CACHE_KIB_READER: i32 = 8 << 10;

/// A connection with its hooks.
pub(crate) struct Database {
    conn: Connection,
    policy: Arc<Policy>,
    /// Of the guest call that is running.
    limits: Limits,
    steps_left: i64,
    /// Largest value of the guest's, bytes.
    value_bytes: i32,
    writable: bool,
    /// By the open transaction.
    schema_changed: bool,
    /// SQLite's number for the schema that was seen last; only on a connection that reads.
    schema_version: i64,
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
        let policy = policy::install(&mut conn)?;
        conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX)?;
        conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        conn.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
        conn.set_limit(Limit::SQLITE_LIMIT_FUNCTION_ARG, FUNCTION_ARGUMENTS_MAX)?;
        conn.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        let limits = Limits::DEFAULT;
        let (steps_left, value_bytes, schema_changed, schema_version) = (0, VALUE_BYTES_HOST, false, -1);
        Ok(Database { conn, policy, limits, steps_left, value_bytes, writable, schema_changed, schema_version })
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

    /// Lends the connection to a guest until [`Database::leave_guest`].
    pub(crate) fn enter_guest(&mut self, limits: &Limits, context: &Context) {
        self.policy.set_mode(if self.writable { Mode::Write } else { Mode::Read });
        self.limits = *limits;
        self.steps_left = i64::try_from(limits.sql_steps).unwrap_or(i64::MAX);
        let value_bytes = i32::try_from(limits.value_bytes).unwrap_or(VALUE_BYTES_HOST);
        if value_bytes != self.value_bytes {
            // SQLite looks at the length of a literal when a statement is first run, and never again.
            self.conn.flush_prepared_statement_cache();
            self.value_bytes = value_bytes;
        }
        self.policy.meter.set_value_bytes(value_bytes);
        self.policy.entry.begin(context.time_us, context.entropy);
    }

    pub(crate) fn leave_guest(&mut self) {
        self.policy.set_mode(Mode::Host);
        self.policy.meter.set_value_bytes(VALUE_BYTES_HOST);
    }

    /// To be called at the beginning of a read: where the schema is another than before, no statement that knew the old one
    /// stays, so that none is compiled again in the middle of its run.
    pub(crate) fn see_schema(&mut self) -> Result<(), MachineFault> {
        let version =
            || self.conn.prepare_cached("PRAGMA schema_version -- _telegraft_")?.query_row([], |row| row.get(0));
        let version = version().map_err(|e| fault("cannot read the schema's version", &e))?;
        if version != self.schema_version {
            self.conn.flush_prepared_statement_cache();
            self.schema_version = version;
        }
        Ok(())
    }

    /// Cannot fail: the limit's number is known.
    fn bound_values(&self, bytes: i32) {
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
            self.conn.flush_prepared_statement_cache();
            self.conn
                .prepare("SELECT 1 FROM _telegraft_meta")
                .map(drop)
                .map_err(|e| fault("cannot read the schema", &e))?;
        }
        Ok(())
    }

    /// To be called when the host has replaced all of the guest's tables: no statement that knew the old ones stays.
    pub(crate) fn schema_replaced(&mut self) {
        self.schema_changed = true;
        self.conn.flush_prepared_statement_cache();
        self.policy.effects().saw_ddl(0);
    }

    /// To be called when the transaction is committed.
    pub(crate) fn after_commit(&mut self) {
        self.schema_changed = false;
    }

    /// The WIT store's `execute`: the number of rows the statement changed, 0 where it changes none or is DDL. Rows that
    /// it returns are stepped over.
    pub(crate) fn execute(&mut self, sql: &str, params: &[store::Value]) -> Result<u64, SqlEnd> {
        self.run(sql, params, &mut SteppedOver)
    }

    /// The WIT store's `query`.
    pub(crate) fn query(&mut self, sql: &str, params: &[store::Value]) -> Result<store::Rows, SqlEnd> {
        let mut collected = Collected::new(self.limits);
        self.run(sql, params, &mut collected)?;
        Ok(collected.rows)
    }

    /// Runs one statement to its end; the number of rows it changed.
    fn run(&mut self, sql: &str, params: &[store::Value], sink: &mut impl Sink) -> Result<u64, SqlEnd> {
        let ended = self.run_statement(sql, params, sink);
        self.bound_values(VALUE_BYTES_HOST);
        self.policy.effects().end_ddl();
        if self.policy.compiling_cost() > 0 || sql.len() > SQL_BYTES_CACHED_MAX {
            self.conn.flush_prepared_statement_cache();
        }
        ended
    }

    fn run_statement(&mut self, sql: &str, params: &[store::Value], sink: &mut impl Sink) -> Result<u64, SqlEnd> {
        if let Some(why) = policy::refuse_text(sql) {
            return Err(SqlEnd::Guest(store::Error::Denied(why.to_owned())));
        }
        self.steps_left = self.steps_left.saturating_sub(1 + (sql.len() / TEXT_BYTES_PER_STEP) as i64);
        if self.steps_left < 0 {
            return Err(self.over_steps());
        }
        self.policy.begin_prepare();
        let mut statement = match self.conn.prepare_cached(sql) {
            Ok(statement) => statement,
            Err(e) => {
                // SQLite's error may hide that its parts were too many already, but not what they cost.
                self.steps_left = self.steps_left.saturating_sub_unsigned(self.policy.compiling_cost());
                return Err(if self.steps_left < 0 { self.over_steps() } else { self.classify(e) });
            }
        };
        self.steps_left = self.steps_left.saturating_sub_unsigned(self.policy.compiling_cost());
        if self.steps_left < 0 {
            return Err(self.over_steps());
        }
        let ddl = self.policy.saw_ddl();
        if statement.is_explain() != 0 {
            statement.discard();
            return Err(SqlEnd::Guest(store::Error::Denied("EXPLAIN is not available to a module".to_owned())));
        }
        let read_only = statement.readonly();
        if read_only && statement.column_count() == 0 {
            statement.discard();
            return Err(SqlEnd::Guest(store::Error::Invalid("the statement is empty".to_owned())));
        }
        if statement.parameter_count() != params.len() {
            let message =
                format!("the statement has {} parameters, {} were given", statement.parameter_count(), params.len());
            if ddl {
                // From the cache it would come back without the authorizer having seen it.
                statement.discard();
            }
            return Err(SqlEnd::Guest(store::Error::Invalid(message)));
        }
        self.bound_values(self.value_bytes);
        for (i, param) in params.iter().enumerate() {
            let bound = match param {
                store::Value::Null => statement.raw_bind_parameter(i + 1, rusqlite::types::Null),
                store::Value::Integer(v) => statement.raw_bind_parameter(i + 1, v),
                store::Value::Real(v) => statement.raw_bind_parameter(i + 1, v),
                store::Value::Text(v) => statement.raw_bind_parameter(i + 1, v.as_str()),
                store::Value::Blob(v) => statement.raw_bind_parameter(i + 1, v.as_slice()),
            };
            if let Err(e) = bound {
                if ddl {
                    statement.discard();
                } else {
                    drop(statement);
                }
                return Err(self.classify(e));
            }
        }
        self.bound_values(VALUE_BYTES_HOST);
        let resized = if ddl {
            self.schema_changed = true;
            let tables = self.policy.resized();
            match sizes(&self.conn, &self.policy, &mut self.steps_left, &tables) {
                Ok(Some(sizes)) => {
                    self.policy.effects().begin_ddl(tables.iter().map(|(table, _)| table.clone()));
                    Some((tables, sizes))
                }
                Ok(None) => {
                    statement.discard();
                    return Err(self.over_steps());
                }
                Err(fault) => return Err(SqlEnd::Ended(fault.into())),
            }
        } else {
            None
        };
        let grown = self.policy.effects().grown();

        // Six columns of one name are the fewest.
        if statement.column_count() > 5 && policy::has_random_names(statement.column_names()) {
            return Err(SqlEnd::Guest(store::Error::Invalid(SAME_NAMES.to_owned())));
        }
        sink.columns(&statement);
        let mut outcome = Ok(());
        // From here to `end_steps` the count runs. It begins at zero: it was reset when it was read the last time.
        let changed_before = self.conn.total_changes();
        self.bound_values(self.value_bytes);
        self.policy.begin_steps(self.steps_left);
        let mut failed = None;
        {
            let mut rows = statement.raw_query();
            loop {
                match rows.next() {
                    Ok(Some(row)) => {
                        outcome = sink.row(row);
                        if outcome.is_err() {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(e) => {
                        failed = Some(e);
                        break;
                    }
                }
            }
        }
        let charged = self.policy.end_steps();
        self.bound_values(VALUE_BYTES_HOST);
        let steps = i64::from(statement.reset_status(StatementStatus::VmStep)).saturating_add(charged);
        if ddl {
            statement.discard();
            self.conn.flush_prepared_statement_cache();
        } else {
            drop(statement);
        }
        if self.policy.took_rowid_max() {
            let message = "the row id 9223372036854775807 is not available to a module";
            return Err(SqlEnd::Ended(rejection(Code::Aborted, message).into()));
        }
        self.steps_left = self.steps_left.saturating_sub(steps);
        if self.policy.meter.exhausted() {
            return Err(self.over_steps());
        }
        if let Some(e) = failed {
            let end = self.classify(e);
            // Where SQLite took back what the statement had done, the hook is not told. It is so where nothing was counted. Where
            // only triggers changed something it may be so or not: then the data are not taken for smaller.
            let effects = self.policy.effects();
            if self.conn.total_changes() == changed_before {
                effects.set_grown(grown);
            } else if self.conn.changes() == 0 {
                effects.set_grown(grown.max(effects.grown()));
            }
            return Err(end);
        }
        if let Some((tables, before)) = resized {
            let after = sizes(&self.conn, &self.policy, &mut self.steps_left, &tables);
            let Some(after) = after.map_err(|fault| SqlEnd::Ended(fault.into()))? else {
                return Err(self.over_steps());
            };
            let altered = tables.iter().zip(before.iter().zip(&after)).map(|((_, dropped), sizes)| match sizes {
                // Renamed: neither more nor less.
                (Some(_), None) if !dropped => 0,
                (before, after) => after.unwrap_or(0).saturating_sub(before.unwrap_or(0)),
            });
            self.policy.effects().saw_ddl(altered.fold(0, i64::saturating_add));
            let random = policy::tables_with_random_names(&self.policy, &self.conn, &tables);
            if random.map_err(|e| SqlEnd::Ended(fault("cannot read the columns of a table", &e).into()))? {
                return Err(SqlEnd::Ended(rejection(Code::Aborted, SAME_NAMES).into()));
            }
        }
        if self.policy.effects().outgrown() {
            return Err(self.over_data());
        }
        if self.steps_left < 0 {
            return Err(self.over_steps());
        }
        outcome?;
        // Statements that count nothing (DDL, REINDEX) leave the count of the one before.
        let counted = !ddl && self.conn.total_changes() != changed_before;
        Ok(if counted { self.conn.changes() } else { 0 })
    }

    fn over_data(&self) -> SqlEnd {
        over(format!(
            "the machine's data would outgrow its budget of {} bytes (database_bytes)",
            self.limits.database_bytes
        ))
    }

    fn over_steps(&self) -> SqlEnd {
        over(format!("the call used up its SQL budget of {} steps", self.limits.sql_steps))
    }

    /// What an error of SQLite means for the guest's statement.
    fn classify(&self, error: SqlError) -> SqlEnd {
        if let Some(why) = self.policy.take_denied() {
            return SqlEnd::Guest(store::Error::Denied(why));
        }
        let (code, message) = match &error {
            SqlError::SqliteFailure(e, message) => (e.code, message.clone()),
            SqlError::SqlInputError { error: e, msg, .. } => (e.code, Some(msg.clone())),
            SqlError::MultipleStatement => {
                return SqlEnd::Guest(store::Error::Invalid("one statement at a time".to_owned()));
            }
            SqlError::NulError(_) => {
                return SqlEnd::Guest(store::Error::Invalid("the statement contains a NUL".to_owned()));
            }
            _ => return SqlEnd::Ended(fault("a module's statement failed", &error).into()),
        };
        let message = message.unwrap_or_else(|| format!("{code:?}"));
        if code == ErrorCode::OperationInterrupted {
            if self.policy.effects().outgrown() {
                return self.over_data();
            }
            return self.over_steps();
        }
        if self.writable && self.conn.is_autocommit() && is_guests(code) {
            let why = format!("the statement rolled the whole transaction back, which is the host's ({message})");
            return SqlEnd::Ended(rejection(Code::Aborted, why).into());
        }
        SqlEnd::Guest(match code {
            ErrorCode::ConstraintViolation => store::Error::Constraint(message),
            ErrorCode::TooBig => store::Error::TooLarge(message),
            ErrorCode::AuthorizationForStatementDenied => store::Error::Denied(message),
            // On the writing connection it is the file system's word.
            ErrorCode::ReadOnly if !self.writable => store::Error::Denied(message),
            code if is_guests(code) => store::Error::Invalid(message),
            _ => return SqlEnd::Ended(fault("a module's statement failed", &error).into()),
        })
    }
}

/// The logical bytes of each of these tables that is there. Every row is looked at, and charged for; `None` where the steps
/// run out over it.
fn sizes(
    conn: &Connection,
    policy: &Policy,
    steps_left: &mut i64,
    tables: &[(String, bool)],
) -> Result<Option<Vec<Option<i64>>>, MachineFault> {
    let mode = policy.mode();
    policy.set_mode(Mode::Host);
    let mut measure = || -> rusqlite::Result<Option<Vec<Option<i64>>>> {
        let mut sizes = Vec::with_capacity(tables.len());
        for (table, _) in tables {
            let size = table_size(conn, table, *steps_left)?;
            *steps_left = steps_left.saturating_sub(size.steps);
            if *steps_left < 0 {
                return Ok(None);
            }
            sizes.push(size.bytes);
        }
        Ok(Some(sizes))
    };
    let sizes = measure();
    policy.set_mode(mode);
    sizes.map_err(|e| fault("cannot measure a table", &e))
}

/// A name as SQL quotes it.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
