//! Counting quorums: majorities, and joint majorities (Raft §6; thesis §4.3).

use std::collections::BTreeSet;

use crate::defects::{self, Defect};
use crate::types::{Index, NodeId};

/// What the votes so far decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Votes are missing that could still decide it.
    Pending,
    /// A quorum refused, or too few can still agree.
    Lost,
    /// A quorum agreed.
    Won,
}

/// The highest index that a majority of `voters` has acknowledged.
///
/// A voter that is not known acknowledged nothing. No voters at all: `Index::MAX`, so that an empty half of a joint
/// configuration never decides.
pub fn majority_committed(voters: &BTreeSet<NodeId>, acknowledged: &dyn Fn(NodeId) -> Option<Index>) -> Index {
    let mut indexes: Vec<Index> = voters.iter().map(|id| acknowledged(*id).unwrap_or(0)).collect();
    // Class 17: the members' order is taken for the order of what they acknowledged.
    if !defects::active(Defect::MembershipOrderConfusesQuorum) {
        indexes.sort_unstable();
    }
    // With n voters the majority is n/2+1; the (n/2+1)-th largest index is reached by that many.
    let from_below = (indexes.len().wrapping_sub(1)) / 2;
    indexes.get(from_below).copied().unwrap_or(Index::MAX)
}

/// What the votes of a majority decide. No voters at all: won, see [`majority_committed`].
pub fn majority_vote(voters: &BTreeSet<NodeId>, vote: &dyn Fn(NodeId) -> Option<bool>) -> VoteResult {
    if voters.is_empty() {
        return VoteResult::Won;
    }
    let needed = voters.len() / 2 + 1;
    let (mut granted, mut missing) = (0, 0);
    for id in voters {
        match vote(*id) {
            Some(true) => granted += 1,
            Some(false) => {}
            None => missing += 1,
        }
    }
    if granted >= needed {
        VoteResult::Won
    } else if granted + missing >= needed {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}

/// The highest index that majorities of both halves have acknowledged.
pub fn joint_committed(
    incoming: &BTreeSet<NodeId>,
    outgoing: &BTreeSet<NodeId>,
    acknowledged: &dyn Fn(NodeId) -> Option<Index>,
) -> Index {
    majority_committed(incoming, acknowledged).min(majority_committed(outgoing, acknowledged))
}

/// What the votes decide where both halves must agree.
pub fn joint_vote(
    incoming: &BTreeSet<NodeId>,
    outgoing: &BTreeSet<NodeId>,
    vote: &dyn Fn(NodeId) -> Option<bool>,
) -> VoteResult {
    match (majority_vote(incoming, vote), majority_vote(outgoing, vote)) {
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
        _ => VoteResult::Pending,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(ids: impl IntoIterator<Item = NodeId>) -> BTreeSet<NodeId> {
        ids.into_iter().collect()
    }

    #[test]
    fn a_majority_commits_what_more_than_half_hold() {
        let acknowledged = |id: NodeId| Some(id * 10);
        assert_eq!(majority_committed(&set(1..=3), &acknowledged), 20);
        assert_eq!(majority_committed(&set(1..=4), &acknowledged), 20);
        assert_eq!(majority_committed(&set(1..=5), &acknowledged), 30);
        assert_eq!(majority_committed(&set([]), &acknowledged), Index::MAX);
        assert_eq!(majority_committed(&set(1..=3), &|id| (id == 1).then_some(7)), 0);
    }

    #[test]
    fn half_the_voters_are_no_majority() {
        assert_eq!(majority_vote(&set(1..=4), &|id| Some(id <= 2)), VoteResult::Lost);
        assert_eq!(majority_vote(&set(1..=4), &|id| (id <= 2).then_some(true)), VoteResult::Pending);
        assert_eq!(majority_vote(&set(1..=4), &|id| Some(id <= 3)), VoteResult::Won);
        assert_eq!(majority_vote(&set([]), &|_| None), VoteResult::Won);
    }

    #[test]
    fn a_joint_configuration_commits_what_both_majorities_hold() {
        let acknowledged = |id: NodeId| Some(if id <= 3 { 9 } else { 4 });
        assert_eq!(joint_committed(&set(1..=3), &set(3..=5), &acknowledged), 4);
        assert_eq!(joint_committed(&set(3..=5), &set(1..=3), &acknowledged), 4);
        assert_eq!(joint_committed(&set(1..=3), &set([]), &acknowledged), 9);
    }

    #[test]
    fn a_joint_vote_is_lost_where_either_half_refuses() {
        let votes = |id: NodeId| Some(id <= 2);
        assert_eq!(joint_vote(&set(1..=3), &set(3..=5), &votes), VoteResult::Lost);
        assert_eq!(joint_vote(&set(1..=3), &set([]), &votes), VoteResult::Won);
        assert_eq!(joint_vote(&set(1..=3), &set(1..=3), &|id| (id == 1).then_some(true)), VoteResult::Pending);
    }

    proptest! {
        /// The definition: the largest index that at least a majority reached.
        #[test]
        fn commitment_agrees_with_counting(indexes in proptest::collection::vec(0u64..20, 1..8)) {
            let voters = set(0..indexes.len() as u64);
            let expected = (0..20).rev().find(|i| indexes.iter().filter(|j| *j >= i).count() * 2 > indexes.len());
            let got = majority_committed(&voters, &|id| indexes.get(id as usize).copied());
            prop_assert_eq!(Some(got), expected);
        }
    }
}
