//! What was done to a machine, for those who run it: one line for each entry that changed its module or budgets, was
//! refused that, or raised an alarm. Replicated state; the newest [`KEPT`] lines are kept.

use rusqlite::{Connection, params};
use telegraft_node::ports::MachineFault;
use telegraft_raft::Index;

use crate::{
    catalog::{ModuleRecord, sql},
    module::Digest,
    schema::Meta,
};

/// Lines that are kept.
pub const KEPT: u64 = 1_000;

/// What a line tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Another module is active.
    Activated,
    /// An activation was refused.
    ActivationRefused,
    /// The module before is active again.
    RolledBack,
    /// A rollback was refused.
    RollbackRefused,
    /// Budgets were set.
    LimitsSet,
    /// The audit found that a reused instance did something else than a fresh one.
    ReuseEnded,
    /// Replicas reported different effects.
    ReplicasDiffer,
}

impl Happened {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Happened::Activated => "activated",
            Happened::ActivationRefused => "activation-refused",
            Happened::RolledBack => "rolled-back",
            Happened::RollbackRefused => "rollback-refused",
            Happened::LimitsSet => "limits-set",
            Happened::ReuseEnded => "reuse-ended",
            Happened::ReplicasDiffer => "replicas-differ",
        }
    }
}

/// What makes people look.
const ALARMS: [Happened; 2] = [Happened::ReuseEnded, Happened::ReplicasDiffer];

/// Alarms that are shown.
const ALARMS_SHOWN: usize = 16;

/// A line of a machine's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRecord {
    /// Index of the entry.
    pub index: Index,
    /// Time of the entry, microseconds since the Unix epoch.
    pub time_us: u64,
    /// One of [`Happened`], as it is written.
    pub what: String,
    /// The module concerned, if one is.
    pub digest: Option<Digest>,
    /// Its name, empty where none is concerned or nothing is known of it.
    pub name: String,
    /// Its version, likewise.
    pub version: String,
    /// The version of its data layout, likewise 0.
    pub schema: u32,
    /// The engine it runs on, likewise.
    pub engine: String,
    /// In words.
    pub detail: String,
    /// Commands that the machine had applied by then.
    pub commands: u64,
}

/// Adds a line at the entry that is being applied.
pub(crate) fn add(
    conn: &Connection,
    meta: &Meta,
    what: Happened,
    module: Option<&ModuleRecord>,
    detail: &str,
) -> Result<(), MachineFault> {
    sql("the history", || {
        conn.prepare_cached(
            "INSERT OR REPLACE INTO _telegraft_history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            meta.applied as i64,
            meta.time_us as i64,
            what.as_str(),
            module.map(|m| m.digest.0),
            module.map_or("", |m| &m.name),
            module.map_or("", |m| &m.version),
            module.map_or(0, |m| m.schema),
            module.map_or("", |m| &m.engine),
            detail,
            meta.commands as i64,
        ])?;
        conn.prepare_cached(
            "DELETE FROM _telegraft_history WHERE at <= \
             (SELECT at FROM _telegraft_history ORDER BY at DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([KEPT as i64])
    })
    .map(drop)
}

/// The newest lines, the newest first.
pub(crate) fn newest(conn: &Connection, limit: usize) -> Result<Vec<HistoryRecord>, MachineFault> {
    sql("the history", || {
        let mut statement = conn.prepare_cached(
            "SELECT at, time_us, what, digest, name, version, schema, engine, detail, commands FROM _telegraft_history \
             ORDER BY at DESC LIMIT ?1",
        )?;
        let rows = statement.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok(HistoryRecord {
                index: row.get::<_, i64>(0)? as u64,
                time_us: row.get::<_, i64>(1)? as u64,
                what: row.get(2)?,
                digest: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest),
                name: row.get(4)?,
                version: row.get(5)?,
                schema: row.get(6)?,
                engine: row.get(7)?,
                detail: row.get(8)?,
                commands: row.get::<_, i64>(9)? as u64,
            })
        })?;
        rows.collect()
    })
}

/// What people should know of, the newest first.
pub(crate) fn alarms(conn: &Connection) -> Result<Vec<String>, MachineFault> {
    let is_alarm = |record: &HistoryRecord| ALARMS.iter().any(|alarm| alarm.as_str() == record.what);
    let records = newest(conn, KEPT as usize)?;
    let alarms = records.iter().filter(|record| is_alarm(record)).take(ALARMS_SHOWN);
    Ok(alarms.map(|record| format!("index {}: {}", record.index, record.detail)).collect())
}
