//! What the core asks of its host: persist this, send that, apply these.
//!
//! The rules, in the order in which they bite:
//!
//! 1. `snapshot`, `entries` and `hard_state` of one [`Ready`] are written together; a crash leaves all or none of them,
//!    and those of an earlier `Ready` are durable no later than those of a later one.
//! 2. `messages` may leave before that; `messages_after_append` only when it is durable.
//! 3. Once it is durable the ticket goes back by [`Raft::persisted`](crate::Raft::persisted), in the order of the `Ready`s.
//! 4. `committed_entries` are applied in order, each once; then [`Raft::applied`](crate::Raft::applied) tells how far.
//!
//! With `async_storage_writes` the next `Ready` may be taken before the tickets of earlier ones came back. Without it,
//! the host calls `persisted` and `applied` before it takes the next.

use crate::message::Message;
use crate::types::{Entry, HardState, Index, NodeId, ReadState, Snapshot, SoftState, Term};

/// One round of work for the host. Nothing in it is handed out a second time.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// Leader or role, where they changed since the last `Ready`. Not durable; no ordering.
    pub soft_state: Option<SoftState>,
    /// Term, vote and commit index, where they changed. Written in one piece with `entries` and `snapshot`.
    pub hard_state: Option<HardState>,
    /// To append to the log. The first may overwrite: drop what the log holds from its index on.
    pub entries: Vec<Entry>,
    /// To install, before `entries` are appended and before anything later is applied. The log before it is void. The
    /// ticket tells the core that the state machine has it: the snapshot's index counts as applied then.
    pub snapshot: Option<Snapshot>,
    /// Whether `hard_state` and `entries` must reach the disk before the ticket goes back: term or vote changed, or there
    /// are entries. When false only the commit index moved, which may be written lazily. A `snapshot` must always be
    /// installed durably before the ticket goes back, whatever this says.
    pub must_sync: bool,
    /// To peers, at any time from now on: a leader's appends need not wait for its own disk (thesis §10.2.1).
    pub messages: Vec<Message>,
    /// To peers, only after this `Ready` and all before it are durable: these make promises (votes, acknowledgements).
    pub messages_after_append: Vec<Message>,
    /// Goes to [`Raft::persisted`](crate::Raft::persisted) once this `Ready` is durable. Present whenever there is
    /// something to persist, or something of ours or of a peer's that waits for what was handed out before.
    pub append: Option<AppendTicket>,
    /// To apply, in order, after `snapshot`. With `async_storage_writes` each is locally durable already; without, some
    /// may be in this very `Ready`'s `entries`, so persist first.
    pub committed_entries: Vec<Entry>,
    /// Reads whose index is now known: serve them once that index is applied.
    pub read_states: Vec<ReadState>,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.soft_state.is_none()
            && self.hard_state.is_none()
            && self.entries.is_empty()
            && self.snapshot.is_none()
            && self.messages.is_empty()
            && self.messages_after_append.is_empty()
            && self.append.is_none()
            && self.committed_entries.is_empty()
            && self.read_states.is_empty()
    }
}

/// Receipt of one append: proof, when it is handed back, that everything up to it is durable.
///
/// It carries what the core owes itself: its own vote and its own acknowledgement, which count only once durable, and the
/// mark up to which the unstable tail may be dropped. The mark holds index, entry term and the term in which the receipt
/// was made out: a receipt from an earlier term proves nothing about the log as it is now, since the entry at the same
/// index and term may have been overwritten and written again in between (the ABA problem).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendTicket {
    pub(crate) sequence: u64,
    pub(crate) term: Term,
    pub(crate) stable: Option<StableMark>,
    pub(crate) snapshot: Option<Index>,
    pub(crate) self_messages: Vec<Message>,
}

/// The last entry handed out so far for persisting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StableMark {
    /// Its index.
    pub index: Index,
    /// Its term.
    pub term: Term,
}

impl AppendTicket {
    /// Position in the row of tickets, from 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The node's term when the ticket was made out.
    pub fn term(&self) -> Term {
        self.term
    }

    /// What the receipt will mark as stable; `None` where no entry waits.
    pub fn stable(&self) -> Option<StableMark> {
        self.stable
    }

    /// The index of the snapshot that this append installs, if it installs one.
    pub fn snapshot_index(&self) -> Option<Index> {
        self.snapshot
    }

    /// The node's messages to itself that take effect with the receipt: own votes, own acknowledgements.
    pub fn self_messages(&self) -> &[Message] {
        &self.self_messages
    }

    /// Whether the receipt changes anything beyond delivering [`Self::self_messages`].
    pub fn confirms_storage(&self) -> bool {
        self.stable.is_some() || self.snapshot.is_some()
    }
}

/// How the leader deals with one member, as [`Status`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Highest index known to match the leader's log.
    pub match_index: Index,
    /// The next index to send.
    pub next_index: Index,
    /// Probing, replicating or waiting for a snapshot.
    pub state: crate::ProgressState,
    /// Index of the snapshot that is on its way; 0 if none.
    pub pending_snapshot: Index,
    /// Whether the member was heard from in the current check-quorum interval.
    pub recent_active: bool,
    /// Whether it is a learner.
    pub is_learner: bool,
    /// Whether sending is held back until the member answers.
    pub paused: bool,
    /// Append messages unanswered.
    pub inflights: usize,
    /// Whether no further append may be in flight.
    pub inflights_full: bool,
}

/// A picture of a core for people and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// Leader and role.
    pub soft_state: SoftState,
    /// Applied up to here.
    pub applied: Index,
    /// Last index of the log.
    pub last_index: Index,
    /// Whom leadership is being handed to; 0 for nobody.
    pub lead_transferee: NodeId,
    /// Members by id; empty unless this node leads.
    pub progress: std::collections::BTreeMap<NodeId, PeerProgress>,
}
