//! How the leader brings one follower's log up to its own: appends, snapshots, and what their answers teach.

use crate::defects::{self, Defect};
use crate::message::{Message, MessageKind};
use crate::progress::ProgressState;
use crate::raft::Raft;
use crate::storage::Storage;
use crate::types::{NodeId, Role, payloads_size};

impl<S: Storage> Raft<S> {
    /// All members but this node, in id order.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        let mut ids = self.tracker.ids();
        ids.retain(|id| *id != self.config.id);
        ids
    }

    pub(crate) fn broadcast_append(&mut self) {
        for id in self.peers() {
            self.try_append(id, true);
        }
    }

    pub(crate) fn broadcast_heartbeat(&mut self) {
        let context = self.rounds.heartbeat_context();
        let committed = self.log.committed();
        for id in self.peers() {
            let Some(progress) = self.tracker.progress.get_mut(&id) else { continue };
            // No further than the member is known to match: beyond that its entries may be others.
            let mut commit = progress.match_index().min(committed);
            // Class 10: everybody is told the same.
            if defects::active(Defect::HeartbeatCommitUnbounded) {
                commit = committed;
            }
            progress.sent_commit(commit);
            let message = self.message(MessageKind::Heartbeat, id);
            self.send(Message { commit, context: context.clone(), ..message });
        }
    }

    /// Sends what comes next for `to`, unless its flow is paused. Without `even_empty` only a message with entries (or a
    /// snapshot) goes. Returns whether one went.
    pub(crate) fn try_append(&mut self, to: NodeId, even_empty: bool) -> bool {
        let Some(progress) = self.tracker.progress.get(&to) else { return false };
        if progress.is_paused() {
            return false;
        }
        let next = progress.next_index();
        let may_carry = progress.may_carry_entries(&self.inflight_limits);
        let Ok(log_term) = self.log.term(next - 1) else { return self.try_snapshot(to) };
        let mut entries = Vec::new();
        if may_carry {
            match self.log.entries_from(next, self.config.message_bytes_max) {
                Ok(found) => entries = found,
                Err(_) => return self.try_snapshot(to),
            }
        }
        if entries.is_empty() && !even_empty {
            return false;
        }
        let (count, bytes) = (entries.len() as u64, payloads_size(&entries));
        let commit = self.log.committed();
        let message = self.message(MessageKind::Append, to);
        self.send(Message { index: next - 1, log_term, entries, commit, ..message });
        if let Some(progress) = self.tracker.progress.get_mut(&to) {
            progress.sent_entries(count, bytes, &self.inflight_limits);
            progress.sent_commit(commit);
        }
        true
    }

    /// What `to` needs is compacted away. A member that is not heard from gets no snapshot: it would be lost.
    fn try_snapshot(&mut self, to: NodeId) -> bool {
        let Some(progress) = self.tracker.progress.get(&to) else { return false };
        if !progress.is_recently_active() || self.log.fault().is_some() {
            return false;
        }
        let Ok(snapshot) = self.log.snapshot() else { return false };
        if snapshot.meta.index == 0 {
            return false;
        }
        if let Some(progress) = self.tracker.progress.get_mut(&to) {
            progress.become_snapshot(snapshot.meta.index);
        }
        let message = self.message(MessageKind::Snapshot, to);
        self.send(Message { snapshot: Some(Box::new(snapshot)), ..message });
        true
    }

    pub(crate) fn handle_append_response(&mut self, m: &Message) {
        let Some(progress) = self.tracker.progress.get_mut(&m.from) else { return };
        progress.set_recently_active(true);
        if m.reject {
            self.handle_rejection(m);
        } else {
            self.handle_acknowledgement(m);
        }
    }

    fn handle_rejection(&mut self, m: &Message) {
        // The follower names its last entry that can match, with its term. Of this log's entries up to there, only those
        // of at most that term can: go back to the last of them, a term at a time instead of an entry at a time.
        let hint = match m.log_term {
            0 => m.reject_hint,
            term => self.log.last_index_within_term(m.reject_hint, term).0,
        };
        let Some(progress) = self.tracker.progress.get_mut(&m.from) else { return };
        if progress.reject(m.index, hint) {
            if progress.state() == ProgressState::Replicate {
                progress.become_probe();
            }
            self.try_append(m.from, true);
        }
    }

    fn handle_acknowledgement(&mut self, m: &Message) {
        let first_index = self.log.first_index();
        let Some(progress) = self.tracker.progress.get_mut(&m.from) else { return };
        let news = progress.acknowledge(m.index);
        // A member that is level already, but probed, is found to match just as well.
        let found = progress.match_index() == m.index && progress.state() == ProgressState::Probe;
        if !news && !found {
            return;
        }
        match progress.state() {
            ProgressState::Probe => progress.become_replicate(),
            // Whether by the snapshot or otherwise, the member has reached what the log still holds.
            ProgressState::Snapshot if progress.match_index() + 1 >= first_index => {
                progress.become_probe();
                progress.become_replicate();
            }
            ProgressState::Snapshot => {}
            ProgressState::Replicate => progress.free_inflights(m.index),
        }
        let lacks_commit = progress.lacks_commit(self.log.committed());
        let me = self.config.id;
        if self.maybe_commit() {
            self.release_postponed_reads();
            self.broadcast_append();
        } else if m.from != me && lacks_commit {
            self.try_append(m.from, true);
        }
        if m.from == me {
            return;
        }
        // The acknowledgement may have made room for several messages.
        while self.try_append(m.from, false) {}
        let level = self.tracker.progress.get(&m.from).map(|p| p.match_index()) == Some(self.log.last_index());
        if m.from == self.lead_transferee && level {
            self.send_timeout_now(m.from);
        }
    }

    pub(crate) fn handle_heartbeat_response(&mut self, m: &Message) {
        let (first_index, last_index) = (self.log.first_index(), self.log.last_index());
        let Some(progress) = self.tracker.progress.get_mut(&m.from) else { return };
        progress.set_recently_active(true);
        // Class 20: a full window waits for the acknowledgement of what filled it, which may have been lost.
        let windowed = progress.state() == ProgressState::Replicate && defects::active(Defect::WindowNeverFreed);
        // Class 19: after a snapshot it waits for the member's answer to that, which may have been lost.
        let installs = progress.state() == ProgressState::Probe && progress.match_index() + 1 < first_index;
        // Even with a full window one (empty) append may go: if all that filled it was lost, its answer will tell.
        if !(windowed || installs && defects::active(Defect::StuckInProbeAfterSnapshot)) {
            progress.resume();
        }
        if progress.match_index() < last_index || progress.state() == ProgressState::Probe {
            self.try_append(m.from, true);
        }
        if self.rounds.answer(m.from, &m.context) {
            self.answer_confirmed_reads();
        }
    }

    /// A message to `id` could not be delivered: do not send ahead of acknowledgements for now.
    pub fn report_unreachable(&mut self, id: NodeId) {
        if self.role != Role::Leader {
            return;
        }
        if let Some(progress) = self.tracker.progress.get_mut(&id).filter(|p| p.state() == ProgressState::Replicate) {
            progress.become_probe();
        }
    }

    /// What became of the snapshot that was sent to `id`. Sending goes on when the member answers or a heartbeat is due.
    pub fn report_snapshot(&mut self, id: NodeId, ok: bool) {
        if self.role != Role::Leader {
            return;
        }
        let Some(progress) = self.tracker.progress.get_mut(&id) else { return };
        if progress.state() != ProgressState::Snapshot {
            return;
        }
        if ok {
            progress.become_probe();
        } else {
            progress.snapshot_failed();
        }
        progress.hold_back();
    }
}
