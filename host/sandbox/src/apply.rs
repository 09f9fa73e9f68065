//! The writing half: committed entries become state.
//!
//! A batch is one transaction, which also moves the applied index; an entry is a savepoint in it. An entry that fails is
//! undone alone and its rejection is its outcome. Two things SQLite answers by throwing the whole transaction away (an
//! interrupted writing statement; a guest's ON CONFLICT ROLLBACK): then the batch's entries so far are applied again in a
//! new transaction, which must give the outcomes they gave before, the offender is recorded as failed without being run,
//! and the transaction is committed there. Where batches and transactions end is never visible in the state.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message;
use telegraft_node::ports::{Code, Machine, MachineFault, Outcome, Rejection};
use telegraft_proto::internal::{Activate, Command, command::Body};
use telegraft_raft::{
    Entry, EntryKind, Index, Snapshot, SnapshotMeta,
    defects::{self, Defect},
};

use crate::{
    active::{ActiveModule, Published},
    catalog::{self, ActiveRow},
    database::{Database, fault},
    guest::{Ask, Context, Ended, Guest, rejection},
    limits::Limits,
    module::{BadModule, Digest},
    reader::{Connections, MachineReader},
    restore::{Loaded, load},
    sandbox::{Sandbox, describe},
    schema::{self, Meta},
    sessions::{CLIENT_ID_BYTES_MAX, Sessions, call_hash},
    snapshot,
    store::database_lost,
};

/// Name of the database in a machine's folder.
const DATABASE_FILE: &str = "machine.db";

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
    completed: Vec<Digest>,
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
    published.publish(now.meta.applied, now.active.as_ref());
    let connections = Arc::new(Connections::new(path));
    let reader = MachineReader::new(sandbox.clone(), Arc::clone(&connections), Arc::clone(&published));
    let machine = SqliteMachine {
        sandbox,
        dir: dir.to_owned(),
        database: Some(Box::new(database)),
        sessions,
        committed: now.clone(),
        now,
        restored_from,
        instance: None,
        completed: Vec::new(),
        published,
        connections,
        fault: None,
    };
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
        while !rest.is_empty() {
            let done = self.apply_transaction(rest, &mut outcomes)?;
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(outcomes)
    }

    /// Applies entries until they are all applied or one cost the transaction; says how many.
    fn apply_transaction(&mut self, entries: &[Entry], outcomes: &mut Vec<Outcome>) -> Result<usize, MachineFault> {
        let before = outcomes.len();
        self.execute("BEGIN IMMEDIATE -- _telegraft_")?;
        for (i, entry) in entries.iter().enumerate() {
            let expected = self.now.meta.applied + 1;
            if entry.index != expected {
                return Err(MachineFault(format!(
                    "entry {} was handed in where entry {expected} is due: the log has a gap",
                    entry.index
                )));
            }
            let (outcome, lost) = self.apply_entry(entry, None)?;
            if lost {
                let again = entries.get(..i).unwrap_or_default();
                let first = outcomes.get(before..).unwrap_or_default();
                self.replay(again, first, entry, &outcome)?;
                outcomes.push(outcome);
                self.commit()?;
                return Ok(i + 1);
            }
            outcomes.push(outcome);
        }
        self.commit()?;
        Ok(entries.len())
    }

    /// The transaction is gone: applies `again` once more, and records `offender` as failed with `outcome`.
    fn replay(
        &mut self,
        again: &[Entry],
        first: &[Outcome],
        offender: &Entry,
        outcome: &Outcome,
    ) -> Result<(), MachineFault> {
        let Err(rejection) = outcome else {
            return Err(MachineFault(format!("entry {} lost the transaction and succeeded", offender.index)));
        };
        tracing::info!(
            index = offender.index,
            again = again.len(),
            "an entry cost the transaction; applying the batch again"
        );
        self.now = self.committed.clone();
        self.instance = None;
        self.completed.clear();
        self.sessions.forget_from(self.now.meta.applied + 1);
        self.database()?.after_undo(true)?;
        self.execute("BEGIN IMMEDIATE -- _telegraft_")?;
        for (entry, first) in again.iter().zip(first) {
            let (second, lost) = self.apply_entry(entry, None)?;
            if lost || second != *first {
                return Err(MachineFault(format!(
                    "entry {} gave another outcome when it was applied again: the module or this host is not deterministic",
                    entry.index
                )));
            }
        }
        // The offender's instance is dead; the next entry begins with a new one, as it does on a replica whose transaction
        // began with the offender.
        self.instance = None;
        self.apply_entry(offender, Some(rejection)).map(drop)
    }

    fn commit(&mut self) -> Result<(), MachineFault> {
        let meta = self.now.meta;
        let mut sessions = std::mem::take(&mut self.sessions);
        let conn = self.database()?.host();
        sessions.prune(conn, meta.applied)?;
        if defects::active(Defect::AppliedIndexApart) {
            // The data first, the applied index in a transaction of its own.
            self.execute("COMMIT -- _telegraft_")?;
            self.execute("BEGIN IMMEDIATE -- _telegraft_")?;
        }
        schema::write_meta(self.database()?.host(), &meta)?;
        self.sessions = sessions;
        self.execute("COMMIT -- _telegraft_")?;
        self.committed = self.now.clone();
        self.published.publish(meta.applied, self.committed.active.as_ref());
        for digest in std::mem::take(&mut self.completed) {
            let bytes = catalog::bytes(self.database()?.host(), &digest)?;
            self.sandbox.prepare_in_background(digest, bytes);
        }
        Ok(())
    }

    /// One entry in the open transaction. `failed`: it is known to fail so and is not run. The flag says that the
    /// transaction is gone; then nothing of it was recorded.
    fn apply_entry(&mut self, entry: &Entry, failed: Option<&Rejection>) -> Result<(Outcome, bool), MachineFault> {
        self.now.meta.applied = entry.index;
        self.now.meta.entropy = (0, 0);
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return Ok((Ok(Bytes::new()), false));
        }
        let Ok(command) = Command::decode(entry.data.clone()) else {
            return Ok((refuse(Code::InvalidArgument, "the entry is no command: its bytes cannot be decoded"), false));
        };
        self.now.meta.time_us = self.now.meta.time_us.max(command.time_us);
        self.now.meta.entropy = (command.entropy_high, command.entropy_low);
        let Some(body) = command.body else {
            return Ok((refuse(Code::InvalidArgument, "the command says nothing to do"), false));
        };
        let session = match (command.client_id.as_str(), command.request_id) {
            ("", _) => None,
            (client, _) if client.len() > CLIENT_ID_BYTES_MAX => {
                let message = format!("client_id has {} bytes, over the limit of {CLIENT_ID_BYTES_MAX}", client.len());
                return Ok((refuse(Code::InvalidArgument, message), false));
            }
            (client, request) => Some((client, request, body_hash(&body))),
        };
        if let Some((client, request, hash)) = &session {
            let conn = self.database.as_ref().ok_or_else(database_lost)?.host();
            if let Some(answer) = self.sessions.answer(conn, entry.index, client, *request, hash)? {
                return Ok((answer, false));
            }
        }
        let outcome = match failed {
            Some(rejection) => Err(rejection.clone()),
            None => {
                let (outcome, lost) = self.run_in_savepoint(entry.index, body)?;
                if lost {
                    return Ok((outcome, true));
                }
                outcome
            }
        };
        if let Some((client, request, hash)) = &session {
            let conn = self.database.as_ref().ok_or_else(database_lost)?.host();
            self.sessions.record(conn, entry.index, client, *request, hash, &outcome)?;
        }
        Ok((outcome, false))
    }

    fn run_in_savepoint(&mut self, index: Index, body: Body) -> Result<(Outcome, bool), MachineFault> {
        let active = self.now.active.clone();
        let activated = self.now.meta.activated;
        self.execute("SAVEPOINT _telegraft_entry")?;
        let result = match body {
            Body::Call(call) => self.call(&Ask::Apply { method: &call.method, payload: &call.payload }),
            Body::ModuleChunk(chunk) => self.take_chunk(index, &chunk),
            Body::Activate(activate) => self.activate(index, &activate),
        };
        match result {
            Ok(reply) => {
                self.execute("RELEASE _telegraft_entry")?;
                self.database()?.after_keep();
                Ok((Ok(reply), false))
            }
            Err(Ended::Fault(fault)) => Err(fault),
            Err(Ended::Rejected(rejection)) => {
                self.now.active = active;
                self.now.meta.activated = activated;
                let lost = self.database()?.host().is_autocommit();
                if !lost {
                    self.execute("ROLLBACK TO _telegraft_entry")?;
                    self.execute("RELEASE _telegraft_entry")?;
                    self.database()?.after_undo(false)?;
                }
                Ok((Err(rejection), lost))
            }
        }
    }

    /// Asks the active module.
    fn call(&mut self, ask: &Ask<'_>) -> Result<Bytes, Ended> {
        let Some(active) = self.now.active.clone() else {
            return Err(no_module().into());
        };
        let reused = if active.reuse { self.instance.take() } else { None };
        let guest = match reused {
            Some(guest) => guest,
            None => Guest::instantiate(&active.prepared.pre, active.limits, Arc::clone(&active.label), None)?,
        };
        let mut limits = active.limits;
        if defects::active(Defect::NondeterministicGuest) {
            limits.sql_steps = self.own_budget();
        }
        let (guest, answer) = self.ask(guest, &limits, ask);
        if active.reuse && !guest.is_dead() {
            self.instance = Some(guest);
        }
        answer
    }

    fn ask(&mut self, mut guest: Guest, limits: &Limits, ask: &Ask<'_>) -> (Guest, Result<Bytes, Ended>) {
        let Some(mut database) = self.database.take() else {
            return (guest, Err(database_lost().into()));
        };
        database.enter_guest(limits);
        let (database, answer) = guest.ask(database, context(&self.now.meta), ask);
        self.database = database;
        let answer = match &mut self.database {
            Some(database) => {
                database.leave_guest();
                answer
            }
            None => Err(database_lost().into()),
        };
        (guest, answer)
    }

    /// A budget that is this host's own instead of the activation's. Only for the bug that does so.
    fn own_budget(&self) -> u64 {
        let name =
            self.dir.as_os_str().as_encoded_bytes().iter().fold(0_u64, |sum, byte| sum * 31 % 1009 + u64::from(*byte));
        if (name + self.now.meta.applied).is_multiple_of(16) { 1 } else { Limits::DEFAULT.sql_steps }
    }

    fn take_chunk(&mut self, index: Index, chunk: &telegraft_proto::internal::ModuleChunk) -> Result<Bytes, Ended> {
        if catalog::take_chunk(self.database()?.host(), index, chunk)?
            && let Ok(digest) = Digest::try_from(&*chunk.digest)
        {
            self.completed.push(digest);
        }
        Ok(Bytes::new())
    }

    /// Switches to an uploaded module, running its `init` where its name is new here or its data layout has risen.
    fn activate(&mut self, index: Index, activate: &Activate) -> Result<Bytes, Ended> {
        let digest =
            Digest::try_from(&*activate.digest).map_err(|e| rejection(Code::InvalidArgument, e.to_string()))?;
        let limits = Limits::from(activate.limits.as_ref());
        let conn = self.database.as_ref().ok_or_else(database_lost)?.host();
        let Some(mut record) = catalog::module(conn, &digest)? else {
            let message = format!("no module with digest {digest} is here, or not all of it; upload it first");
            return Err(rejection(Code::NotFound, message).into());
        };
        let prepared =
            self.sandbox.prepare(&digest, || catalog::bytes(conn, &digest))?.map_err(|bad| unusable(&digest, bad))?;
        // From here on the module's own words count: what came with its parts was another host's.
        let (description, service) = describe(&prepared, limits)?.map_err(|bad| unusable(&digest, bad))?;
        record.name = description.name;
        record.version = description.version;
        record.schema = description.schema;
        record.activated_index = index;
        record.reuse = activate.reuse;
        record.active = true;
        let last = catalog::layout(conn, &record.name)?;
        if let Some(last) = last.filter(|last| *last > record.schema) {
            let message = format!(
                "module {} {} has data layout {}, but the data here has layout {last}; activate a version with layout {last} or later",
                record.name, record.version, record.schema
            );
            return Err(rejection(Code::FailedPrecondition, message).into());
        }
        let row = ActiveRow { digest, limits, service: service.bytes.clone() };
        let active = Arc::new(ActiveModule::new(record, limits, service, prepared));
        if last.is_none_or(|last| last < active.record.schema) {
            let guest = Guest::instantiate(&active.prepared.pre, limits, Arc::clone(&active.label), None)?;
            let (_, answer) = self.ask(guest, &limits, &Ask::Init { from_schema: last });
            if let Err(ended) = answer {
                return Err(match ended {
                    Ended::Rejected(Rejection { code, message }) => {
                        rejection(code, format!("the init of module {} failed: {message}", active.label)).into()
                    }
                    fault => fault,
                });
            }
        }
        catalog::activate(self.database()?.host(), &active.record, &row)?;
        tracing::info!(index, module = &*active.label, digest = %digest, "module activated");
        self.now.active = Some(active);
        self.now.meta.activated = index;
        self.instance = None;
        Ok(Bytes::new())
    }

    fn database(&mut self) -> Result<&mut Database, MachineFault> {
        self.database.as_deref_mut().ok_or_else(database_lost)
    }

    /// One of the host's own statements, without parameters or rows.
    fn execute(&mut self, sql: &str) -> Result<(), MachineFault> {
        let conn = self.database()?.host();
        let run = || conn.prepare_cached(sql)?.raw_execute();
        run().map(drop).map_err(|e| fault(&format!("{sql} failed"), &e))
    }
}

fn refuse(code: Code, message: impl Into<String>) -> Outcome {
    Err(rejection(code, message))
}

/// The answer of a machine without a module.
pub(crate) fn no_module() -> Rejection {
    rejection(Code::FailedPrecondition, "no module is active: upload and activate one")
}

/// The context of a call at this point of the log.
pub(crate) fn context(meta: &Meta) -> Context {
    Context { index: meta.applied, time_us: meta.time_us, entropy: meta.entropy }
}

/// Why a module cannot be activated. What its bytes alone decide is a rejection, in words that are the same on every host.
/// Where the engine does not take sound bytes, this host is the odd one (out of memory, say): it stops rather than stay
/// with the old module while the others swap.
fn unusable(digest: &Digest, bad: BadModule) -> Ended {
    match bad {
        BadModule::NotChecked(_) => MachineFault(format!(
            "module {digest} cannot be activated here, though its bytes are sound: {bad}. Is this host out of memory?"
        ))
        .into(),
        BadModule::Invalid(_) | BadModule::WrongTypes(_) => {
            tracing::warn!(%digest, %bad, "a module cannot be activated");
            let why = "it is no valid component for this version of the host; inspect the file for the details";
            rejection(Code::FailedPrecondition, format!("module {digest} cannot be activated: {why}")).into()
        }
        bad => rejection(Code::FailedPrecondition, format!("module {digest} cannot be activated: {bad}")).into(),
    }
}

/// What a request asks for, without its stamps: a retry carries others.
fn body_hash(body: &Body) -> [u8; 16] {
    match body {
        Body::Call(call) => call_hash(&[b"call", call.method.as_bytes(), &call.payload]),
        Body::ModuleChunk(chunk) => call_hash(&[b"chunk", &chunk.encode_to_vec()]),
        Body::Activate(activate) => call_hash(&[b"activate", &activate.encode_to_vec()]),
    }
}
