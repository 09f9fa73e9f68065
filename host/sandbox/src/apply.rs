//! The writing half: committed entries become state.
//!
//! A batch is one transaction, which also moves the applied index; an entry is a savepoint in it. An entry that fails is
//! undone alone and its rejection is its outcome. Two things SQLite answers by throwing the whole transaction away (an
//! interrupted writing statement; a guest's ON CONFLICT ROLLBACK): then the batch's entries so far are applied again in a
//! new transaction ([`crate::replay`]), which must give the outcomes they gave before, the offender is recorded as failed
//! without being run, and the transaction is committed there. Where batches and transactions end is never visible in the
//! state. What an entry says is read in [`crate::entry`]; reused instances are held to fresh ones in [`crate::audit`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rusqlite::{Connection, config::DbConfig};
use telegraft_node::ports::{Code, Machine, MachineFault, Outcome, Rejection};
use telegraft_proto::internal::{EndReuse, command::Body};
use telegraft_raft::{
    Entry, Index, Snapshot, SnapshotMeta,
    defects::{self, Defect},
};

use crate::{
    active::{ActiveModule, Published},
    audit::Audit,
    catalog,
    database::Database,
    effects::{EffectDigest, hash_schema},
    entry::{Decoded, begins_a_transaction, body_hash, replaces_the_data},
    errors::fault,
    guest::{Ask, Cost, Ended, Guest, rejection},
    history,
    limits::Limits,
    module::Digest,
    reader::{Connections, MachineReader},
    restore::{Loaded, load},
    sandbox::Sandbox,
    schema::{self, Meta},
    sessions::{CLIENT_ID_BYTES_MAX, Sessions},
    snapshot,
    store::database_lost,
    verify,
};

/// Name of the database in a machine's folder.
pub(crate) const DATABASE_FILE: &str = "machine.db";

/// The writing half of a machine. Owned by one thread.
pub struct SqliteMachine {
    pub(crate) sandbox: Sandbox,
    pub(crate) dir: PathBuf,
    /// Lent to the guest for the duration of a call.
    pub(crate) database: Option<Box<Database>>,
    pub(crate) sessions: Sessions,
    pub(crate) now: Volatile,
    /// As of the last commit.
    pub(crate) committed: Volatile,
    pub(crate) restored_from: Option<SnapshotMeta>,
    /// The instance of a module whose activation allows reuse.
    pub(crate) instance: Option<Guest>,
    /// Modules completed in the open transaction, to be compiled ahead after it.
    pub(crate) completed: Vec<Digest>,
    /// What the open transaction asks to be proposed.
    pub(crate) asked: Vec<Bytes>,
    /// What committed ones asked for.
    proposals: Vec<Bytes>,
    /// The open transaction raised an alarm.
    pub(crate) alarmed: bool,
    /// The newest checkpoint at which this replica was found right.
    pub(crate) verified: Index,
    /// Why the machine is to stand still once the open transaction is committed.
    pub(crate) halting: Option<String>,
    /// Why it stands still.
    pub(crate) halted: Option<String>,
    /// Entries at which a reused instance cost the transaction, with the digest of how: a fresh one is to run them.
    pub(crate) costly: BTreeMap<Index, Option<EffectDigest>>,
    /// Through this entry no instance is reused.
    pub(crate) fresh_through: Index,
    /// The newest entry at which a reused instance was found to do something else than a fresh one.
    pub(crate) found: Option<EndReuse>,
    /// Kept states may be there that nobody needs.
    pub(crate) states_left: bool,
    /// The last call was a reused instance's that came near its fuel budget or had no room to grow, or that died: whether it
    /// ends so hangs on what the instance has grown into.
    pub(crate) worn: bool,
    pub(crate) died: bool,
    /// What calls took, where somebody wants to know.
    pub(crate) costs: Option<Vec<(Index, Cost)>>,
    /// Only ever in a benchmark.
    pub(crate) undigested: bool,
    pub(crate) published: Arc<Published>,
    /// Those of the readers.
    pub(crate) connections: Arc<Connections>,
    /// After a fault nothing works any more: the state in memory may not be that of the file.
    fault: Option<MachineFault>,
}

/// What entries move besides rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volatile {
    pub meta: Meta,
    pub active: Option<Arc<ActiveModule>>,
    /// None before the first activation, if nobody has set any.
    pub limits: Option<Limits>,
}

/// What became of an entry.
pub(crate) enum Applied {
    /// This.
    Done(Outcome),
    /// It failed so, and cost the transaction; nothing was recorded.
    Lost(Rejection),
    /// Run by a reused instance it cost the transaction; a fresh one, whose word counts, has not run it yet.
    LostByReuse,
}

/// Opens the machine in `dir`, or makes a new one there.
///
/// # Errors
///
/// Where the folder or the database cannot be used, with what to do about it.
pub fn open(sandbox: Sandbox, dir: &Path) -> Result<(SqliteMachine, MachineReader), MachineFault> {
    std::fs::create_dir_all(dir)
        .map_err(|e| MachineFault(format!("cannot make the folder {}: {e}; check its permissions", dir.display())))?;
    snapshot::clear_leftovers(dir)?;
    let path = dir.join(DATABASE_FILE);
    let database = schema::open(&path)?;
    let Loaded { now, sessions, restored_from } = load(&sandbox, &database)?;
    let published = Arc::new(Published::default());
    published.publish(&now.meta, now.active.as_ref());
    published.alarm(history::alarms(database.host())?);
    if verify::is_ignored(dir) {
        tracing::warn!(
            file = verify::IGNORE_FILE,
            "this replica goes on whatever is reported of it, as an operator says"
        );
        verify::go_on(database.host())?;
    }
    let halted = verify::halted(database.host())?;
    let connections = Arc::new(Connections::new(path));
    let reader = MachineReader::new(sandbox.clone(), Arc::clone(&connections), Arc::clone(&published));
    let mut machine = SqliteMachine {
        sandbox,
        dir: dir.to_owned(),
        database: Some(Box::new(database)),
        sessions,
        committed: now.clone(),
        now,
        restored_from,
        instance: None,
        completed: Vec::new(),
        asked: Vec::new(),
        proposals: Vec::new(),
        alarmed: false,
        verified: 0,
        halting: None,
        halted,
        costly: BTreeMap::new(),
        fresh_through: 0,
        found: None,
        states_left: true,
        worn: false,
        died: false,
        costs: None,
        undigested: false,
        published,
        connections,
        fault: None,
    };
    machine.remove_old_states()?;
    Ok((machine, reader))
}

impl Machine for SqliteMachine {
    fn applied_index(&self) -> Index {
        self.committed.meta.applied
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, MachineFault> {
        self.sound()?;
        self.apply_batch(entries).inspect_err(|fault| self.poison(fault))
    }

    fn make_durable(&mut self) -> Result<Index, MachineFault> {
        self.sound()?;
        // A sync that failed is never tried again: the pages that it should have written may be gone.
        let made = self.database()?.make_durable();
        made.inspect_err(|fault| self.poison(fault))?;
        Ok(self.committed.meta.applied)
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineFault> {
        self.sound()?;
        let database = self.database.as_ref().ok_or_else(database_lost)?;
        snapshot::take(database, self.committed.meta.applied, &self.dir)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), MachineFault> {
        self.restore_watched(snapshot, |_, _| ())
    }

    fn restored_from(&self) -> Option<SnapshotMeta> {
        self.restored_from.clone()
    }

    fn halted(&self) -> Option<String> {
        self.halted.clone()
    }

    fn take_proposals(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.proposals)
    }
}

impl SqliteMachine {
    /// The fault that there was, if there was one.
    pub(crate) fn sound(&self) -> Result<(), MachineFault> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// Refuses all work from here on.
    pub(crate) fn poison(&mut self, fault: &MachineFault) {
        self.fault = Some(fault.clone());
        // Gives the file's lock back; what was not committed is gone with it.
        self.instance = None;
        self.database = None;
    }

    pub(crate) fn take_database(&mut self) -> Result<Box<Database>, MachineFault> {
        self.database.take().ok_or_else(database_lost)
    }

    fn apply_batch(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, MachineFault> {
        let mut outcomes = Vec::with_capacity(entries.len());
        let applied = self.committed.meta.applied;
        let new = entries.iter().position(|e| e.index > applied).unwrap_or(entries.len());
        let (old, mut rest) = entries.split_at(new);
        outcomes.extend(old.iter().map(|_| Ok(Bytes::new())));
        while !rest.is_empty() && self.halted.is_none() {
            let done = self.apply_transaction(rest, &mut outcomes)?;
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(outcomes)
    }

    /// Applies entries until they are all applied, or one cost the transaction, or the next one must begin one, or the
    /// machine halts; says how many.
    fn apply_transaction(&mut self, entries: &[Entry], outcomes: &mut Vec<Outcome>) -> Result<usize, MachineFault> {
        let before = outcomes.len();
        let mut open = false;
        let mut done = 0;
        while let Some(entry) = entries.get(done) {
            let expected = self.now.meta.applied + 1;
            if entry.index != expected {
                return Err(MachineFault(format!(
                    "entry {} was handed in where entry {expected} is due: the log has a gap",
                    entry.index
                )));
            }
            let decoded = Decoded::of(entry);
            if let Some(body) = decoded.body() {
                if done > 0 && begins_a_transaction(body) {
                    break;
                }
                if let Some(why) = self.halts_at(body)? {
                    self.halting = Some(why);
                    break;
                }
            }
            if !open {
                open = true;
                self.bind_foreign_keys(!decoded.body().is_some_and(replaces_the_data))?;
                self.execute("BEGIN IMMEDIATE -- _telegraft_")?;
            }
            let outcome = match self.apply_entry(entry, &decoded, None)? {
                Applied::Done(outcome) => outcome,
                lost => {
                    let again = entries.get(..done).unwrap_or_default();
                    if !self.replay(again, outcomes.get(before..).unwrap_or_default(), entry.index)? {
                        outcomes.truncate(before);
                        done = 0;
                        continue;
                    }
                    match lost {
                        Applied::Lost(rejection) => {
                            // The offender's is dead; as on a replica whose transaction began with the offender.
                            self.instance = None;
                            self.apply_entry(entry, &decoded, Some(&rejection))?;
                            outcomes.push(Err(rejection));
                            done += 1;
                            break;
                        }
                        _ => continue,
                    }
                }
            };
            outcomes.push(outcome);
            done += 1;
            // Where instances were not to be trusted, what has come of it is kept.
            let looked_into = entry.index == self.fresh_through || self.costly.contains_key(&entry.index);
            if looked_into || self.halting.is_some() || decoded.body().is_some_and(replaces_the_data) {
                break;
            }
        }
        if open {
            self.commit()?;
            self.bind_foreign_keys(true)?;
        }
        if let Some(why) = self.halting.take() {
            tracing::error!(index = self.now.meta.applied + 1, why, "the machine stands still");
            self.halted = Some(why);
        }
        Ok(done)
    }

    /// Foreign keys hold but where a kept state is put back, table by table. Outside a transaction only.
    fn bind_foreign_keys(&mut self, on: bool) -> Result<(), MachineFault> {
        let conn = self.conn()?;
        let config = DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY;
        let set = || {
            if conn.db_config(config)? == on {
                return Ok(on);
            }
            // It has every statement compiled again, which is to happen outside a guest's count.
            conn.flush_prepared_statement_cache();
            conn.set_db_config(config, on)
        };
        set().map(drop).map_err(|e| fault("cannot switch foreign keys", &e))
    }

    fn commit(&mut self) -> Result<(), MachineFault> {
        let meta = self.now.meta;
        let mut sessions = std::mem::take(&mut self.sessions);
        let conn = self.conn()?;
        sessions.prune(conn, meta.applied)?;
        if defects::active(Defect::AppliedIndexApart) {
            // The data first, the applied index in a transaction of its own.
            self.execute("COMMIT -- _telegraft_")?;
            self.execute("BEGIN IMMEDIATE -- _telegraft_")?;
        }
        schema::write_meta(self.conn()?, &meta)?;
        self.sessions = sessions;
        self.execute("COMMIT -- _telegraft_")?;
        self.database()?.after_commit();
        let switched = meta.activated != self.committed.meta.activated;
        self.committed = self.now.clone();
        if std::mem::take(&mut self.alarmed) {
            let alarms = history::alarms(self.conn()?)?;
            self.published.alarm(alarms);
        }
        self.published.verify(self.verified);
        self.published.publish(&meta, self.committed.active.as_ref());
        if let Some(end) = self.found.take() {
            self.ask_for(Body::EndReuse(end));
        }
        self.proposals.append(&mut self.asked);
        for digest in std::mem::take(&mut self.completed) {
            let bytes = catalog::bytes(self.conn()?, &digest)?;
            self.sandbox.prepare_in_background(digest, bytes);
        }
        self.costly.clear();
        if switched || self.states_left {
            self.remove_old_states()?;
        }
        Ok(())
    }

    /// One entry in the open transaction. `failed`: it is known to fail so and is not run.
    pub(crate) fn apply_entry(
        &mut self,
        entry: &Entry,
        decoded: &Decoded,
        failed: Option<&Rejection>,
    ) -> Result<Applied, MachineFault> {
        let before = self.now.meta;
        self.now.meta.applied = entry.index;
        self.now.meta.entropy = (0, 0);
        let command = match decoded {
            Decoded::Nothing => return Ok(Applied::Done(Ok(Bytes::new()))),
            Decoded::Malformed => {
                let message = "the entry is no command: its bytes cannot be decoded";
                return Ok(Applied::Done(refuse(Code::InvalidArgument, message)));
            }
            Decoded::Command(command) => command,
        };
        self.now.meta.time_us = self.now.meta.time_us.max(command.time_us);
        self.now.meta.entropy = (command.entropy_high, command.entropy_low);
        let Some(body) = &command.body else {
            return Ok(Applied::Done(refuse(Code::InvalidArgument, "the command says nothing to do")));
        };
        let session = match (command.client_id.as_str(), command.request_id) {
            ("", _) => None,
            (client, _) if client.len() > CLIENT_ID_BYTES_MAX => {
                let message = format!("client_id has {} bytes, over the limit of {CLIENT_ID_BYTES_MAX}", client.len());
                return Ok(Applied::Done(refuse(Code::InvalidArgument, message)));
            }
            (client, request) => Some((client, request, body_hash(body))),
        };
        if let Some((client, request, hash)) = &session {
            let conn = self.database.as_ref().ok_or_else(database_lost)?.host();
            if let Some(answer) = self.sessions.answer(conn, entry.index, client, *request, hash)? {
                return Ok(Applied::Done(answer));
            }
        }
        if let Body::Call(_) = body {
            self.now.meta.commands += 1;
        }
        let limits = self.limits();
        let room = i64::try_from(limits.database_bytes.saturating_sub(self.now.meta.data_bytes)).unwrap_or(i64::MAX);
        self.database()?.effects().begin(room);
        let outcome = match failed {
            Some(rejection) => Err(rejection.clone()),
            None => match self.run_in_savepoint(entry.index, body)? {
                Applied::Done(outcome) => outcome,
                lost => {
                    self.now.meta = before;
                    return Ok(lost);
                }
            },
        };
        if let Err(rejection) = &outcome {
            self.record_refusal(body, rejection)?;
        }
        if !matches!(body, Body::Checkpoint(_) | Body::DigestReport(_)) && !self.undigested {
            let database = self.database.as_ref().ok_or_else(database_lost)?;
            let schema = |hasher: &mut blake3::Hasher| hash_schema(database.host(), hasher);
            let chain = self.now.meta.effects;
            self.now.meta.effects = database
                .effects()
                .digest(&chain, entry.index, &outcome, schema)
                .map_err(|e| fault("cannot read the schema", &e))?;
        }
        if let Some((client, request, hash)) = &session {
            let conn = self.database.as_ref().ok_or_else(database_lost)?.host();
            self.sessions.record(conn, entry.index, client, *request, hash, &outcome)?;
        }
        Ok(Applied::Done(outcome))
    }

    fn run_in_savepoint(&mut self, index: Index, body: &Body) -> Result<Applied, MachineFault> {
        let before = self.now.clone();
        self.execute("SAVEPOINT _telegraft_entry")?;
        let mut reused = false;
        let result = match body {
            Body::Call(call) => {
                let ask = Ask::Apply { method: &call.method, payload: &call.payload };
                match self.audit(index, &ask)? {
                    Audit::Lost(rejection) => return self.cost_by_reuse(index, rejection),
                    Audit::None => {
                        reused = self.reuses(index) && self.instance.is_some();
                        match self.call(&ask, true) {
                            Err(Ended::Fault(fault)) => return Err(fault),
                            _ if (self.worn || self.died) && self.undo()? => {
                                reused = false;
                                self.execute("SAVEPOINT _telegraft_entry")?;
                                self.call(&ask, false)
                            }
                            result => result,
                        }
                    }
                    Audit::Ran(digest) => {
                        let result = self.call(&ask, false);
                        self.compare(index, digest, &result)?;
                        result
                    }
                }
            }
            Body::ModuleChunk(chunk) => self.take_chunk(index, chunk),
            Body::Activate(activate) => self.activate(index, activate),
            Body::SetLimits(set) => self.set_limits(set),
            Body::Rollback(rollback) => self.roll_back(index, rollback),
            Body::EndReuse(end) => self.end_reuse(end),
            Body::Checkpoint(checkpoint) => self.checkpoint(index, checkpoint),
            Body::DigestReport(report) => self.take_report(report),
        };
        let result = match result {
            Ok(_) if self.database()?.violates_foreign_keys() => {
                Err(rejection(Code::FailedPrecondition, "the command leaves a deferred foreign key violated").into())
            }
            result => result,
        };
        match result {
            Ok(reply) => {
                self.execute("RELEASE _telegraft_entry")?;
                let grown = self.database()?.effects().grown();
                self.now.meta.data_bytes = self.now.meta.data_bytes.saturating_add_signed(grown);
                Ok(Applied::Done(Ok(reply)))
            }
            Err(Ended::Fault(fault)) => Err(fault),
            Err(Ended::Rejected(rejection)) => {
                let undone = self.undo()?;
                self.now = before;
                Ok(match undone {
                    true => Applied::Done(Err(rejection)),
                    false if reused => self.cost_by_reuse(index, rejection)?,
                    false => Applied::Lost(rejection),
                })
            }
        }
    }

    /// Undoes the open entry and ends its savepoint; false where the whole transaction is gone.
    pub(crate) fn undo(&mut self) -> Result<bool, MachineFault> {
        self.database()?.effects().forget();
        if self.conn()?.is_autocommit() {
            return Ok(false);
        }
        self.execute("ROLLBACK TO _telegraft_entry")?;
        self.execute("RELEASE _telegraft_entry")?;
        self.database()?.after_undo(false)?;
        Ok(true)
    }

    pub(crate) fn database(&mut self) -> Result<&mut Database, MachineFault> {
        self.database.as_deref_mut().ok_or_else(database_lost)
    }

    /// The connection, for the host's own statements.
    pub(crate) fn conn(&self) -> Result<&Connection, MachineFault> {
        Ok(self.database.as_ref().ok_or_else(database_lost)?.host())
    }

    /// One of the host's own statements, without parameters or rows.
    pub(crate) fn execute(&mut self, sql: &str) -> Result<(), MachineFault> {
        let conn = self.conn()?;
        let run = || conn.prepare_cached(sql)?.raw_execute();
        run().map(drop).map_err(|e| fault(&format!("{sql} failed"), &e))
    }
}

fn refuse(code: Code, message: impl Into<String>) -> Outcome {
    Err(rejection(code, message))
}
