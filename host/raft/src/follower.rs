//! The follower: takes the leader's entries, snapshots and heartbeats, and starts an election when they cease.

use crate::confchange;
use crate::defects::{self, Defect};
use crate::message::{Message, MessageKind};
use crate::raft::Raft;
use crate::storage::Storage;
use crate::types::{Entry, Index, NodeId, ReadState, Role, Snapshot, Term};

impl<S: Storage> Raft<S> {
    pub(crate) fn become_follower(&mut self, term: Term, leader: NodeId) {
        self.reset(term);
        self.leader = leader;
        self.role = Role::Follower;
    }

    pub(crate) fn step_follower(&mut self, m: Message) {
        match m.kind {
            MessageKind::Append | MessageKind::Heartbeat | MessageKind::Snapshot => {
                self.election_elapsed = 0;
                self.leader = m.from;
                self.hear_leader(m);
            }
            // The leader wants this node to succeed it: no pre-vote, and leases do not bind (thesis §3.10).
            MessageKind::TimeoutNow => self.campaign_for_transfer(),
            MessageKind::ReadIndexResponse => {
                // Class 8: the leader has it committed, so whatever is here up to that index must be it.
                if defects::active(Defect::ReadCommitsUnmatched) {
                    self.log.commit_to(m.index);
                }
                self.read_states.push(ReadState { index: m.index, context: m.context });
            }
            _ => {}
        }
    }

    /// A message of the leader of this term, at a node that follows it.
    pub(crate) fn hear_leader(&mut self, m: Message) {
        match m.kind {
            MessageKind::Append => self.handle_append(&m),
            MessageKind::Heartbeat => {
                self.log.commit_to(m.commit);
                let answer = self.message(MessageKind::HeartbeatResponse, m.from);
                self.send(Message { context: m.context, ..answer });
            }
            MessageKind::Snapshot => {
                if let Some(snapshot) = m.snapshot {
                    self.handle_snapshot(m.from, *snapshot);
                }
            }
            _ => {}
        }
    }

    fn handle_append(&mut self, m: &Message) {
        let answer = self.message(MessageKind::AppendResponse, m.from);
        let committed = self.log.committed();
        if m.index < committed {
            // What is committed matches for certain: let the leader go on from there.
            self.send(Message { index: committed, ..answer });
            return;
        }
        if self.log.matches(m.index, m.log_term) {
            let last_new = m.index + m.entries.len() as Index;
            self.append_missing(&m.entries);
            self.log.commit_to(m.commit.min(last_new));
            self.send(Message { index: last_new, ..answer });
            return;
        }
        // Class 38: what the leader has committed counts although its append does not fit.
        if defects::active(Defect::RejectionAdvancesCommit) {
            self.log.commit_to(m.commit);
        }
        // Help the leader to skip what cannot match: nothing after the last entry here whose term is at most that of the
        // leader's entry can (Raft §5.3, the optimisation at its end).
        let hint = m.index.min(self.log.last_index());
        let (reject_hint, log_term) = self.log.last_index_within_term(hint, m.log_term);
        self.send(Message { index: m.index, reject: true, reject_hint, log_term, ..answer });
    }

    /// Appends from the first entry that differs. What is here already stays: an old message must not cut off what a
    /// newer one appended.
    fn append_missing(&mut self, entries: &[Entry]) {
        if let Some(from) = self.log.first_difference(entries) {
            let skip = entries.iter().take_while(|e| e.index < from).count();
            self.log.append(&entries[skip..]);
        }
    }

    fn handle_snapshot(&mut self, from: NodeId, snapshot: Snapshot) {
        let index = if self.restore(snapshot) { self.log.last_index() } else { self.log.committed() };
        let answer = self.message(MessageKind::AppendResponse, from);
        self.send(Message { index, ..answer });
    }

    /// Replaces log and configuration by the snapshot's. Returns false where the log holds what the snapshot does.
    fn restore(&mut self, snapshot: Snapshot) -> bool {
        let meta = &snapshot.meta;
        if meta.index <= self.log.committed() || self.role != Role::Follower {
            return false;
        }
        // The snapshot may be older than this node's membership, and its configuration lack the node. That is as good a
        // place to start as any: until it has applied its own addition, the node is no voter and does not campaign.
        if self.log.matches(meta.index, meta.term) {
            self.log.commit_to(meta.index);
            return false;
        }
        // Class 26: a restored node lives in the term of its snapshot.
        if defects::active(Defect::TermResetByRestore) {
            (self.term, self.vote) = (meta.term, 0);
        }
        let (configuration, progress) = confchange::restore(&meta.conf_state, meta.index);
        self.log.restore(snapshot);
        self.tracker.progress = progress;
        self.switch_to(configuration);
        true
    }

    /// Forgets who leads, without waiting for the timeout: this node may then vote for another. It still follows the
    /// leader if it is heard from.
    pub fn forget_leader(&mut self) {
        // With reads by lease the leader relies on nobody voting before the lease ends.
        if self.role == Role::Follower && !self.reads_by_lease() {
            self.leader = 0;
        }
    }
}
