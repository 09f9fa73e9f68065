//! The state of one node, what every role shares, and the handing out of work.
//!
//! What a role does with a message stands in `follower.rs`, `candidate.rs` and `leader.rs`; how a message reaches a role,
//! in `step.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::confchange::{self, Changer, ConfChangeV2};
use crate::config::{Config, ReadOnly};
use crate::defects::{self, Defect};
use crate::error::Error;
use crate::inflights::InflightLimits;
use crate::log::Log;
use crate::message::{Message, MessageKind};
use crate::progress::Progress;
use crate::read_only::ReadRounds;
use crate::ready::{AppendTicket, PeerProgress, Ready, StableMark, Status};
use crate::storage::{Storage, StorageError};
use crate::tracker::{Configuration, Tracker};
use crate::types::{ConfState, HardState, Index, NodeId, ReadState, Role, SoftState, Term};

/// One node of a Raft group: a state machine over messages and ticks.
///
/// It does no I/O. The host feeds it ([`step`](Raft::step), [`tick`](Raft::tick), [`propose`](Raft::propose)), takes what
/// it wants done ([`ready`](Raft::ready)) and tells it what became of that ([`persisted`](Raft::persisted),
/// [`applied`](Raft::applied)).
#[derive(Debug)]
pub struct Raft<S: Storage> {
    pub(crate) config: Config,
    pub(crate) inflight_limits: InflightLimits,
    pub(crate) term: Term,
    pub(crate) vote: NodeId,
    pub(crate) leader: NodeId,
    pub(crate) role: Role,
    pub(crate) log: Log<S>,
    pub(crate) tracker: Tracker,
    pub(crate) rounds: ReadRounds,
    pub(crate) read_states: Vec<ReadState>,
    /// Whom the leader hands its leadership to, or 0.
    pub(crate) lead_transferee: NodeId,
    /// As leader: no configuration change is proposed while `applied` is below this index.
    pub(crate) pending_conf_index: Index,
    /// As leader: payload bytes of this term's entries that are not applied yet.
    pub(crate) uncommitted_bytes: u64,
    pub(crate) election_elapsed: u32,
    pub(crate) heartbeat_elapsed: u32,
    pub(crate) randomized_election_ticks: u32,
    rng: fastrand::Rng,
    messages: Vec<Message>,
    messages_after_append: Vec<Message>,
    ready_soft_state: SoftState,
    ready_hard_state: HardState,
    tickets: u64,
}

impl<S: Storage> Raft<S> {
    /// A node that starts, or starts again, from what `storage` holds.
    ///
    /// # Errors
    /// [`Error`] if a setting is unusable, the storage cannot be read, or it contradicts itself.
    pub fn new(config: Config, storage: S) -> Result<Self, Error> {
        config.validate()?;
        let (hard_state, conf_state) = storage.initial_state()?;
        let low = storage.first_index().saturating_sub(1);
        let last_index = storage.last_index();
        if hard_state.commit > last_index {
            return Err(Error::CommittedEntriesLost { commit: hard_state.commit, last_index });
        }
        let applied = if config.applied == 0 { low } else { config.applied };
        if applied < low || applied > last_index {
            return Err(Error::AppliedOutOfRange { applied, low, high: last_index });
        }
        // The stored commit index may lag: it is written lazily. What was applied was committed, so it counts as proof.
        let committed = hard_state.commit.max(applied);
        storage.term(last_index)?;
        let (configuration, progress) = confchange::restore(&conf_state, last_index);
        let soft_state = SoftState { leader: 0, role: Role::Follower };
        let mut raft = Raft {
            inflight_limits: InflightLimits {
                messages: config.inflight_messages_max,
                bytes: config.inflight_bytes_max,
            },
            term: hard_state.term,
            vote: hard_state.vote,
            leader: 0,
            role: Role::Follower,
            log: Log::new(storage, committed, applied, config.committed_bytes_per_ready_max),
            tracker: Tracker::new(configuration, progress),
            rounds: ReadRounds::default(),
            read_states: Vec::new(),
            lead_transferee: 0,
            pending_conf_index: 0,
            uncommitted_bytes: 0,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            randomized_election_ticks: config.election_ticks,
            rng: fastrand::Rng::with_seed(config.seed),
            messages: Vec::new(),
            messages_after_append: Vec::new(),
            ready_soft_state: soft_state,
            ready_hard_state: hard_state,
            tickets: 0,
            config,
        };
        let term = raft.term;
        raft.become_follower(term, 0);
        raft.ready_hard_state = raft.hard_state();
        Ok(raft)
    }

    /// Time passes by one tick.
    pub fn tick(&mut self) {
        if self.log.fault().is_some() {
            return;
        }
        match self.role {
            Role::Leader => self.tick_leader(),
            Role::Follower | Role::PreCandidate | Role::Candidate => self.tick_election(),
        }
    }

    /// Sets the election timeout in force until it is drawn anew.
    pub fn set_randomized_election_timeout(&mut self, ticks: u32) {
        self.randomized_election_ticks = ticks.max(1);
    }

    /// Whether [`ready`](Raft::ready) has something to say.
    pub fn has_ready(&self) -> bool {
        let unstable_too = !self.config.async_storage_writes;
        self.soft_state() != self.ready_soft_state
            || self.hard_state() != self.ready_hard_state
            || !self.messages.is_empty()
            || !self.messages_after_append.is_empty()
            || !self.read_states.is_empty()
            || self.log.unstable.next_snapshot().is_some()
            || !self.log.unstable.next_entries().is_empty()
            || (self.log.fault().is_none() && self.log.has_committed_entries(unstable_too))
    }

    /// Takes the work that has piled up. What it returns is not handed out again.
    pub fn ready(&mut self) -> Ready {
        let (soft_state, hard_state) = (self.soft_state(), self.hard_state());
        let entries = self.log.unstable.next_entries().to_vec();
        let snapshot = self.log.unstable.next_snapshot().cloned();
        let committed_entries = self.log.take_committed_entries(!self.config.async_storage_writes);
        let last = self.ready_hard_state;
        let mut ready = Ready {
            soft_state: (soft_state != self.ready_soft_state).then_some(soft_state),
            hard_state: (hard_state != last).then_some(hard_state),
            must_sync: !entries.is_empty() || hard_state.term != last.term || hard_state.vote != last.vote,
            entries,
            snapshot,
            messages: std::mem::take(&mut self.messages),
            messages_after_append: Vec::new(),
            append: None,
            committed_entries,
            read_states: std::mem::take(&mut self.read_states),
        };
        let to_persist = ready.hard_state.is_some() || !ready.entries.is_empty() || ready.snapshot.is_some();
        if to_persist || !self.messages_after_append.is_empty() {
            let me = self.config.id;
            let (own, peers) = std::mem::take(&mut self.messages_after_append).into_iter().partition(|m| m.to == me);
            ready.messages_after_append = peers;
            self.tickets += 1;
            let mark = |e: &crate::types::Entry| StableMark { index: e.index, term: e.term };
            ready.append = Some(AppendTicket {
                sequence: self.tickets,
                term: self.term,
                stable: self.log.unstable.last_entry().map(mark),
                snapshot: ready.snapshot.as_ref().map(|s| s.meta.index),
                self_messages: own,
            });
        }
        self.log.unstable.hand_out();
        self.ready_soft_state = soft_state;
        self.ready_hard_state = hard_state;
        ready
    }

    /// What the ticket's [`Ready`] asked to persist is durable, and all before it.
    pub fn persisted(&mut self, ticket: AppendTicket) {
        for message in ticket.self_messages {
            self.step_own(message);
        }
        // In a later term the entry at that index and term may have been overwritten and written again, so that a
        // receipt of the first writing says nothing about the second. The next receipt covers it.
        // Class 18: a receipt is one, whatever was written in its place since.
        let current = ticket.term == self.term || defects::active(Defect::OverwrittenAppendAcknowledged);
        if let Some(mark) = ticket.stable.filter(|_| current) {
            self.log.stable_to(mark.index, mark.term);
        }
        if let Some(index) = ticket.snapshot {
            self.log.unstable.stable_snapshot_to(index);
            self.applied(index);
        }
    }

    /// Committed entries up to `index` are applied. An index below an earlier one changes nothing.
    pub fn applied(&mut self, index: Index) {
        let payload_bytes = self.log.applied_to(index);
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(payload_bytes);
        self.leave_joint_when_due();
    }

    /// Takes a committed configuration change into force; to be called for each such entry as it is applied, on every
    /// node alike. A change that cannot be applied changes nothing, on every node alike.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> ConfState {
        let changer = Changer {
            configuration: &self.tracker.configuration,
            progress: &self.tracker.progress,
            last_index: self.log.last_index(),
        };
        if let Ok((configuration, progress)) = changer.apply(change) {
            self.tracker.progress = progress;
            self.switch_to(configuration);
        }
        self.conf_state()
    }

    /// The configuration is in force from now on.
    pub(crate) fn switch_to(&mut self, configuration: Configuration) {
        self.tracker.configuration = configuration;
        if self.role == Role::Leader {
            self.after_own_conf_change();
        }
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom this node voted for in the current term, or 0.
    pub fn vote(&self) -> NodeId {
        self.vote
    }

    /// The leader of the current term as far as known, or 0.
    pub fn leader(&self) -> NodeId {
        self.leader
    }

    /// This node's role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The highest index known committed.
    pub fn commit_index(&self) -> Index {
        self.log.committed()
    }

    /// The highest index known applied.
    pub fn applied_index(&self) -> Index {
        self.log.applied()
    }

    /// The last index of the log, durable or not.
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// The term of the entry at `index`, durable or not, as far as the log holds or remembers it.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] or [`StorageError::Unavailable`] where it does not.
    pub fn term_at(&self, index: Index) -> Result<Term, StorageError> {
        self.log.term(index)
    }

    /// The membership in force.
    pub fn conf_state(&self) -> ConfState {
        self.tracker.configuration.to_conf_state()
    }

    /// The membership in force, as sets.
    pub fn configuration(&self) -> &Configuration {
        &self.tracker.configuration
    }

    /// The storage.
    pub fn storage(&self) -> &S {
        self.log.storage()
    }

    /// The storage, for the host that writes what [`ready`](Raft::ready) handed out.
    pub fn storage_mut(&mut self) -> &mut S {
        self.log.storage_mut()
    }

    /// A read of the log that failed for good. The node must stop: the core answers nothing any more.
    pub fn fault(&self) -> Option<&StorageError> {
        self.log.fault()
    }

    /// A picture of the node.
    pub fn status(&self) -> Status {
        let mut progress = BTreeMap::new();
        if self.role == Role::Leader {
            progress.extend(self.tracker.progress.iter().map(|(id, p)| (*id, self.peer_progress(p))));
        }
        Status {
            id: self.config.id,
            hard_state: self.hard_state(),
            soft_state: self.soft_state(),
            applied: self.log.applied(),
            last_index: self.log.last_index(),
            lead_transferee: self.lead_transferee,
            progress,
        }
    }

    fn peer_progress(&self, progress: &Progress) -> PeerProgress {
        PeerProgress {
            match_index: progress.match_index(),
            next_index: progress.next_index(),
            state: progress.state(),
            pending_snapshot: progress.pending_snapshot(),
            recent_active: progress.is_recently_active(),
            is_learner: progress.is_learner(),
            paused: progress.is_paused(),
            inflights: progress.inflights().count(),
            inflights_full: progress.inflights().is_full(&self.inflight_limits),
        }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.committed() }
    }

    pub(crate) fn soft_state(&self) -> SoftState {
        SoftState { leader: self.leader, role: self.role }
    }

    /// Starts a term, or a role within one, with a clean slate.
    pub(crate) fn reset(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.vote = 0;
        }
        self.leader = 0;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        let ticks = self.config.election_ticks;
        self.randomized_election_ticks = ticks + self.rng.u32(0..ticks);
        self.lead_transferee = 0;
        self.tracker.reset_votes();
        let (me, last_index) = (self.config.id, self.log.last_index());
        for (id, progress) in &mut self.tracker.progress {
            let matched = if *id == me { last_index } else { 0 };
            *progress = Progress::at_new_term(matched, last_index + 1, progress.is_learner());
        }
        self.pending_conf_index = 0;
        self.uncommitted_bytes = 0;
        self.rounds.reset();
    }

    pub(crate) fn message(&self, kind: MessageKind, to: NodeId) -> Message {
        Message { term: self.term, ..Message::new(kind, self.config.id, to) }
    }

    /// Queues a message: promises wait for the append, the rest does not.
    pub(crate) fn send(&mut self, message: Message) {
        if message.kind.waits_for_append() {
            self.messages_after_append.push(message);
        } else {
            self.messages.push(message);
        }
    }

    /// Whether this node could win an election: a voter whose log is in place.
    pub(crate) fn is_promotable(&self) -> bool {
        let me = self.tracker.progress.get(&self.config.id);
        me.is_some_and(|p| !p.is_learner()) && self.log.unstable.snapshot().is_none()
    }

    /// Whether a leader is believed alive, so that votes are refused (thesis §4.2.3).
    pub(crate) fn in_lease(&self) -> bool {
        self.config.check_quorum && self.leader != 0 && self.election_elapsed < self.config.election_ticks
    }

    /// Answers a read request, here or at the node that asked.
    pub(crate) fn answer_read(&mut self, from: NodeId, context: Bytes, index: Index) {
        if from == 0 || from == self.config.id {
            self.read_states.push(ReadState { index, context });
        } else {
            let message = self.message(MessageKind::ReadIndexResponse, from);
            self.send(Message { index, context, ..message });
        }
    }

    pub(crate) fn reads_by_lease(&self) -> bool {
        self.config.read_only == ReadOnly::LeaseBased
    }
}
