//! Who is in the group, how far each member is, and who voted: all that a quorum is counted from.

use std::collections::{BTreeMap, BTreeSet};

use crate::progress::Progress;
use crate::quorum::{self, VoteResult};
use crate::types::{ConfState, Index, NodeId};

/// Progress by member, in id order.
pub type ProgressMap = BTreeMap<NodeId, Progress>;

/// The membership in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Voters, or the incoming half.
    pub voters: BTreeSet<NodeId>,
    /// The outgoing half; empty unless joint.
    pub voters_outgoing: BTreeSet<NodeId>,
    /// Members without a vote. Disjoint from both halves.
    pub learners: BTreeSet<NodeId>,
    /// Outgoing voters that become learners on leaving.
    pub learners_next: BTreeSet<NodeId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl Configuration {
    /// Whether majorities of two sets of voters are required.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether `id` votes in either half.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// Everyone who votes, in id order.
    pub fn all_voters(&self) -> BTreeSet<NodeId> {
        self.voters.union(&self.voters_outgoing).copied().collect()
    }

    /// Every member, in id order.
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.all_voters().union(&self.learners).copied().collect()
    }

    /// The form in which it is stored.
    pub fn to_conf_state(&self) -> ConfState {
        let list = |set: &BTreeSet<NodeId>| set.iter().copied().collect();
        ConfState {
            voters: list(&self.voters),
            learners: list(&self.learners),
            voters_outgoing: list(&self.voters_outgoing),
            learners_next: list(&self.learners_next),
            auto_leave: self.auto_leave,
        }
    }

    /// The highest index a quorum has acknowledged, given each member's.
    pub fn committed_index(&self, acknowledged: impl Fn(NodeId) -> Option<Index>) -> Index {
        quorum::joint_committed(&self.voters, &self.voters_outgoing, &acknowledged)
    }

    /// What the votes given so far decide.
    pub fn vote_result(&self, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        quorum::joint_vote(&self.voters, &self.voters_outgoing, &vote)
    }

    /// Whether `present` contains a quorum.
    pub fn has_quorum(&self, present: impl Fn(NodeId) -> bool) -> bool {
        self.vote_result(|id| Some(present(id))) == VoteResult::Won
    }
}

/// Membership, progress and the votes of the election under way.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    pub configuration: Configuration,
    pub progress: ProgressMap,
    votes: BTreeMap<NodeId, bool>,
}

impl Tracker {
    pub fn new(configuration: Configuration, progress: ProgressMap) -> Self {
        Tracker { configuration, progress, votes: BTreeMap::new() }
    }

    /// Whether the whole group is one voter, `id`.
    pub fn is_single_voter(&self, id: NodeId) -> bool {
        let configuration = &self.configuration;
        !configuration.is_joint() && configuration.voters.len() == 1 && configuration.voters.contains(&id)
    }

    pub fn reset_votes(&mut self) {
        self.votes.clear();
    }

    /// Counts a vote; a second vote of the same voter changes nothing.
    pub fn record_vote(&mut self, id: NodeId, granted: bool) {
        self.votes.entry(id).or_insert(granted);
    }

    pub fn vote_result(&self) -> VoteResult {
        self.configuration.vote_result(|id| self.votes.get(&id).copied())
    }

    pub fn committed_index(&self) -> Index {
        self.configuration.committed_index(|id| self.progress.get(&id).map(Progress::match_index))
    }

    /// Whether a quorum was heard from in this interval.
    pub fn quorum_active(&self) -> bool {
        self.configuration
            .has_quorum(|id| self.progress.get(&id).is_some_and(|p| !p.is_learner() && p.is_recently_active()))
    }

    /// Ids of all members.
    pub fn ids(&self) -> Vec<NodeId> {
        self.progress.keys().copied().collect()
    }
}
