//! A plain machine in memory, for worlds without a guest: the commands of the key-value module (`kv.v1`) with the outcomes
//! that the module gives, and the sessions of the real machine. Modules and activations are taken and do nothing: the
//! key-value store is always active.
//!
//! The state outlives its process: a [`PlainDisk`] shares it with the machine that runs. What was not made durable is known
//! by its undoing: for each commit since, what it took the place of. So no commit, and no loss of power, copies the state.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use prost::Message;
use telegraft_node::ports::{Code, Machine, MachineFault, Outcome, Rejection};
use telegraft_proto::{
    internal::{Call, Command, command::Body},
    kv,
};
use telegraft_raft::{Entry, EntryKind, Index, Snapshot, SnapshotMeta};
use telegraft_sandbox::{CLIENT_ID_BYTES_MAX, REMEMBERED};

use super::{MachineDisk, RunningMachine};

mod snapshot;

/// Bytes of a key.
const KEY_BYTES_MAX: usize = 1_024;

/// Bytes of a value.
const VALUE_BYTES_MAX: usize = 65_536;

/// A disk with a plain machine's state.
#[derive(Debug, Default)]
pub struct PlainDisk {
    state: Arc<Mutex<State>>,
}

/// A plain machine's process.
struct PlainMachine {
    state: Arc<Mutex<State>>,
}

/// A hash of one thing in the state, or the sum of such hashes.
type Sum = u64;

#[derive(Clone, Debug)]
struct Pair {
    version: u64,
    value: Bytes,
    /// Of key, version and value.
    hash: Sum,
}

/// An answer that is remembered.
#[derive(Clone, Debug)]
struct Remembered {
    at: Index,
    client: Arc<str>,
    request: u64,
    /// Hash of what was asked for.
    call: Sum,
    outcome: Outcome,
    /// Of all of it.
    hash: Sum,
}

#[derive(Debug, Default)]
struct State {
    applied: Index,
    /// The sum of the hashes of all pairs and remembered answers: it does not depend on the way there, and each entry
    /// moves it by what it changes.
    digest: Sum,
    pairs: BTreeMap<String, Pair>,
    /// Oldest first.
    remembered: VecDeque<Remembered>,
    /// From a request to its index in `remembered`. Never iterated.
    by_request: HashMap<(Arc<str>, u64), Index>,
    restored_from: Option<SnapshotMeta>,
    /// Since the newest durable state.
    commits: Vec<Commit>,
    undo: Vec<Undo>,
}

/// A commit that may be lost.
#[derive(Debug)]
struct Commit {
    /// Before it.
    applied: Index,
    digest: Sum,
    /// Where what undoes it begins.
    undo: usize,
}

/// What undoes a change.
#[derive(Debug)]
enum Undo {
    /// A key's value, or its absence.
    Pair(String, Option<Pair>),
    /// The newest remembered answer was added.
    Remembered,
    /// The oldest was forgotten.
    Forgotten(Remembered),
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MachineDisk for PlainDisk {
    fn open(&mut self) -> Result<Box<dyn RunningMachine>, MachineFault> {
        Ok(Box::new(PlainMachine { state: Arc::clone(&self.state) }))
    }

    fn lose_power(&mut self, rng: &mut fastrand::Rng) {
        let mut state = lock(&self.state);
        // A commit that is there in part is lost whole, as with a WAL.
        let kept = rng.usize(..=state.commits.len());
        state.undo_to(kept);
        state.make_durable();
    }

    fn wipe(&mut self) {
        // A new one: should the old process still run, it keeps the old disk.
        self.state = Arc::default();
    }
}

impl Machine for PlainMachine {
    fn applied_index(&self) -> Index {
        lock(&self.state).applied
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, MachineFault> {
        lock(&self.state).apply(entries)
    }

    fn make_durable(&mut self) -> Result<Index, MachineFault> {
        let mut state = lock(&self.state);
        state.make_durable();
        Ok(state.applied)
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineFault> {
        Ok(lock(&self.state).encode())
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), MachineFault> {
        let mut state = lock(&self.state);
        if snapshot.meta.index <= state.applied {
            return Ok(());
        }
        let mut new = State::decode(&snapshot.data)
            .ok_or_else(|| MachineFault("the snapshot's bytes are no plain machine's state".to_owned()))?;
        if new.applied != snapshot.meta.index {
            let (says, is) = (snapshot.meta.index, new.applied);
            return Err(MachineFault(format!("the snapshot at index {says} holds a state at index {is}")));
        }
        new.restored_from = Some(snapshot.meta.clone());
        *state = new;
        Ok(())
    }

    fn restored_from(&self) -> Option<SnapshotMeta> {
        lock(&self.state).restored_from.clone()
    }
}

impl RunningMachine for PlainMachine {
    fn query(&mut self, method: &str, payload: &[u8]) -> Result<(Index, Outcome), MachineFault> {
        let state = lock(&self.state);
        let outcome = match method {
            "kv.v1.Kv/Get" => answer(payload, |request: kv::GetRequest| state.get(&request)),
            _ => Err(unknown_method("queries", method)),
        };
        Ok((state.applied, outcome))
    }

    fn state_digest(&mut self) -> Result<(Index, String), MachineFault> {
        let state = lock(&self.state);
        Ok((state.applied, format!("{:016x}", state.digest)))
    }
}

impl State {
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, MachineFault> {
        let commit = Commit { applied: self.applied, digest: self.digest, undo: self.undo.len() };
        let old = entries.iter().take_while(|entry| entry.index <= commit.applied).count();
        let new = entries.get(old..).unwrap_or_default();
        if let Some((entry, due)) = new.iter().zip(commit.applied + 1..).find(|(entry, due)| entry.index != *due) {
            let index = entry.index;
            return Err(MachineFault(format!("entry {index} was handed in where entry {due} is due")));
        }
        let mut outcomes = vec![Ok(Bytes::new()); old];
        outcomes.reserve_exact(new.len());
        for entry in new {
            outcomes.push(self.apply_entry(entry));
            self.applied = entry.index;
            self.forget();
        }
        if !new.is_empty() {
            self.commits.push(commit);
        }
        Ok(outcomes)
    }

    fn apply_entry(&mut self, entry: &Entry) -> Outcome {
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return Ok(Bytes::new());
        }
        let Ok(command) = Command::decode(entry.data.clone()) else {
            return refuse(Code::InvalidArgument, "the entry is no command: its bytes cannot be decoded");
        };
        let Some(body) = command.body else {
            return refuse(Code::InvalidArgument, "the command says nothing to do");
        };
        let (client, request) = (command.client_id.as_str(), command.request_id);
        if client.is_empty() {
            return self.run(body);
        }
        if client.len() > CLIENT_ID_BYTES_MAX {
            let message = format!("client_id has {} bytes, over the limit of {CLIENT_ID_BYTES_MAX}", client.len());
            return refuse(Code::InvalidArgument, message);
        }
        let call = body_hash(&body);
        let key = (Arc::from(client), request);
        if let Some(first) = self.by_request.get(&key)
            && let Some(answered) = self.remembered_at(*first)
        {
            if answered.call == call {
                return answered.outcome.clone();
            }
            let message = format!(
                "request {request} of client {client:?} was another call, at index {first}; a new call needs a new request_id"
            );
            return refuse(Code::InvalidArgument, message);
        }
        let outcome = self.run(body);
        let remembered = Remembered::new(entry.index, Arc::clone(&key.0), request, call, outcome.clone());
        self.digest = self.digest.wrapping_add(remembered.hash);
        self.remembered.push_back(remembered);
        self.by_request.insert(key, entry.index);
        self.undo.push(Undo::Remembered);
        outcome
    }

    fn run(&mut self, body: Body) -> Outcome {
        match body {
            Body::Call(Call { method, payload }) => match &*method {
                "kv.v1.Kv/Put" => answer(&payload, |request| self.put(request)),
                "kv.v1.Kv/Delete" => answer(&payload, |request| self.delete(request)),
                "kv.v1.Kv/CompareAndSet" => answer(&payload, |request| self.compare_and_set(request)),
                _ => Err(unknown_method("commands", &method)),
            },
            // There is no module here to install, to bound or to audit.
            _ => Ok(Bytes::new()),
        }
    }

    fn put(&mut self, request: kv::PutRequest) -> Result<kv::PutReply, Rejection> {
        check_key(&request.key)?;
        check_value("value", &request.value)?;
        Ok(self.write(request.key, request.value))
    }

    fn delete(&mut self, request: kv::DeleteRequest) -> Result<kv::DeleteReply, Rejection> {
        check_key(&request.key)?;
        let before = self.set(request.key, None);
        Ok(kv::DeleteReply { existed: before.is_some() })
    }

    fn compare_and_set(&mut self, request: kv::CompareAndSetRequest) -> Result<kv::PutReply, Rejection> {
        let key = &request.key;
        check_key(key)?;
        if let Some(expected) = &request.expected {
            check_value("expected", expected)?;
        }
        check_value("value", &request.value)?;
        let why = match (self.pairs.get(key), &request.expected) {
            (None, None) => None,
            (Some(present), Some(expected)) if present.value == *expected => None,
            (None, Some(_)) => Some(format!("there is no key {key:?}")),
            (Some(Pair { version, .. }), None) => Some(format!("key {key:?} exists, at version {version}")),
            (Some(Pair { version, .. }), Some(_)) => {
                Some(format!("key {key:?} has another value, at version {version}"))
            }
        };
        match why {
            Some(message) => Err(Rejection { code: Code::FailedPrecondition, message }),
            None => Ok(self.write(request.key, request.value)),
        }
    }

    fn get(&self, request: &kv::GetRequest) -> Result<kv::GetReply, Rejection> {
        check_key(&request.key)?;
        match self.pairs.get(&request.key) {
            Some(pair) => Ok(kv::GetReply { value: pair.value.clone(), version: pair.version }),
            None => Err(Rejection { code: Code::NotFound, message: format!("there is no key {:?}", request.key) }),
        }
    }

    fn write(&mut self, key: String, value: Bytes) -> kv::PutReply {
        let version = self.pairs.get(&key).map_or(0, |pair| pair.version) + 1;
        let pair = Pair::new(&key, version, value);
        self.set(key, Some(pair));
        kv::PutReply { version }
    }

    /// Sets or removes a key; what was there.
    fn set(&mut self, key: String, pair: Option<Pair>) -> Option<Pair> {
        if let Some(pair) = &pair {
            self.digest = self.digest.wrapping_add(pair.hash);
        }
        let before = match pair {
            Some(pair) => self.pairs.insert(key.clone(), pair),
            None => self.pairs.remove(&key),
        };
        if let Some(before) = &before {
            self.digest = self.digest.wrapping_sub(before.hash);
        }
        self.undo.push(Undo::Pair(key, before.clone()));
        before
    }

    fn remembered_at(&self, index: Index) -> Option<&Remembered> {
        let i = self.remembered.partition_point(|remembered| remembered.at < index);
        self.remembered.get(i).filter(|remembered| remembered.at == index)
    }

    /// Forgets answers that are too old at the applied index.
    fn forget(&mut self) {
        let through = self.applied.saturating_sub(REMEMBERED);
        while self.remembered.front().is_some_and(|oldest| oldest.at <= through) {
            let Some(oldest) = self.remembered.pop_front() else { return };
            self.digest = self.digest.wrapping_sub(oldest.hash);
            self.by_request.remove(&(Arc::clone(&oldest.client), oldest.request));
            self.undo.push(Undo::Forgotten(oldest));
        }
    }

    fn make_durable(&mut self) {
        self.commits.clear();
        self.undo.clear();
    }

    /// Takes back all but so many of the commits that are not durable.
    fn undo_to(&mut self, kept: usize) {
        let Some(Commit { applied, digest, undo }) = self.commits.drain(kept..).next() else { return };
        for change in self.undo.drain(undo..).rev() {
            match change {
                Undo::Pair(key, Some(pair)) => drop(self.pairs.insert(key, pair)),
                Undo::Pair(key, None) => drop(self.pairs.remove(&key)),
                Undo::Remembered => {
                    if let Some(newest) = self.remembered.pop_back() {
                        self.by_request.remove(&(newest.client, newest.request));
                    }
                }
                Undo::Forgotten(oldest) => {
                    self.by_request.insert((Arc::clone(&oldest.client), oldest.request), oldest.at);
                    self.remembered.push_front(oldest);
                }
            }
        }
        self.applied = applied;
        self.digest = digest;
    }
}

impl Pair {
    fn new(key: &str, version: u64, value: Bytes) -> Pair {
        Pair { hash: hash(&("pair", key, version, &*value)), version, value }
    }
}

impl Remembered {
    fn new(at: Index, client: Arc<str>, request: u64, call: Sum, outcome: Outcome) -> Remembered {
        let (code, text) = parts(&outcome);
        let hash = hash(&("remembered", at, &*client, request, call, code, text));
        Remembered { at, client, request, call, outcome, hash }
    }
}

/// Status code (0 for a reply), and the reply or message.
fn parts(outcome: &Outcome) -> (u64, &[u8]) {
    match outcome {
        Ok(reply) => (0, reply),
        Err(rejection) => (rejection.code as u64, rejection.message.as_bytes()),
    }
}

/// SipHash with fixed keys: the same in every run.
fn hash(value: &impl Hash) -> Sum {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What a request asks for, without its stamps: a retry carries others.
fn body_hash(body: &Body) -> Sum {
    match body {
        Body::Call(call) => hash(&("call", &*call.method, &*call.payload)),
        Body::ModuleChunk(chunk) => hash(&("chunk", chunk.encode_to_vec())),
        Body::Activate(activate) => hash(&("activate", activate.encode_to_vec())),
        other => hash(&("other", Command { body: Some(other.clone()), ..Command::default() }.encode_to_vec())),
    }
}

fn answer<Request: Message + Default, Reply: Message>(
    payload: &[u8],
    handler: impl FnOnce(Request) -> Result<Reply, Rejection>,
) -> Outcome {
    let request = Request::decode(payload).map_err(|error| Rejection {
        code: Code::InvalidArgument,
        message: format!("the request is malformed: {error}"),
    })?;
    Ok(handler(request)?.encode_to_vec().into())
}

fn unknown_method(kind: &str, method: &str) -> Rejection {
    let shown: String = method.chars().take(128).collect();
    Rejection { code: Code::Unimplemented, message: format!("module kv has no method {shown:?} among its {kind}") }
}

fn refuse(code: Code, message: impl Into<String>) -> Outcome {
    Err(Rejection { code, message: message.into() })
}

fn check_key(key: &str) -> Result<(), Rejection> {
    let message = match key.len() {
        0 => format!("key is empty: it must have 1 to {KEY_BYTES_MAX} bytes"),
        1..=KEY_BYTES_MAX => return Ok(()),
        bytes => format!("key has {bytes} bytes: it may have 1 to {KEY_BYTES_MAX}"),
    };
    Err(Rejection { code: Code::InvalidArgument, message })
}

fn check_value(field: &str, value: &[u8]) -> Result<(), Rejection> {
    match value.len() {
        0..=VALUE_BYTES_MAX => Ok(()),
        bytes => Err(Rejection {
            code: Code::InvalidArgument,
            message: format!("{field} has {bytes} bytes: it may have at most {VALUE_BYTES_MAX}"),
        }),
    }
}
