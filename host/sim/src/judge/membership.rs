//! The configurations that the committed log makes, computed by the checkers' own rules (Raft §6, thesis §4): the core's
//! arithmetic is what is on trial. A quorum is a majority of the voters, and, while the configuration is joint, of the
//! outgoing ones too.

use std::collections::BTreeSet;

use telegraft_raft::{ConfChangeKind, ConfChangeTransition, ConfChangeV2, Entry, Index, NodeId};

/// The members as of some index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// In force from the application of the entry at this index.
    pub index: Index,
    /// Voters, or the incoming half of them.
    pub voters: BTreeSet<NodeId>,
    /// The outgoing half; empty unless joint.
    pub outgoing: BTreeSet<NodeId>,
    /// Members without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub demoted: BTreeSet<NodeId>,
}

impl Members {
    /// The first configuration.
    pub fn first(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Members { voters: voters.into_iter().collect(), ..Members::default() }
    }

    /// Whether both halves matter.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// All voters and learners.
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect()
    }

    /// Whether those of whom `has` is true are enough to commit and to elect.
    pub fn is_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        let majority =
            |half: &BTreeSet<NodeId>| half.is_empty() || half.iter().filter(|id| has(**id)).count() * 2 > half.len();
        majority(&self.voters) && majority(&self.outgoing)
    }

    /// The configuration after `entry`, if it changes it.
    pub fn after(&self, entry: &Entry) -> Option<Self> {
        let change = ConfChangeV2::decode(entry).ok()?;
        let mut next = Members { index: entry.index, ..self.clone() };
        if change.changes.is_empty() && change.transition == ConfChangeTransition::Auto {
            if !self.is_joint() {
                return None;
            }
            next.outgoing.clear();
            next.learners.append(&mut next.demoted);
            return Some(next);
        }
        if self.is_joint() {
            return None;
        }
        let joint = change.transition != ConfChangeTransition::Auto || change.changes.len() > 1;
        if joint {
            next.outgoing = next.voters.clone();
        }
        for single in &change.changes {
            let id = single.node;
            match single.kind {
                ConfChangeKind::AddNode => {
                    next.voters.insert(id);
                    next.learners.remove(&id);
                    next.demoted.remove(&id);
                }
                ConfChangeKind::AddLearnerNode => {
                    next.voters.remove(&id);
                    if next.outgoing.contains(&id) {
                        next.demoted.insert(id);
                    } else {
                        next.learners.insert(id);
                    }
                }
                ConfChangeKind::RemoveNode => {
                    next.voters.remove(&id);
                    next.learners.remove(&id);
                    next.demoted.remove(&id);
                }
                ConfChangeKind::UpdateNode => {}
            }
        }
        (!next.voters.is_empty()).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use telegraft_raft::{ConfChangeSingle, EntryKind};

    use super::*;

    fn entry(index: Index, transition: ConfChangeTransition, changes: &[(ConfChangeKind, NodeId)]) -> Entry {
        let changes = changes.iter().map(|(kind, node)| ConfChangeSingle { kind: *kind, node: *node }).collect();
        let change = ConfChangeV2 { transition, changes, ..ConfChangeV2::default() };
        Entry { term: 1, index, kind: EntryKind::ConfChangeV2, data: change.encode() }
    }

    #[test]
    fn a_joint_configuration_needs_both_majorities() {
        use ConfChangeKind::{AddNode, RemoveNode};
        let first = Members::first([1, 2, 3]);
        assert!(first.is_quorum(|id| id < 3) && !first.is_quorum(|id| id == 3));
        let replace = entry(5, ConfChangeTransition::Auto, &[(AddNode, 4), (RemoveNode, 1)]);
        let joint = first.after(&replace).unwrap();
        assert!(joint.is_joint() && joint.index == 5);
        assert!(joint.is_quorum(|id| id == 2 || id == 3));
        assert!(!joint.is_quorum(|id| id == 4 || id == 3), "no majority of the outgoing");
        let left = joint.after(&entry(6, ConfChangeTransition::Auto, &[])).unwrap();
        assert_eq!(left.voters, BTreeSet::from([2, 3, 4]));
        assert_eq!(left.after(&entry(7, ConfChangeTransition::Auto, &[])), None);
    }

    #[test]
    fn a_demoted_voter_becomes_a_learner_when_the_joint_configuration_is_left() {
        let demote = entry(5, ConfChangeTransition::Explicit, &[(ConfChangeKind::AddLearnerNode, 3)]);
        let joint = Members::first([1, 2, 3]).after(&demote).unwrap();
        assert!(joint.learners.is_empty() && joint.outgoing.contains(&3) && !joint.voters.contains(&3));
        let left = joint.after(&entry(6, ConfChangeTransition::Auto, &[])).unwrap();
        assert_eq!(left.learners, BTreeSet::from([3]));
    }
}
