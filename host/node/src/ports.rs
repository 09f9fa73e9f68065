//! The ports of a node: what it asks of the log, the machine and the network, and the values that cross them. Owns no
//! behaviour. Implementations live in their own rooms (`telegraft-log`, `telegraft-sandbox`, the host's network) and in
//! the simulator.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use bytes::Bytes;
use telegraft_raft::{ConfState, Entry, HardState, Index, Snapshot, SnapshotMeta, Storage};

/// What must become durable together, and in the order in which it was handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogWrite {
    /// Term, vote and commit index, where they changed.
    pub hard_state: Option<HardState>,
    /// Consecutive entries; they replace whatever the log holds from the first one's index on.
    pub entries: Vec<Entry>,
    /// A snapshot that the machine has been restored from: the log becomes empty, and begins after the snapshot's index.
    pub snapshot: Option<SnapshotMeta>,
    /// The configuration in force, where it changed.
    pub conf_state: Option<ConfAt>,
    /// Whether an answer waits for this write: it must be on stable storage before `write` returns. A write of a commit
    /// index alone need not.
    pub must_sync: bool,
}

/// A configuration, and the index of the entry (or snapshot) that brought it into force; 0 for the first one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfAt {
    /// In force once the entry at this index is applied.
    pub index: Index,
    /// The members.
    pub conf_state: ConfState,
}

/// The writing half of a log. Owned by one thread.
pub trait LogWriter: Send {
    /// Writes all of `writes`, in order, as one atomic batch, with one sync if any of them asks for it.
    ///
    /// # Errors
    ///
    /// After an error the log is poisoned: every later call fails too, nothing is retried (a failed fsync may have thrown
    /// the dirty pages away), and the node stops.
    fn write(&mut self, writes: &[LogWrite]) -> Result<(), LogFault>;

    /// Drops entries up to and including `through`; `first_index` becomes `through + 1`. The term at `through` is kept.
    fn compact(&mut self, through: Index) -> Result<(), LogFault>;
}

/// The reading half of a log, as the consensus core wants it; cheap to clone, used from any thread. It sees a write once
/// [`LogWriter::write`] has returned.
pub trait LogReader: Storage + Clone + Send + Sync + 'static {
    /// The index of the stored configuration. Entries at or below it must not change the configuration again when they are
    /// applied once more after a restart.
    fn conf_index(&self) -> Index;
}

/// The log can no longer be trusted; the node stops.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("log: {0}")]
pub struct LogFault(pub String);

/// The gRPC status codes an outcome may carry, numbered as gRPC numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// The caller's mistake, whatever the state.
    InvalidArgument = 3,
    /// No such thing.
    NotFound = 5,
    /// There is one already.
    AlreadyExists = 6,
    /// Not allowed to this caller.
    PermissionDenied = 7,
    /// A budget or quota ran out.
    ResourceExhausted = 8,
    /// The state does not allow it (no module active, schema too old).
    FailedPrecondition = 9,
    /// The guest trapped or ran out of fuel.
    Aborted = 10,
    /// Past the end of something.
    OutOfRange = 11,
    /// No such method.
    Unimplemented = 12,
    /// The guest's own defect, as it says.
    Internal = 13,
    /// The command was applied, by an earlier request of the same session; its answer was too long to be kept.
    DataLoss = 15,
    /// Who are you?
    Unauthenticated = 16,
}

/// Why a command or a read was refused: a result, not a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Rejection {
    /// Code for the client.
    pub code: Code,
    /// Message for the client.
    pub message: String,
}

/// What became of one command or read: the reply's bytes, or a rejection.
pub type Outcome = Result<Bytes, Rejection>;

/// The machine's own defect (I/O, corruption, an engine that differs): the node stops. Never a guest's doing.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("machine: {0}")]
pub struct MachineFault(pub String);

/// The writing half of a machine: the state that committed entries make. Owned by one thread.
pub trait Machine: Send {
    /// Index of the newest entry whose effects are in the state. Survives a restart together with the effects.
    fn applied_index(&self) -> Index;

    /// Applies committed entries, consecutive and beginning at `applied_index() + 1`, in one transaction that also moves
    /// the applied index. Entries at or below the applied index are skipped. One outcome for each entry handed in, in
    /// order; for those that carry no command (empty entries of a new leader, configuration changes) an empty reply. Fewer
    /// only where the machine [halts](Machine::halted).
    ///
    /// # Errors
    ///
    /// Only for the host's own defects. A guest's failure is an outcome.
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, MachineFault>;

    /// Makes all that is applied survive a power loss, and says up to which index. Only up to there may the log be
    /// compacted: newer effects may be lost with the power, and the log must have their entries.
    ///
    /// # Errors
    ///
    /// Only for the host's own defects.
    fn make_durable(&mut self) -> Result<Index, MachineFault>;

    /// The whole state at [`Machine::applied_index`], sessions and all, for [`Machine::restore`] on another host.
    ///
    /// # Errors
    ///
    /// Only for the host's own defects.
    fn snapshot(&mut self) -> Result<Bytes, MachineFault>;

    /// Replaces the state by a snapshot's, durably before it returns; a crash on the way leaves the old state or the new
    /// one. The applied index is then the snapshot's. A snapshot at or below the applied index changes nothing.
    ///
    /// # Errors
    ///
    /// The host's own defects, and data that is no state of a machine.
    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), MachineFault>;

    /// The snapshot that the state was last restored from. A host that stops between the restoration and the log's word of
    /// it (see [`LogWrite::snapshot`]) mends the log with this when it starts.
    fn restored_from(&self) -> Option<SnapshotMeta>;

    /// Why the machine applies nothing more, and what to do about it: it would have to guess (another engine than the
    /// activation's), or its state is not that of the other replicas. The host goes on without it: it votes and keeps the
    /// log. [`Machine::apply`] then answers only the entries before the one that it stopped at.
    fn halted(&self) -> Option<String> {
        None
    }

    /// What the machine asks to be proposed, as encoded `telegraft.internal.v1.Command` without stamps, since it was last
    /// asked: its answers to checkpoints, the end of reuse. Each may be lost, or proposed more than once.
    fn take_proposals(&mut self) -> Vec<Bytes> {
        Vec::new()
    }
}

/// Whether a read's answer is still wanted: cancelled by whoever asked for it, at any time and from any thread, and looked at
/// by the machine while it works. There is nothing of the kind for [`Machine::apply`]: what ends an entry must be the same on
/// every replica, and who waits where is not.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// Nobody wants the answer any more.
    pub fn cancel(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether nobody wants the answer any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// The reading half of a machine; shared by the threads that answer reads.
pub trait Queries: Send + Sync {
    /// Runs one read on the newest applied state, and says at which index. Once it is cancelled it ends soon, or does not
    /// begin, and there is no answer.
    ///
    /// # Errors
    ///
    /// Only for the host's own defects. A guest's failure is an outcome.
    fn query_until(
        &self,
        method: &str,
        payload: &[u8],
        cancellation: &Cancellation,
    ) -> Result<Option<(Index, Outcome)>, MachineFault>;

    /// A read that is wanted however long it takes.
    ///
    /// # Errors
    ///
    /// As for [`Queries::query_until`].
    fn query(&self, method: &str, payload: &[u8]) -> Result<(Index, Outcome), MachineFault> {
        let answer = self.query_until(method, payload, &Cancellation::default())?;
        answer.ok_or_else(|| MachineFault("a query was given up that nobody had cancelled".to_owned()))
    }
}
