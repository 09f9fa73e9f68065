//! The leader: proposals, commitment, heartbeats, the check of its quorum, transfer of leadership, reads.
//!
//! How it brings one follower's log up to its own stands in `replication.rs`.

use bytes::Bytes;

use crate::confchange::{Changer, ConfChange, ConfChangeV2};
use crate::defects::{self, Defect};
use crate::error::ProposeError;
use crate::message::{Message, MessageKind};
use crate::progress::{Progress, ProgressState};
use crate::quorum;
use crate::raft::Raft;
use crate::read_only::ReadRequest;
use crate::storage::Storage;
use crate::types::{Entry, EntryKind, Index, NodeId, Role, payloads_size};

impl<S: Storage> Raft<S> {
    pub(crate) fn become_leader(&mut self) {
        self.reset(self.term);
        self.leader = self.config.id;
        self.role = Role::Leader;
        if let Some(me) = self.tracker.progress.get_mut(&self.config.id) {
            me.become_replicate();
            me.set_recently_active(true);
        }
        // The tail inherited may hold a configuration change that is not applied: assume so until it is.
        self.pending_conf_index = self.log.last_index();
        // An entry of its own term is what lets a leader commit the tail it inherited (Raft §5.4.2, §8).
        self.append_own(vec![(EntryKind::Normal, Bytes::new())]);
        self.broadcast_append();
    }

    pub(crate) fn tick_leader(&mut self) {
        self.heartbeat_elapsed = self.heartbeat_elapsed.saturating_add(1);
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            self.tracker.progress.values_mut().for_each(Progress::age_snapshot);
            if self.config.check_quorum {
                self.check_quorum();
            }
            // The transferee had the time of an election: give up, and take proposals again.
            // Class 37: the leader waits for the transferee for ever.
            if self.lead_transferee != 0 && !defects::active(Defect::TransferNeverTimesOut) {
                self.lead_transferee = 0;
                // The transfer may have kept it from leaving a joint configuration, and in a group at rest nothing else
                // would remind it.
                self.leave_joint_when_due();
            }
        }
        if self.role == Role::Leader && self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.broadcast_heartbeat();
        }
    }

    /// Steps down if no quorum was heard from since the last check (thesis §6.2).
    fn check_quorum(&mut self) {
        let me = self.config.id;
        if let Some(progress) = self.tracker.progress.get_mut(&me) {
            progress.set_recently_active(true);
        }
        // Class 34: whom nobody answers leads on, and keeps those who hear it from electing another.
        if !self.tracker.quorum_active() && !defects::active(Defect::NoPreVote) {
            self.become_follower(self.term, 0);
            return;
        }
        for (id, progress) in &mut self.tracker.progress {
            progress.set_recently_active(*id == me);
        }
    }

    pub(crate) fn step_leader(&mut self, m: Message) {
        match m.kind {
            MessageKind::AppendResponse => self.handle_append_response(&m),
            MessageKind::HeartbeatResponse => self.handle_heartbeat_response(&m),
            _ => {}
        }
    }

    /// Proposes payloads for the state machine, as consecutive entries that are broadcast together. Returns the index of
    /// the first. None is appended if the limit of the uncommitted tail forbids it.
    ///
    /// # Errors
    /// [`ProposeError`]. `Forwarded`: on a follower with `proposal_forwarding` it was sent on, its fate is not known here.
    pub fn propose(&mut self, data: Vec<Bytes>) -> Result<Index, ProposeError> {
        self.propose_entries(self.config.id, data.into_iter().map(|data| (EntryKind::Normal, data)).collect())
    }

    /// Proposes a change of the configuration. Returns its index.
    ///
    /// # Errors
    /// As [`propose`](Raft::propose). A leader that refuses the change itself appends an empty entry in its place (see
    /// [`ProposeError::left_an_empty_entry`]).
    pub fn propose_conf_change(&mut self, change: impl Into<ConfChange>) -> Result<Index, ProposeError> {
        let (kind, data) = change.into().encode();
        self.propose_entries(self.config.id, vec![(kind, data)])
    }

    pub(crate) fn propose_entries(
        &mut self,
        from: NodeId,
        mut entries: Vec<(EntryKind, Bytes)>,
    ) -> Result<Index, ProposeError> {
        if self.log.fault().is_some() {
            return Err(ProposeError::Stopped);
        }
        if entries.is_empty() {
            return Err(ProposeError::Empty);
        }
        if self.role != Role::Leader {
            return Err(self.forward_proposal(from, entries));
        }
        if !self.tracker.progress.contains_key(&self.config.id) {
            return Err(ProposeError::NotInConfiguration);
        }
        if self.lead_transferee != 0 {
            return Err(ProposeError::Transferring);
        }
        let payload: u64 = entries.iter().map(|(_, data)| data.len() as u64).sum();
        if !self.has_room_for(payload) {
            return Err(ProposeError::TooManyUncommitted);
        }
        let mut refused = None;
        let mut at = self.log.last_index();
        for (kind, data) in &mut entries {
            at += 1;
            if *kind == EntryKind::Normal {
                continue;
            }
            match self.admit_conf_change(*kind, data) {
                Ok(()) => self.pending_conf_index = at,
                Err(error) => {
                    refused = Some(error);
                    (*kind, *data) = (EntryKind::Normal, Bytes::new());
                }
            }
        }
        let first = self.append_own(entries);
        self.broadcast_append();
        refused.map_or(Ok(first), Err)
    }

    fn forward_proposal(&mut self, from: NodeId, entries: Vec<(EntryKind, Bytes)>) -> ProposeError {
        match (self.role, self.leader) {
            (Role::Follower, 0) | (Role::Candidate | Role::PreCandidate, _) => ProposeError::NoLeader,
            // Never back to where it came from: two nodes that take each other for the leader would play ball.
            (_, leader) if !self.config.proposal_forwarding || leader == from => ProposeError::NotLeader,
            (_, leader) => {
                let entries = entries.into_iter().map(|(kind, data)| Entry { term: 0, index: 0, kind, data }).collect();
                self.send(Message { entries, ..Message::new(MessageKind::Propose, from, leader) });
                ProposeError::Forwarded
            }
        }
    }

    /// One configuration change at a time, and only one that can be applied when its turn comes (thesis §4.1).
    fn admit_conf_change(&self, kind: EntryKind, data: &Bytes) -> Result<(), ProposeError> {
        let change = ConfChangeV2::decode(&Entry { term: 0, index: 0, kind, data: data.clone() })?;
        if !self.config.conf_change_validation {
            return Ok(());
        }
        let configuration = &self.tracker.configuration;
        let leaves = change.changes.is_empty();
        // Class 2: the next change is taken in while the last is not applied, perhaps not even committed.
        if self.pending_conf_index > self.log.applied() && !defects::active(Defect::ChangesWithoutWaiting) {
            return Err(ProposeError::ConfChangePending);
        }
        // Class 39: no change while a member waits for a snapshot, be it the very one to remove.
        let waits = |p: &Progress| p.state() == ProgressState::Snapshot || p.match_index() + 1 < self.log.first_index();
        if defects::active(Defect::SnapshotBlocksChange) && self.tracker.progress.values().any(waits) {
            return Err(ProposeError::ConfChangePending);
        }
        if configuration.is_joint() && !leaves {
            return Err(ProposeError::ConfChangeInJoint);
        }
        if !configuration.is_joint() && leaves {
            return Err(ProposeError::ConfChangeNotJoint);
        }
        let progress = &self.tracker.progress;
        let changer = Changer { configuration, progress, last_index: self.log.last_index() };
        changer.apply(&change).map(drop).map_err(ProposeError::ConfChangeInvalid)
    }

    /// Bounds what may be lost, and held in memory, if commitment stalls. One proposal always fits, whatever its size.
    fn has_room_for(&self, payload: u64) -> bool {
        let wanted = self.uncommitted_bytes.saturating_add(payload);
        self.uncommitted_bytes == 0 || payload == 0 || wanted <= self.config.uncommitted_bytes_max
    }

    /// Appends entries of the own term; the own acknowledgement follows once they are durable.
    fn append_own(&mut self, entries: Vec<(EntryKind, Bytes)>) -> Index {
        let first = self.log.last_index() + 1;
        let term = self.term;
        let numbered = entries.into_iter().zip(first..);
        let entries: Vec<Entry> = numbered.map(|((kind, data), index)| Entry { term, index, kind, data }).collect();
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_add(payloads_size(&entries));
        self.log.append(&entries);
        let acknowledgement = self.message(MessageKind::AppendResponse, self.config.id);
        self.send(Message { index: self.log.last_index(), ..acknowledgement });
        // Class 5: with nobody else to wait for, it does not wait for its own disk either.
        if defects::active(Defect::AloneCommitsBeforeSync) && self.tracker.is_single_voter(self.config.id) {
            let last_index = self.log.last_index();
            self.tracker.progress.get_mut(&self.config.id).map(|me| me.acknowledge(last_index));
            self.maybe_commit();
        }
        first
    }

    /// Commits what a quorum holds, if the last of it is of the own term (Raft §5.4.2, figure 8).
    pub(crate) fn maybe_commit(&mut self) -> bool {
        let mut index = self.tracker.committed_index();
        let me = self.config.id;
        // Class 16: who is removed goes on counting itself among the voters.
        if defects::active(Defect::RemovedLeaderCountsItself) && !self.tracker.configuration.is_voter(me) {
            let (mut voters, durable) = (self.tracker.configuration.voters.clone(), self.log.unstable.offset() - 1);
            voters.insert(me);
            let of = |id| self.tracker.progress.get(&id).map(Progress::match_index);
            index = quorum::majority_committed(&voters, &|id| if id == me { Some(durable) } else { of(id) });
        }
        // Class 1: what a quorum holds counts, of whichever term it is.
        let any_term = defects::active(Defect::CommitByCountingEarlierTerms);
        let counts = index > self.log.committed() && (any_term || self.log.matches(index, self.term));
        counts && self.log.commit_to(index)
    }

    /// Whether this leader knows what is committed: its first own entry is.
    pub(crate) fn has_committed_in_term(&self) -> bool {
        self.log.matches(self.log.committed(), self.term)
    }

    /// The configuration has changed under this leader.
    pub(crate) fn after_own_conf_change(&mut self) {
        let me = self.tracker.progress.get(&self.config.id);
        if me.is_none_or(|p| p.is_learner()) {
            // It led until here, so that the change itself could commit (thesis §4.2.2).
            // Class 16: it means to see its tail committed first.
            let stays = defects::active(Defect::RemovedLeaderCountsItself);
            if self.config.step_down_on_removal && !stays {
                self.become_follower(self.term, 0);
            }
            return;
        }
        if self.maybe_commit() {
            self.release_postponed_reads();
            self.broadcast_append();
        } else {
            for id in self.peers() {
                self.try_append(id, false);
            }
        }
        // Another set of voters may have answered open rounds.
        self.answer_confirmed_reads();
        if self.lead_transferee != 0 && !self.tracker.configuration.is_voter(self.lead_transferee) {
            self.lead_transferee = 0;
        }
    }

    /// Leaves a joint configuration that is to be left automatically, once it is applied. A transfer may forbid it for
    /// now: then the next application tries again, here or at the next leader.
    pub(crate) fn leave_joint_when_due(&mut self) {
        let auto_leave = self.tracker.configuration.auto_leave;
        // Class 11: only the leader that proposed the joint configuration remembers to leave it.
        if defects::active(Defect::AutoLeaveForgotten) && !self.log.matches(self.pending_conf_index, self.term) {
            return;
        }
        if self.role == Role::Leader && auto_leave && self.log.applied() >= self.pending_conf_index {
            let _ = self.propose_conf_change(ConfChangeV2::default());
        }
    }

    /// Hands leadership to `to` once its log is level with the leader's (thesis §3.10). A follower hands the wish on.
    pub fn transfer_leader(&mut self, to: NodeId) {
        if self.role != Role::Leader {
            if self.role == Role::Follower && self.leader != 0 && self.leader != to {
                self.send(Message::new(MessageKind::TransferLeader, to, self.leader));
            }
            return;
        }
        let Some(progress) = self.tracker.progress.get(&to).filter(|p| !p.is_learner()) else { return };
        let level = progress.match_index() == self.log.last_index();
        if self.lead_transferee == to {
            return;
        }
        self.lead_transferee = 0;
        if to == self.config.id {
            return;
        }
        // The transfer has an election timeout from now.
        self.election_elapsed = 0;
        self.lead_transferee = to;
        if level {
            self.send_timeout_now(to);
        } else {
            self.try_append(to, true);
        }
    }

    pub(crate) fn send_timeout_now(&mut self, to: NodeId) {
        let message = self.message(MessageKind::TimeoutNow, to);
        self.send(message);
    }

    /// Asks for an index at which a read is linearizable; the answer comes as a [`ReadState`](crate::ReadState) with the
    /// same `context`, or not at all if leadership changes: ask again after a while. `context` should be unique.
    pub fn read_index(&mut self, context: Bytes) {
        self.read_index_for(self.config.id, context);
    }

    pub(crate) fn read_index_for(&mut self, from: NodeId, context: Bytes) {
        if self.role != Role::Leader {
            if self.role == Role::Follower && self.leader != 0 && self.leader != from {
                let message = Message::new(MessageKind::ReadIndex, from, self.leader);
                self.send(Message { context, ..message });
            }
            return;
        }
        if self.rounds.is_full() {
            return;
        }
        let request = ReadRequest { from, context };
        // Single voters were once thought to know without.
        let alone = defects::active(Defect::AloneReadsEarly) && self.tracker.is_single_voter(self.config.id);
        // Class 6: the commit index of a leader that has committed nothing in its term yet is good enough.
        let early = defects::active(Defect::ReadBeforeCommitInTerm);
        if self.has_committed_in_term() || alone || early {
            self.open_read(request);
        } else {
            // Until then the leader's commit index may lag behind what its predecessor acknowledged; also where that was
            // itself, before a restart.
            self.rounds.postpone(request);
        }
    }

    pub(crate) fn release_postponed_reads(&mut self) {
        if self.has_committed_in_term() {
            for request in self.rounds.take_postponed() {
                self.open_read(request);
            }
        }
    }

    fn open_read(&mut self, request: ReadRequest) {
        let index = self.log.committed();
        if self.tracker.is_single_voter(self.config.id) || self.reads_by_lease() {
            self.answer_read(request.from, request.context, index);
            return;
        }
        self.rounds.open(self.config.id, index, request);
        self.broadcast_heartbeat();
    }

    pub(crate) fn answer_confirmed_reads(&mut self) {
        let confirmed = self.tracker.configuration.committed_index(|id| self.rounds.answered_by(id));
        for (request, index) in self.rounds.confirmed_to(confirmed) {
            self.answer_read(request.from, request.context, index);
        }
    }
}
