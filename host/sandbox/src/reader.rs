//! The reading half: queries beside apply, on connections that cannot write, and what the server wants to know.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use telegraft_node::ports::{Cancellation, Code, MachineFault, Outcome, Queries, Rejection};
use telegraft_raft::Index;

use crate::{
    active::{ActiveModule, Published},
    administer,
    calls::{context, no_module},
    catalog::{self, ModuleRecord},
    database::Database,
    errors::fault,
    guest::{Ask, Context, Ended, Guest, rejection},
    history::{self, HistoryRecord},
    limits::Limits,
    sandbox::Sandbox,
    schema::{self, Meta},
    state_digest,
    store::database_lost,
};

/// Connections kept open while nobody reads.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// How long a read waits for an activation that is committed and not yet published: a moment.
const PUBLICATION_WAIT: Duration = Duration::from_secs(10);

/// The reading half of a machine. Cheap to clone, used by any number of threads; a bounded number of queries run at a
/// time, the others wait.
#[derive(Clone)]
pub struct MachineReader {
    inner: Arc<Inner>,
}

struct Inner {
    sandbox: Sandbox,
    published: Arc<Published>,
    connections: Arc<Connections>,
}

/// The readers' connections, shared with the writing half, which closes them all when it replaces the database.
pub(crate) struct Connections {
    path: PathBuf,
    /// Held by each read while it has a connection.
    gate: RwLock<()>,
    #[allow(clippy::vec_box, reason = "a guest is lent the box, so the connection never moves")]
    idle: Mutex<Vec<Box<Database>>>,
}

impl Connections {
    pub(crate) fn new(path: PathBuf) -> Self {
        Connections { path, gate: RwLock::default(), idle: Mutex::default() }
    }

    /// The database file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the reads that are running, closes all connections, and lets no read begin while the guard lives.
    pub(crate) fn keep_out(&self) -> RwLockWriteGuard<'_, ()> {
        let alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        alone
    }

    /// To be held from before a connection is taken until after it is given back.
    fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Box<Database>, MachineFault> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(database) => Ok(database),
            None => Database::open_reader(&self.path).map(Box::new),
        }
    }

    fn give_back(&self, database: Box<Database>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(database);
        }
    }
}

impl MachineReader {
    pub(crate) fn new(sandbox: Sandbox, connections: Arc<Connections>, published: Arc<Published>) -> Self {
        MachineReader { inner: Arc::new(Inner { sandbox, published, connections }) }
    }

    /// Index of the newest entry that is committed to the database and visible to readers.
    #[must_use]
    pub fn applied_index(&self) -> Index {
        self.inner.published.applied()
    }

    /// The active module as of about [`MachineReader::applied_index`]. Cheap.
    #[must_use]
    pub fn active(&self) -> Option<Arc<ActiveModule>> {
        self.inner.published.active()
    }

    /// Rises whenever [`MachineReader::active`] changes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.published.generation()
    }

    /// All modules that are complete, in the order in which they were.
    ///
    /// # Errors
    ///
    /// Only for the host's own defects.
    pub fn modules(&self) -> Result<Vec<ModuleRecord>, MachineFault> {
        self.read(|database, _| catalog::modules(database.host()))
    }

    /// SHA-256 over all data that entries decide (see [`crate::state_digest`] for what that is), in hexadecimal, and the
    /// index it holds at. Equal data gives an equal digest on every replica, however the file lies on disk. Reads
    /// everything: some 0.2 seconds for 100 MB.
    ///
    /// # Errors
    ///
    /// Only for the host's own defects.
    pub fn state_digest(&self) -> Result<(Index, String), MachineFault> {
        self.read(|database, meta| state_digest::compute(database.host(), &meta).map(|digest| (meta.applied, digest)))
    }

    /// The machine's budgets, the logical bytes of its data, and the index at which that is so.
    ///
    /// # Errors
    ///
    /// Only for the host's own defects.
    pub fn limits(&self) -> Result<(Index, Limits, u64), MachineFault> {
        self.read(|database, meta| {
            let limits = catalog::limits(database.host())?.unwrap_or(Limits::DEFAULT);
            Ok((meta.applied, limits, meta.data_bytes))
        })
    }

    /// The module that a rollback would go back to, if there is one.
    ///
    /// # Errors
    ///
    /// Only for the host's own defects.
    pub fn module_before(&self) -> Result<Option<ModuleRecord>, MachineFault> {
        self.read(|database, _| match administer::module_before(database.host())? {
            Some(digest) => catalog::module(database.host(), &digest),
            None => Ok(None),
        })
    }

    /// The newest lines of the machine's history, the newest first.
    ///
    /// # Errors
    ///
    /// Only for the host's own defects.
    pub fn history(&self, limit: usize) -> Result<Vec<HistoryRecord>, MachineFault> {
        self.read(|database, _| history::newest(database.host(), limit))
    }

    /// The digest of all commands' effects ([`crate::effects`]), and the index up to which. Equal on all replicas at one
    /// index. Cheap.
    #[must_use]
    pub fn effect_digest(&self) -> (Index, [u8; 32]) {
        self.inner.published.effects()
    }

    /// The newest checkpoint at which more than half of the voters had this replica's effect digest; 0 for none since the
    /// start. Cheap.
    #[must_use]
    pub fn verified_index(&self) -> Index {
        self.inner.published.verified()
    }

    /// What people should know of the machine, the newest first. Cheap.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        self.inner.published.alarms().to_vec()
    }

    /// The machine's folder.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.inner.connections.path().parent()
    }

    /// Runs `on` in a read transaction. After an error the connection is not used again.
    pub(crate) fn read<T>(
        &self,
        on: impl FnOnce(&Database, Meta) -> Result<T, MachineFault>,
    ) -> Result<T, MachineFault> {
        let connections = &*self.inner.connections;
        let _entered = connections.enter();
        let database = connections.take()?;
        let meta = begin(&database)?;
        let result = on(&database, meta)?;
        end(&database)?;
        connections.give_back(database);
        Ok(result)
    }
}

/// Begins a read transaction; what is read in it is the state as of the index returned.
fn begin(database: &Database) -> Result<Meta, MachineFault> {
    execute(database, "BEGIN -- _telegraft_")?;
    schema::read_meta(database.host())
}

fn end(database: &Database) -> Result<(), MachineFault> {
    execute(database, "COMMIT -- _telegraft_")
}

fn execute(database: &Database, sql: &str) -> Result<(), MachineFault> {
    let run = || database.host().prepare_cached(sql)?.raw_execute();
    run().map(drop).map_err(|e| fault(&format!("{sql} failed on a reading connection"), &e))
}

impl Queries for MachineReader {
    fn query_until(
        &self,
        method: &str,
        payload: &[u8],
        cancellation: &Cancellation,
    ) -> Result<Option<(Index, Outcome)>, MachineFault> {
        let inner = &*self.inner;
        let Some(_slot) = inner.sandbox.query_slot(cancellation) else {
            return Ok(None);
        };
        let _entered = inner.connections.enter();
        let answer = inner.answer(method, payload, cancellation)?;
        // Where it was cut short tells nothing of the module.
        Ok(answer.filter(|_| !cancellation.is_cancelled()))
    }
}

impl Inner {
    /// A query's answer, if it was not cancelled before it began. After an error the connection is not used again.
    fn answer(
        &self,
        method: &str,
        payload: &[u8],
        cancellation: &Cancellation,
    ) -> Result<Option<(Index, Outcome)>, MachineFault> {
        let mut database = self.connections.take()?;
        let begun = Instant::now();
        let (meta, active) = loop {
            if cancellation.is_cancelled() {
                self.connections.give_back(database);
                return Ok(None);
            }
            let meta = begin(&database)?;
            database.see_schema()?;
            let active = self.published.active();
            let published = active.as_ref().map_or(0, |active| active.record.activated_index);
            if published == meta.activated {
                break (meta, active);
            }
            // Caught between the commit of an activation and its publication: look again.
            end(&database)?;
            if begun.elapsed() > PUBLICATION_WAIT {
                return Err(MachineFault(format!(
                    "the module activated at index {} was not published to readers",
                    meta.activated
                )));
            }
            std::thread::yield_now();
        };
        let outcome = match active {
            None => Err(no_module()),
            Some(active) => match other_engine(&active.record, self.sandbox.engine_name()) {
                Some(rejection) => Err(rejection),
                None => {
                    let (back, outcome) = ask(&active, database, context(&meta), method, payload, cancellation)?;
                    database = back;
                    outcome
                }
            },
        };
        end(&database)?;
        self.connections.give_back(database);
        Ok(Some((meta.applied, outcome)))
    }
}

/// Asks a fresh instance.
fn ask(
    active: &ActiveModule,
    mut database: Box<Database>,
    context: Context,
    method: &str,
    payload: &[u8],
    cancellation: &Cancellation,
) -> Result<(Box<Database>, Outcome), MachineFault> {
    let answer = match Guest::instantiate(&active.prepared, active.limits, Arc::clone(&active.label), None) {
        Ok(mut guest) => {
            database.enter_query(&active.limits, &context, cancellation);
            let (back, answer) = guest.ask(database, context, &Ask::Query { method, payload });
            database = back.ok_or_else(database_lost)?;
            database.leave_guest();
            answer
        }
        Err(ended) => Err(ended),
    };
    match answer {
        Ok(reply) => Ok((database, Ok(reply))),
        Err(Ended::Rejected(rejection)) => Ok((database, Err(rejection))),
        Err(Ended::Fault(fault)) => Err(fault),
    }
}

/// Why a module that was activated for another engine is not asked.
pub(crate) fn other_engine(record: &ModuleRecord, own: &str) -> Option<Rejection> {
    (record.engine != own).then(|| {
        let message = format!(
            "module {} {} was activated for the engine [{}], and this host has [{own}]: it does not guess. Run the version of \
             Telegraft with that engine here; how a cluster goes over to a new one is told in docs/versions.md",
            record.name, record.version, record.engine
        );
        rejection(Code::FailedPrecondition, message)
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use telegraft_node::ports::Machine;
    use telegraft_proto::internal::{Activate, Command, ModuleChunk, command::Body};
    use telegraft_raft::{Entry, EntryKind};

    use super::*;
    use crate::{Digest, SandboxOptions, open};

    /// Between the commit of an activation and its publication a reader sees the new data and the old module (here: none).
    #[test]
    fn a_read_waits_for_an_activation_that_is_committed_and_not_yet_published() {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(SandboxOptions::new(folder.path().join("cache"))).unwrap();
        let (mut machine, reader) = open(sandbox.clone(), folder.path()).unwrap();
        let digest = bytes::Bytes::copy_from_slice(&Digest::of(telegraft_modules::KV).0);
        let data = bytes::Bytes::from_static(telegraft_modules::KV);
        let bodies = [
            Body::ModuleChunk(ModuleChunk {
                digest: digest.clone(),
                size: data.len() as u64,
                data,
                ..Default::default()
            }),
            Body::Activate(Activate { digest, ..Default::default() }),
        ];
        for (body, index) in bodies.into_iter().zip(1..) {
            let data = Command { body: Some(body), ..Default::default() }.encode_to_vec().into();
            machine.apply(&[Entry { term: 1, index, kind: EntryKind::Normal, data }]).unwrap()[0].as_ref().unwrap();
        }
        let late = Arc::new(Published::default());
        let connections = Arc::new(Connections::new(folder.path().join("machine.db")));
        let waiting = MachineReader::new(sandbox, connections, Arc::clone(&late));
        let (send, answered) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || send.send(waiting.query("no such method", b"").unwrap()).unwrap());
        assert!(answered.recv_timeout(Duration::from_millis(300)).is_err(), "it answered without the module");
        let meta = Meta { applied: 2, ..Meta::default() };
        late.publish(&meta, reader.active().as_ref());
        let (index, outcome) = answered.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(index, 2);
        assert_eq!(outcome.unwrap_err().code, telegraft_node::ports::Code::Unimplemented);
        thread.join().unwrap();
    }
}
