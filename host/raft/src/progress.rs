//! What the leader knows about one member, and whether it may send to it now.
//!
//! A member is in one of three states. *Probe*: where its log matches is not known; one message with entries at a time.
//! *Replicate*: known; messages are sent ahead of their acknowledgements, within the in-flight window. *Snapshot*: what
//! it needs is compacted away; nothing is sent until the snapshot's fate is known.
//!
//! Fields change through methods only, each of which keeps `match_index < next_index`.

use crate::defects::{self, Defect};
use crate::inflights::{InflightLimits, Inflights};
use crate::types::Index;

/// Election timeouts after which a snapshot without answer or report is taken for lost.
const SNAPSHOT_PATIENCE: u32 = 10;

/// How the leader deals with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// Looking for the last matching index.
    Probe,
    /// Streaming entries.
    Replicate,
    /// Waiting for a snapshot to be installed.
    Snapshot,
}

/// A member's replication state as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    match_index: Index,
    next_index: Index,
    /// Highest commit index sent that the member can have acted upon.
    sent_commit: Index,
    state: ProgressState,
    pending_snapshot: Index,
    /// Election timeouts since the snapshot was sent.
    snapshot_age: u32,
    /// No further append until the member is heard from.
    held_back: bool,
    recent_active: bool,
    is_learner: bool,
    inflights: Inflights,
}

impl Progress {
    /// A member of whom nothing is known, to be probed from `next_index`. It counts as active for now.
    pub fn new(next_index: Index, is_learner: bool) -> Self {
        Progress {
            match_index: 0,
            next_index: next_index.max(1),
            sent_commit: 0,
            state: ProgressState::Probe,
            pending_snapshot: 0,
            snapshot_age: 0,
            held_back: false,
            recent_active: true,
            is_learner,
            inflights: Inflights::default(),
        }
    }

    /// At the start of a term nobody was heard from; `match_index` is known for the node itself only.
    pub(crate) fn at_new_term(match_index: Index, next_index: Index, is_learner: bool) -> Self {
        Progress { match_index, recent_active: false, ..Progress::new(next_index, is_learner) }
    }

    /// Highest index known to match the leader's log.
    pub fn match_index(&self) -> Index {
        self.match_index
    }

    /// The next index to send.
    pub fn next_index(&self) -> Index {
        self.next_index
    }

    /// The state.
    pub fn state(&self) -> ProgressState {
        self.state
    }

    /// Index of the snapshot under way, or 0.
    pub fn pending_snapshot(&self) -> Index {
        self.pending_snapshot
    }

    /// Whether the member was heard from since the last check of the quorum.
    pub fn is_recently_active(&self) -> bool {
        self.recent_active
    }

    /// Whether it is a learner.
    pub fn is_learner(&self) -> bool {
        self.is_learner
    }

    /// The window of unacknowledged appends.
    pub fn inflights(&self) -> &Inflights {
        &self.inflights
    }

    /// Whether nothing may be sent.
    pub fn is_paused(&self) -> bool {
        self.state == ProgressState::Snapshot || self.held_back
    }

    /// Whether the next append may carry entries. A full window allows an empty one, so that a lost window is noticed.
    pub fn may_carry_entries(&self, limits: &InflightLimits) -> bool {
        self.state != ProgressState::Replicate || !self.inflights.is_full(limits)
    }

    /// Whether a message that carries `commit` could move the member's commit index.
    pub fn lacks_commit(&self, commit: Index) -> bool {
        commit > self.sent_commit && self.sent_commit + 1 < self.next_index
    }

    pub(crate) fn set_learner(&mut self, is_learner: bool) {
        self.is_learner = is_learner;
    }

    pub(crate) fn set_recently_active(&mut self, active: bool) {
        self.recent_active = active;
    }

    /// Lets one more message go.
    pub(crate) fn resume(&mut self) {
        self.held_back = false;
    }

    /// Holds messages back until the member is heard from.
    pub(crate) fn hold_back(&mut self) {
        self.held_back = true;
    }

    /// Notes an append with `count` entries of `bytes` payload.
    pub(crate) fn sent_entries(&mut self, count: u64, bytes: u64, limits: &InflightLimits) {
        match self.state {
            ProgressState::Replicate => {
                if count > 0 {
                    self.next_index = self.next_index.saturating_add(count);
                    self.inflights.add(self.next_index - 1, bytes);
                }
                // What fills the window, or finds it full, is a probe: then it is the member's turn.
                self.held_back = self.inflights.is_full(limits);
            }
            ProgressState::Probe => self.held_back |= count > 0,
            ProgressState::Snapshot => {}
        }
    }

    /// Notes the commit index of a message.
    pub(crate) fn sent_commit(&mut self, commit: Index) {
        self.sent_commit = commit;
    }

    /// The member holds everything up to `index`. Returns whether that is news.
    pub(crate) fn acknowledge(&mut self, index: Index) -> bool {
        if index <= self.match_index {
            return false;
        }
        self.match_index = index;
        self.next_index = self.next_index.max(index.saturating_add(1));
        self.held_back = false;
        true
    }

    /// Frees the window up to `index`.
    pub(crate) fn free_inflights(&mut self, index: Index) {
        self.inflights.free_to(index);
    }

    /// The member refused the append that followed `rejected`; `hint` is the last index that may match. Returns whether
    /// that is news, and not an echo of an older state of affairs.
    pub(crate) fn reject(&mut self, rejected: Index, hint: Index) -> bool {
        // Class 21: any refusal counts, also one from before what the member acknowledged since.
        if defects::active(Defect::NextBelowMatch) {
            self.next_index = rejected.min(hint.saturating_add(1)).max(1);
            self.held_back = false;
            return true;
        }
        if self.state == ProgressState::Replicate {
            if rejected <= self.match_index {
                return false;
            }
            self.next_index = self.match_index + 1;
        } else {
            // A probe is out one at a time: only the refusal of that one counts.
            if self.next_index - 1 != rejected {
                return false;
            }
            self.next_index = rejected.min(hint.saturating_add(1)).max(self.match_index + 1);
            self.held_back = false;
        }
        self.sent_commit = self.sent_commit.min(self.next_index - 1);
        true
    }

    pub(crate) fn become_probe(&mut self) {
        // After a snapshot that was installed, go on behind it.
        let after_snapshot = if self.state == ProgressState::Snapshot { self.pending_snapshot + 1 } else { 0 };
        self.enter(ProgressState::Probe);
        // Class 21: probing goes on where the refusal led to.
        if !defects::active(Defect::NextBelowMatch) || after_snapshot > 0 {
            self.next_index = (self.match_index + 1).max(after_snapshot);
        }
        self.sent_commit = self.sent_commit.min(self.next_index - 1);
    }

    pub(crate) fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next_index = self.match_index + 1;
    }

    pub(crate) fn become_snapshot(&mut self, index: Index) {
        self.enter(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.snapshot_age = 0;
        self.next_index = self.match_index.max(index) + 1;
        self.sent_commit = index;
    }

    /// The snapshot did not arrive: probe from where the member was known to be.
    pub(crate) fn snapshot_failed(&mut self) {
        self.pending_snapshot = 0;
        self.become_probe();
    }

    /// An election timeout has passed. A snapshot of whose fate nobody told for long is taken for lost: snapshot, answer or
    /// report may be, and the member must not wait forever.
    pub(crate) fn age_snapshot(&mut self) {
        if self.state == ProgressState::Snapshot {
            self.snapshot_age += 1;
            if self.snapshot_age >= SNAPSHOT_PATIENCE {
                self.snapshot_failed();
            }
        }
    }

    fn enter(&mut self, state: ProgressState) {
        self.state = state;
        self.held_back = false;
        self.pending_snapshot = 0;
        self.inflights.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: InflightLimits = InflightLimits { messages: 2, bytes: 0 };

    fn replicating(match_index: Index) -> Progress {
        let mut progress = Progress::new(match_index + 1, false);
        progress.acknowledge(match_index);
        progress.become_replicate();
        progress
    }

    #[test]
    fn a_probe_sends_one_message_until_it_is_answered() {
        let mut progress = Progress::new(5, false);
        progress.sent_entries(1, 10, &LIMITS);
        assert!(progress.is_paused());
        assert!(!progress.reject(3, 1), "an answer to another probe");
        assert!(progress.reject(4, 1));
        assert_eq!(progress.next_index(), 2);
        assert!(!progress.is_paused());
    }

    #[test]
    fn a_full_window_pauses_and_an_acknowledgement_resumes() {
        let mut progress = replicating(4);
        progress.sent_entries(1, 10, &LIMITS);
        assert!(!progress.is_paused());
        progress.sent_entries(2, 10, &LIMITS);
        assert!(progress.is_paused() && progress.next_index() == 8);
        assert!(progress.acknowledge(5));
        progress.free_inflights(5);
        assert!(!progress.is_paused() && progress.may_carry_entries(&LIMITS));
        assert!(!progress.acknowledge(5), "no news");
    }

    #[test]
    fn next_stays_above_match_whatever_is_refused() {
        let mut progress = replicating(7);
        assert!(!progress.reject(7, 0), "matched before");
        assert!(progress.reject(9, 0));
        assert_eq!(progress.next_index(), 8);
        progress.become_probe();
        assert!(progress.reject(7, 2));
        assert_eq!(progress.next_index(), 8);
    }

    #[test]
    fn after_a_snapshot_probing_goes_on_behind_it() {
        let mut progress = replicating(3);
        progress.become_snapshot(10);
        assert!(progress.is_paused());
        progress.become_probe();
        assert_eq!(progress.next_index(), 11);
        progress.become_snapshot(10);
        progress.snapshot_failed();
        assert_eq!(progress.next_index(), 4);
        progress.become_snapshot(10);
        (1..SNAPSHOT_PATIENCE).for_each(|_| progress.age_snapshot());
        assert!(progress.is_paused());
        progress.age_snapshot();
        assert!(!progress.is_paused() && progress.next_index() == 4);
    }
}
