//! Configuration changes: their values, their bytes, and how one configuration becomes the next (thesis §4.1, §4.3).
//!
//! # Bytes of an entry's payload
//!
//! `EntryKind::ConfChange` (one change):
//!
//! ```text
//! offset  size  content
//! 0       1     kind: 0 add voter, 1 remove, 2 update, 3 add learner
//! 1       8     node id, little endian
//! 9       rest  context
//! ```
//!
//! `EntryKind::ConfChangeV2` (any number of changes). An empty payload is the zero change: leave the joint configuration.
//!
//! ```text
//! offset  size  content
//! 0       1     transition: 0 auto, 1 joint implicit, 2 joint explicit
//! 1       4     number n of changes, little endian
//! 5       9*n   n times: kind (1), node id (8, little endian), as above
//! 5+9*n   rest  context
//! ```

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::defects::{self, Defect};
use crate::progress::Progress;
use crate::tracker::{Configuration, ProgressMap};
use crate::types::{ConfState, Entry, EntryKind, Index, NodeId};

const SINGLE_BYTES: usize = 9;

/// What happens to one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// Becomes a voter, whether new or a learner before.
    AddNode,
    /// Leaves.
    RemoveNode,
    /// Nothing happens to the membership; the host may read the context (say, a new address).
    UpdateNode,
    /// Becomes a learner, whether new or a voter before.
    AddLearnerNode,
}

impl ConfChangeKind {
    fn to_byte(self) -> u8 {
        match self {
            ConfChangeKind::AddNode => 0,
            ConfChangeKind::RemoveNode => 1,
            ConfChangeKind::UpdateNode => 2,
            ConfChangeKind::AddLearnerNode => 3,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, ConfChangeDecodeError> {
        match byte {
            0 => Ok(ConfChangeKind::AddNode),
            1 => Ok(ConfChangeKind::RemoveNode),
            2 => Ok(ConfChangeKind::UpdateNode),
            3 => Ok(ConfChangeKind::AddLearnerNode),
            other => Err(ConfChangeDecodeError::Kind(other)),
        }
    }
}

/// One change of one member. A change of node 0 is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfChangeSingle {
    /// What happens.
    pub kind: ConfChangeKind,
    /// To whom.
    pub node: NodeId,
}

/// How a change passes through joint consensus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfChangeTransition {
    /// Directly if at most one voter changes, otherwise joint with automatic leave.
    #[default]
    Auto,
    /// Joint; the leader proposes to leave it as soon as it is applied.
    Implicit,
    /// Joint; someone must propose the zero change to leave it.
    Explicit,
}

/// A change of any number of members at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeV2 {
    /// How it passes through joint consensus.
    pub transition: ConfChangeTransition,
    /// The changes, in order.
    pub changes: Vec<ConfChangeSingle>,
    /// Opaque to the core.
    pub context: Bytes,
}

/// A change as it is proposed: in the form of one member, or of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfChange {
    /// One change, in an entry of kind `ConfChange`.
    V1 {
        /// The change.
        change: ConfChangeSingle,
        /// Opaque to the core.
        context: Bytes,
    },
    /// Any number, in an entry of kind `ConfChangeV2`.
    V2(ConfChangeV2),
}

impl From<ConfChangeV2> for ConfChange {
    fn from(change: ConfChangeV2) -> Self {
        ConfChange::V2(change)
    }
}

impl ConfChange {
    /// The entry kind and payload that carry this change.
    pub fn encode(&self) -> (EntryKind, Bytes) {
        match self {
            ConfChange::V1 { change, context } => {
                let mut bytes = Vec::with_capacity(SINGLE_BYTES + context.len());
                put_single(&mut bytes, change);
                bytes.extend_from_slice(context);
                (EntryKind::ConfChange, bytes.into())
            }
            ConfChange::V2(change) => (EntryKind::ConfChangeV2, change.encode()),
        }
    }

    /// The change in the form of many.
    pub fn as_v2(&self) -> ConfChangeV2 {
        match self {
            ConfChange::V1 { change, context } => ConfChangeV2 {
                transition: ConfChangeTransition::Auto,
                changes: vec![*change],
                context: context.clone(),
            },
            ConfChange::V2(change) => change.clone(),
        }
    }
}

/// Why a payload is not a configuration change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeDecodeError {
    /// The entry is of another kind.
    #[error("the entry is not a configuration change")]
    NotAConfChange,
    /// Bytes are missing.
    #[error("the configuration change has {have} bytes, needs {need}")]
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes announced.
        need: usize,
    },
    /// An unknown kind of change.
    #[error("unknown kind of configuration change {0}")]
    Kind(u8),
    /// An unknown transition.
    #[error("unknown transition of a configuration change {0}")]
    Transition(u8),
}

fn put_single(bytes: &mut Vec<u8>, change: &ConfChangeSingle) {
    bytes.push(change.kind.to_byte());
    bytes.extend_from_slice(&change.node.to_le_bytes());
}

fn read_single(bytes: &[u8]) -> Result<ConfChangeSingle, ConfChangeDecodeError> {
    let short = ConfChangeDecodeError::Truncated { have: bytes.len(), need: SINGLE_BYTES };
    let (kind, rest) = bytes.split_first().ok_or(short.clone())?;
    let node = rest.first_chunk::<8>().ok_or(short)?;
    Ok(ConfChangeSingle { kind: ConfChangeKind::from_byte(*kind)?, node: u64::from_le_bytes(*node) })
}

impl ConfChangeV2 {
    /// A change of one member, direct.
    pub fn single(kind: ConfChangeKind, node: NodeId) -> Self {
        ConfChangeV2 { changes: vec![ConfChangeSingle { kind, node }], ..Default::default() }
    }

    /// The payload of a `ConfChangeV2` entry.
    pub fn encode(&self) -> Bytes {
        if *self == ConfChangeV2::default() {
            return Bytes::new();
        }
        let mut bytes = Vec::with_capacity(5 + SINGLE_BYTES * self.changes.len() + self.context.len());
        bytes.push(match self.transition {
            ConfChangeTransition::Auto => 0,
            ConfChangeTransition::Implicit => 1,
            ConfChangeTransition::Explicit => 2,
        });
        let count = u32::try_from(self.changes.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        self.changes.iter().take(count as usize).for_each(|change| put_single(&mut bytes, change));
        bytes.extend_from_slice(&self.context);
        bytes.into()
    }

    /// Reads the change in an entry of either kind.
    ///
    /// # Errors
    /// When the entry is of another kind or its payload is not what [`ConfChange::encode`] writes.
    pub fn decode(entry: &Entry) -> Result<Self, ConfChangeDecodeError> {
        let data = &entry.data;
        match entry.kind {
            EntryKind::Normal => Err(ConfChangeDecodeError::NotAConfChange),
            EntryKind::ConfChange => {
                let change = read_single(data)?;
                let context = data.slice(SINGLE_BYTES..);
                Ok(ConfChangeV2 { transition: ConfChangeTransition::Auto, changes: vec![change], context })
            }
            EntryKind::ConfChangeV2 if data.is_empty() => Ok(ConfChangeV2::default()),
            EntryKind::ConfChangeV2 => {
                let Some(head) = data.first_chunk::<5>() else {
                    return Err(ConfChangeDecodeError::Truncated { have: data.len(), need: 5 });
                };
                let transition = match head[0] {
                    0 => ConfChangeTransition::Auto,
                    1 => ConfChangeTransition::Implicit,
                    2 => ConfChangeTransition::Explicit,
                    other => return Err(ConfChangeDecodeError::Transition(other)),
                };
                let count = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let need = count.saturating_mul(SINGLE_BYTES).saturating_add(5);
                if data.len() < need {
                    return Err(ConfChangeDecodeError::Truncated { have: data.len(), need });
                }
                let changes = data[5..need].chunks(SINGLE_BYTES).map(read_single).collect::<Result<_, _>>()?;
                Ok(ConfChangeV2 { transition, changes, context: data.slice(need..) })
            }
        }
    }

    /// Whether this is the zero change: it leaves a joint configuration.
    pub fn leaves_joint(&self) -> bool {
        self.changes.is_empty() && self.transition == ConfChangeTransition::Auto
    }

    /// Whether the change enters a joint configuration, and if so whether that leaves itself.
    pub fn enters_joint(&self) -> Option<bool> {
        match self.transition {
            ConfChangeTransition::Implicit => Some(true),
            ConfChangeTransition::Explicit => Some(false),
            ConfChangeTransition::Auto => (self.changes.len() > 1).then_some(true),
        }
    }
}

/// Why a configuration cannot become what a change asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    /// A joint configuration must be left before the next is entered.
    #[error("config is already joint")]
    AlreadyJoint,
    /// Nothing to leave.
    #[error("can't leave a non-joint config")]
    NotJoint,
    /// A group without voters has nobody to decide on a joint configuration.
    #[error("can't make a zero-voter config joint")]
    NoVoters,
    /// Direct changes have no meaning inside a joint configuration.
    #[error("can't apply simple config change in joint config")]
    SimpleInJoint,
    /// Two quorums of directly following configurations must overlap, which only one changed voter guarantees.
    #[error("more than one voter changed without entering joint config")]
    TooManyVoters,
    /// Nobody would be left to decide anything.
    #[error("removed all voters")]
    RemovedAllVoters,
}

/// Computes the next configuration; the current one is left alone.
#[derive(Clone, Copy, Debug)]
pub struct Changer<'a> {
    /// The configuration in force.
    pub configuration: &'a Configuration,
    /// Its members' progress.
    pub progress: &'a ProgressMap,
    /// Last index of the log: new members are probed from there.
    pub last_index: Index,
}

/// The next configuration and its members' progress.
pub type Changed = (Configuration, ProgressMap);

impl Changer<'_> {
    /// Applies `change` the way it asks for.
    ///
    /// # Errors
    /// See [`ConfChangeError`].
    pub fn apply(&self, change: &ConfChangeV2) -> Result<Changed, ConfChangeError> {
        if change.leaves_joint() {
            return self.leave_joint();
        }
        match change.enters_joint() {
            Some(auto_leave) => self.enter_joint(auto_leave, &change.changes),
            None => self.simple(&change.changes),
        }
    }

    /// Goes to the configuration that requires majorities of both the current and the changed voters.
    ///
    /// # Errors
    /// If the configuration is joint already, or has or would have no voters.
    pub fn enter_joint(&self, auto_leave: bool, changes: &[ConfChangeSingle]) -> Result<Changed, ConfChangeError> {
        if self.configuration.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if self.configuration.voters.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        let (mut next, mut progress) = (self.configuration.clone(), self.progress.clone());
        next.voters_outgoing = next.voters.clone();
        next.auto_leave = auto_leave;
        self.change_members(&mut next, &mut progress, changes)?;
        Ok((next, progress))
    }

    /// Goes from a joint configuration to its incoming half.
    ///
    /// # Errors
    /// If the configuration is not joint.
    pub fn leave_joint(&self) -> Result<Changed, ConfChangeError> {
        if !self.configuration.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        let (mut next, mut progress) = (self.configuration.clone(), self.progress.clone());
        for id in std::mem::take(&mut next.learners_next) {
            next.learners.insert(id);
            if let Some(member) = progress.get_mut(&id) {
                member.set_learner(true);
            }
        }
        for id in std::mem::take(&mut next.voters_outgoing) {
            if !next.voters.contains(&id) && !next.learners.contains(&id) {
                progress.remove(&id);
            }
        }
        next.auto_leave = false;
        Ok((next, progress))
    }

    /// Applies changes directly, which is sound for at most one voter.
    ///
    /// # Errors
    /// If the configuration is joint, more than one voter would change, or none would be left.
    pub fn simple(&self, changes: &[ConfChangeSingle]) -> Result<Changed, ConfChangeError> {
        if self.configuration.is_joint() {
            return Err(ConfChangeError::SimpleInJoint);
        }
        let (mut next, mut progress) = (self.configuration.clone(), self.progress.clone());
        self.change_members(&mut next, &mut progress, changes)?;
        if next.voters.symmetric_difference(&self.configuration.voters).count() > 1 {
            return Err(ConfChangeError::TooManyVoters);
        }
        Ok((next, progress))
    }

    fn change_members(
        &self,
        next: &mut Configuration,
        progress: &mut ProgressMap,
        changes: &[ConfChangeSingle],
    ) -> Result<(), ConfChangeError> {
        for change in changes.iter().filter(|change| change.node != 0) {
            match change.kind {
                ConfChangeKind::AddNode => self.make_voter(next, progress, change.node),
                ConfChangeKind::AddLearnerNode => self.make_learner(next, progress, change.node),
                ConfChangeKind::RemoveNode => remove(next, progress, change.node),
                ConfChangeKind::UpdateNode => {}
            }
        }
        if next.voters.is_empty() { Err(ConfChangeError::RemovedAllVoters) } else { Ok(()) }
    }

    fn make_voter(&self, next: &mut Configuration, progress: &mut ProgressMap, id: NodeId) {
        next.voters.insert(id);
        next.learners.remove(&id);
        next.learners_next.remove(&id);
        match progress.get_mut(&id) {
            Some(member) => member.set_learner(false),
            None => drop(progress.insert(id, self.newcomer(false))),
        }
    }

    /// A voter of the outgoing half keeps voting there, so it cannot be a learner yet: it becomes one on leaving.
    fn make_learner(&self, next: &mut Configuration, progress: &mut ProgressMap, id: NodeId) {
        if next.learners.contains(&id) {
            return;
        }
        next.voters.remove(&id);
        if next.voters_outgoing.contains(&id) {
            next.learners_next.insert(id);
            return;
        }
        next.learners.insert(id);
        match progress.get_mut(&id) {
            Some(member) => member.set_learner(true),
            None => drop(progress.insert(id, self.newcomer(true))),
        }
    }

    /// A newcomer counts as active, so that check-quorum does not depose the leader before it could be heard from.
    fn newcomer(&self, is_learner: bool) -> Progress {
        Progress::new(self.last_index.max(1), is_learner)
    }
}

fn remove(next: &mut Configuration, progress: &mut ProgressMap, id: NodeId) {
    next.voters.remove(&id);
    next.learners.remove(&id);
    next.learners_next.remove(&id);
    if !next.voters_outgoing.contains(&id) {
        progress.remove(&id);
    }
}

/// The configuration that a stored [`ConfState`] describes, every member to be probed from `last_index`.
///
/// Ids of 0 are dropped. A learner that is also a voter is kept as a voter: a lost vote would be worse.
pub(crate) fn restore(state: &ConfState, last_index: Index) -> Changed {
    let set = |ids: &[NodeId]| ids.iter().copied().filter(|id| *id != 0).collect::<BTreeSet<_>>();
    let voters = set(&state.voters);
    let mut voters_outgoing = set(&state.voters_outgoing);
    // Class 12: only the incoming half is remembered.
    if defects::active(Defect::JointLeftOnRestart) {
        voters_outgoing.clear();
    }
    let mut learners = set(&state.learners);
    learners.retain(|id| !voters.contains(id) && !voters_outgoing.contains(id));
    let mut learners_next = set(&state.learners_next);
    learners_next.retain(|id| voters_outgoing.contains(id) && !voters.contains(id));
    let auto_leave = state.auto_leave && !voters_outgoing.is_empty();
    let configuration = Configuration { voters, voters_outgoing, learners, learners_next, auto_leave };
    let newcomer = |id| (id, Progress::new(last_index.max(1), configuration.learners.contains(&id)));
    let progress = configuration.members().into_iter().map(newcomer).collect();
    (configuration, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changer<'a>(of: &'a Changed) -> Changer<'a> {
        Changer { configuration: &of.0, progress: &of.1, last_index: 5 }
    }

    fn change(kind: ConfChangeKind, node: NodeId) -> ConfChangeSingle {
        ConfChangeSingle { kind, node }
    }

    #[test]
    fn both_forms_decode_to_what_was_encoded() {
        let one = ConfChange::V1 { change: change(ConfChangeKind::AddNode, 7), context: Bytes::from_static(b"addr") };
        let many = ConfChange::V2(ConfChangeV2 {
            transition: ConfChangeTransition::Explicit,
            changes: vec![change(ConfChangeKind::RemoveNode, 1), change(ConfChangeKind::AddLearnerNode, u64::MAX)],
            context: Bytes::from_static(b"why"),
        });
        for proposed in [one, many, ConfChange::V2(ConfChangeV2::default())] {
            let (kind, data) = proposed.encode();
            assert_eq!(ConfChangeV2::decode(&Entry { term: 1, index: 1, kind, data }), Ok(proposed.as_v2()));
        }
    }

    #[test]
    fn an_outgoing_voter_becomes_a_learner_only_on_leaving() {
        let start = restore(&ConfState { voters: vec![1, 2, 3], ..Default::default() }, 5);
        let demote = [change(ConfChangeKind::AddLearnerNode, 1), change(ConfChangeKind::RemoveNode, 2)];
        let joint = changer(&start).enter_joint(true, &demote).unwrap();
        assert!(joint.0.is_voter(1) && joint.0.is_voter(2) && joint.0.learners_next.contains(&1));
        assert!(!joint.1[&1].is_learner());
        let left = changer(&joint).leave_joint().unwrap();
        assert_eq!(left.0.members().into_iter().collect::<Vec<_>>(), [1, 3]);
        assert!(left.1[&1].is_learner() && !left.0.is_voter(1));
    }

    #[test]
    fn a_stored_configuration_comes_back_as_it_was() {
        let state = ConfState {
            voters: vec![2, 3],
            learners: vec![5],
            voters_outgoing: vec![1, 2],
            learners_next: vec![1],
            auto_leave: true,
        };
        let (configuration, progress) = restore(&state, 5);
        assert_eq!(configuration.to_conf_state(), state);
        assert_eq!(progress.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 5]);
        assert!(progress[&5].is_learner() && !progress[&1].is_learner());
    }

    #[test]
    fn what_overlapping_quorums_forbid_is_refused() {
        let start = restore(&ConfState { voters: vec![1, 2], ..Default::default() }, 5);
        let add = |node| change(ConfChangeKind::AddNode, node);
        assert_eq!(changer(&start).simple(&[add(3), add(4)]).unwrap_err(), ConfChangeError::TooManyVoters);
        let remove = [change(ConfChangeKind::RemoveNode, 1), change(ConfChangeKind::RemoveNode, 2)];
        assert_eq!(changer(&start).enter_joint(false, &remove).unwrap_err(), ConfChangeError::RemovedAllVoters);
        assert_eq!(changer(&start).leave_joint().unwrap_err(), ConfChangeError::NotJoint);
        let joint = changer(&start).enter_joint(false, &[add(3)]).unwrap();
        assert_eq!(changer(&joint).simple(&[add(4)]).unwrap_err(), ConfChangeError::SimpleInJoint);
        assert_eq!(changer(&joint).enter_joint(false, &[add(4)]).unwrap_err(), ConfChangeError::AlreadyJoint);
    }
}
