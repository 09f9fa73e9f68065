//! The host's own tables in `machine.db`, and the sound opening of that file. All names begin with `_telegraft_`.
//!
//! | table | a row is |
//! |---|---|
//! | `_telegraft_meta` | the one row of what moves with every batch: applied index, newest time, newest entropy, index of the newest activation, effect digest, logical bytes of data, commands applied |
//! | `_telegraft_sessions` | an answer that is remembered, by the index of its entry ([`crate::sessions`]) |
//! | `_telegraft_uploads` | a module of which parts are here ([`crate::catalog`]) |
//! | `_telegraft_chunks` | a part of a module, complete or not |
//! | `_telegraft_modules` | a complete module |
//! | `_telegraft_layouts` | the data layout (`schema`) that a module's name last had |
//! | `_telegraft_active` | the active module (one row, or none) |
//! | `_telegraft_limits` | the budgets (one row; none before the first activation) ([`crate::limits`]) |
//! | `_telegraft_activations` | the activations that can be taken back, the newest on top ([`crate::rollback`]) |
//! | `_telegraft_history` | what was done to the machine, by the index of its entry ([`crate::history`]) |
//! | `_telegraft_checkpoints` | a checkpoint, with the effect digest of this replica there, which is not part of the state digest ([`crate::verify`]) |
//! | `_telegraft_reports` | what a replica reported of a checkpoint |
//! | `_telegraft_halted` | why this replica stands still (one row, or none): a host's own matter, so not part of the digest |
//! | `_telegraft_restored` | the snapshot that this state was restored from (one row, or none): a host's own matter, so not part of the digest ([`crate::snapshot`]) |
//!
//! Unsigned 64-bit values are kept as SQLite's signed ones with the same bits. `application_id` is `TGRF`, `user_version`
//! the number of this layout.

use std::{fmt, path::Path};

use rusqlite::{Connection, params};
use telegraft_node::ports::MachineFault;
use telegraft_raft::Index;

use crate::{
    database::Database,
    effects::EffectDigest,
    errors::{fault, is_guests},
};

const APPLICATION_ID: i32 = 0x5447_5246;
const LAYOUT: i32 = 3;

/// Files up to this size are checked whole when they are opened, which takes some tenths of a second; in larger ones
/// damage shows when it is read.
const QUICK_CHECK_BYTES_MAX: u64 = 64 << 20;

const TABLES: &str = "
CREATE TABLE _telegraft_meta(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    applied INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    entropy_high INTEGER NOT NULL,
    entropy_low INTEGER NOT NULL,
    activated INTEGER NOT NULL,
    effects BLOB NOT NULL,
    data_bytes INTEGER NOT NULL,
    commands INTEGER NOT NULL
) STRICT;
INSERT INTO _telegraft_meta VALUES (1, 0, 0, 0, 0, 0, zeroblob(32), 0, 0);
CREATE TABLE _telegraft_sessions(
    at INTEGER PRIMARY KEY,
    client TEXT NOT NULL,
    request INTEGER NOT NULL,
    call BLOB NOT NULL,
    code INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE _telegraft_uploads(
    digest BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    received INTEGER NOT NULL,
    touched INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE _telegraft_chunks(
    digest BLOB NOT NULL,
    start INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (digest, start)
) STRICT;
CREATE TABLE _telegraft_modules(
    digest BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    schema INTEGER NOT NULL,
    size INTEGER NOT NULL,
    uploaded INTEGER NOT NULL,
    activated INTEGER NOT NULL,
    reuse INTEGER NOT NULL,
    engine TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE _telegraft_layouts(
    name TEXT PRIMARY KEY,
    schema INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE _telegraft_active(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    digest BLOB NOT NULL,
    service BLOB NOT NULL
) STRICT;
CREATE TABLE _telegraft_limits(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    fuel INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    sql_steps INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    result_bytes INTEGER NOT NULL,
    reply_bytes INTEGER NOT NULL,
    value_bytes INTEGER NOT NULL,
    database_bytes INTEGER NOT NULL,
    module_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE _telegraft_activations(
    at INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    reuse INTEGER NOT NULL,
    name TEXT NOT NULL,
    schema INTEGER NOT NULL,
    from_schema INTEGER,
    kept INTEGER NOT NULL,
    data_bytes INTEGER NOT NULL,
    commands INTEGER NOT NULL
) STRICT;
CREATE TABLE _telegraft_history(
    at INTEGER PRIMARY KEY,
    time_us INTEGER NOT NULL,
    what TEXT NOT NULL,
    digest BLOB,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    schema INTEGER NOT NULL,
    engine TEXT NOT NULL,
    detail TEXT NOT NULL,
    commands INTEGER NOT NULL
) STRICT;
CREATE TABLE _telegraft_checkpoints(
    at INTEGER PRIMARY KEY,
    voters INTEGER NOT NULL,
    own BLOB NOT NULL
) STRICT;
CREATE TABLE _telegraft_reports(
    at INTEGER NOT NULL,
    host INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (at, host)
) STRICT, WITHOUT ROWID;
CREATE TABLE _telegraft_halted(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    why TEXT NOT NULL
) STRICT;
CREATE TABLE _telegraft_restored(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at INTEGER NOT NULL,
    term INTEGER NOT NULL,
    conf_state BLOB NOT NULL
) STRICT;
";

/// What moves with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Newest entry whose effects are here.
    pub applied: Index,
    /// Newest time of any entry.
    pub time_us: u64,
    /// Of the newest entry.
    pub entropy: (u64, u64),
    /// Index of the newest activation, 0 for none.
    pub activated: Index,
    /// Of all commands so far.
    pub effects: EffectDigest,
    /// Logical bytes of the guest's rows.
    pub data_bytes: u64,
    /// Commands that a guest was asked to apply.
    pub commands: u64,
}

/// Opens `path`, makes the tables where the file is new, and checks that it is what it should be.
pub(crate) fn open(path: &Path) -> Result<Database, MachineFault> {
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    let database = Database::open_writer(path)?;
    let conn = database.host();
    let prepare = || -> rusqlite::Result<Result<(), Unsound>> {
        let (application, layout) = kind(conn)?;
        if application == 0 && layout == 0 && is_empty(conn)? {
            conn.execute_batch(&format!(
                "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {LAYOUT}; {TABLES} COMMIT;"
            ))?;
        }
        check(conn, bytes)
    };
    match prepare() {
        Ok(Ok(())) => Ok(database),
        Ok(Err(why)) => {
            let remedy = match why {
                Unsound::Another => "name another data folder",
                Unsound::Layout(_) => {
                    "run the version that wrote it, or stop this host, move machine.db, machine.db-wal and machine.db-shm \
                     away and start it again; the state is rebuilt from the log"
                }
                Unsound::Damaged(_) => {
                    "stop this host, move machine.db, machine.db-wal and machine.db-shm away and start it again; the \
                     state is rebuilt from the log"
                }
            };
            Err(MachineFault(format!("{} cannot be used: {why}; {remedy}", path.display())))
        }
        Err(error) => Err(fault(&format!("cannot open {}", path.display()), &error)),
    }
}

/// Why a database is none of ours, or not sound.
pub(crate) enum Unsound {
    /// Its application id is not ours.
    Another,
    /// Its layout.
    Layout(i32),
    /// What SQLite found.
    Damaged(String),
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsound::Another => f.write_str("it is another program's database"),
            Unsound::Layout(layout) => {
                write!(f, "it has layout {layout}, and this version of Telegraft reads layout {LAYOUT}")
            }
            Unsound::Damaged(what) => write!(f, "it is damaged ({what})"),
        }
    }
}

/// Whether the database is ours and sound. `bytes`: its size, which says how much of it is checked.
pub(crate) fn check(conn: &Connection, bytes: u64) -> rusqlite::Result<Result<(), Unsound>> {
    let (application, layout) = kind(conn)?;
    if application != APPLICATION_ID {
        return Ok(Err(Unsound::Another));
    }
    if layout != LAYOUT {
        return Ok(Err(Unsound::Layout(layout)));
    }
    if bytes <= QUICK_CHECK_BYTES_MAX {
        // A CHECK constraint may ask for the time of the entry that wrote the row, and now there is no entry.
        conn.pragma_update(None, "ignore_check_constraints", true)?;
        let verdict = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        conn.pragma_update(None, "ignore_check_constraints", false)?;
        let verdict = match verdict {
            // A generated column that cannot be computed is no damage.
            Err(error) if error.sqlite_error_code().is_some_and(is_guests) => "ok".to_owned(),
            verdict => verdict?,
        };
        if verdict != "ok" {
            return Ok(Err(Unsound::Damaged(verdict)));
        }
    }
    Ok(Ok(()))
}

fn kind(conn: &Connection) -> rusqlite::Result<(i32, i32)> {
    Ok((
        conn.pragma_query_value(None, "application_id", |row| row.get(0))?,
        conn.pragma_query_value(None, "user_version", |row| row.get(0))?,
    ))
}

fn is_empty(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

/// Reads what moves with every batch.
pub(crate) fn read_meta(conn: &Connection) -> Result<Meta, MachineFault> {
    let sql = "SELECT applied, time_us, entropy_high, entropy_low, activated, effects, data_bytes, commands FROM _telegraft_meta";
    let read = || {
        conn.prepare_cached(sql)?.query_row([], |row| {
            let u = |i: usize| row.get::<_, i64>(i).map(|v| v as u64);
            Ok(Meta {
                applied: u(0)?,
                time_us: u(1)?,
                entropy: (u(2)?, u(3)?),
                activated: u(4)?,
                effects: row.get(5)?,
                data_bytes: u(6)?,
                commands: u(7)?,
            })
        })
    };
    read().map_err(|e| fault("cannot read the applied index", &e))
}

/// Writes what moves with every batch.
pub(crate) fn write_meta(conn: &Connection, meta: &Meta) -> Result<(), MachineFault> {
    let sql = "UPDATE _telegraft_meta SET applied = ?1, time_us = ?2, entropy_high = ?3, entropy_low = ?4, activated = ?5, \
               effects = ?6, data_bytes = ?7, commands = ?8";
    let (high, low) = meta.entropy;
    let write = || {
        conn.prepare_cached(sql)?.execute(params![
            meta.applied as i64,
            meta.time_us as i64,
            high as i64,
            low as i64,
            meta.activated as i64,
            meta.effects,
            meta.data_bytes as i64,
            meta.commands as i64,
        ])
    };
    write().map(drop).map_err(|e| fault("cannot write the applied index", &e))
}
