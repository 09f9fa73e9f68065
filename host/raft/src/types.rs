//! The vocabulary of the core: terms, indexes, entries, durable state and configuration as plain values.

use bytes::Bytes;

/// Identity of a member of the group; 0 means "no node".
pub type NodeId = u64;
/// Logical time of elections; 0 is the term before the first election.
pub type Term = u64;
/// Position in the log, from 1; 0 means "no entry".
pub type Index = u64;

/// What an entry's payload means to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A payload for the state machine; empty for the entry a new leader opens its term with.
    Normal,
    /// A change of one member, see [`ConfChange`](crate::ConfChange).
    ConfChange,
    /// A change of any number of members, see [`ConfChangeV2`](crate::ConfChangeV2). Empty: leave the joint configuration.
    ConfChangeV2,
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that created it.
    pub term: Term,
    /// Its position.
    pub index: Index,
    /// How `data` is read.
    pub kind: EntryKind,
    /// The payload.
    pub data: Bytes,
}

impl Entry {
    /// Bytes this entry counts for in a message or a batch: about what a tag-and-varint encoding takes. Positive for an
    /// empty entry too, so that empty entries cannot make a batch without bound.
    pub fn size(&self) -> u64 {
        let field = |value: u64| 1 + varint_size(value);
        let payload = if self.data.is_empty() { 0 } else { field(self.payload_size()) + self.payload_size() };
        field(0) + field(self.term) + field(self.index) + payload
    }

    /// Bytes of the payload alone, the measure of the uncommitted tail's limit.
    pub fn payload_size(&self) -> u64 {
        self.data.len() as u64
    }
}

/// What a node must never forget, and must write in one piece (Raft, figure 2: persistent state).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Candidate voted for in that term, or 0.
    pub vote: NodeId,
    /// Highest index known committed. A hint that may lag: losing it costs time, never safety.
    pub commit: Index,
}

/// The members of the group as they are stored, every list in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voters of the configuration in force, or of the incoming half of a joint one.
    pub voters: Vec<NodeId>,
    /// Members that receive the log but neither vote nor count.
    pub learners: Vec<NodeId>,
    /// Voters of the outgoing half; empty unless the configuration is joint.
    pub voters_outgoing: Vec<NodeId>,
    /// Outgoing voters that become learners once the joint configuration is left.
    pub learners_next: Vec<NodeId>,
    /// Whether the leader proposes by itself to leave the joint configuration.
    pub auto_leave: bool,
}

/// What a snapshot replaces, and the membership at that point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Membership as of `index`.
    pub conf_state: ConfState,
    /// The last index the snapshot covers; 0 for "no snapshot".
    pub index: Index,
    /// The term of the entry at `index`.
    pub term: Term,
}

/// A state machine's state at an index, with the membership there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it stands in the log.
    pub meta: SnapshotMeta,
    /// Opaque to the core.
    pub data: Bytes,
}

/// What a node is at the moment (Raft §5.1; pre-candidate: thesis §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts entries from a leader.
    Follower,
    /// Asks whether an election could be won, without disturbing anyone's term.
    PreCandidate,
    /// Asks for votes in a term of its own.
    Candidate,
    /// Orders the log of its term.
    Leader,
}

/// State that helps clients find the leader and need not be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftState {
    /// The leader of the current term, or 0.
    pub leader: NodeId,
    /// This node's role.
    pub role: Role,
}

/// Answer to a read-index request: once `index` is applied, a read is linearizable (thesis §6.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The commit index when the request was taken up.
    pub index: Index,
    /// The caller's token, as it was handed to `read_index`.
    pub context: Bytes,
}

/// Bytes of `value` in base 128.
fn varint_size(value: u64) -> u64 {
    u64::from((u64::BITS - (value | 1).leading_zeros()).div_ceil(7))
}

/// Total size of `entries` as batches measure it.
pub(crate) fn entries_size(entries: &[Entry]) -> u64 {
    entries.iter().fold(0u64, |sum, e| sum.saturating_add(e.size()))
}

/// Total payload of `entries`.
pub(crate) fn payloads_size(entries: &[Entry]) -> u64 {
    entries.iter().fold(0u64, |sum, e| sum.saturating_add(e.payload_size()))
}

/// How many of `entries`, from the front, fit in `max_bytes`; at least one if there is any.
pub(crate) fn prefix_within(entries: &[Entry], max_bytes: u64) -> usize {
    let mut size = 0u64;
    for (taken, entry) in entries.iter().enumerate() {
        size = size.saturating_add(entry.size());
        if size > max_bytes && taken > 0 {
            return taken;
        }
    }
    entries.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(len: usize) -> Entry {
        Entry { term: 1, index: 1, kind: EntryKind::Normal, data: Bytes::from(vec![0; len]) }
    }

    #[test]
    fn a_prefix_holds_at_least_one_entry_and_no_more_than_fits() {
        let entries = [entry(100), entry(100), entry(100)];
        assert_eq!(prefix_within(&entries, 0), 1);
        assert_eq!(prefix_within(&entries, 216), 2);
        assert_eq!(prefix_within(&entries, 215), 1);
        assert_eq!(prefix_within(&entries, u64::MAX), 3);
        assert_eq!(prefix_within(&[], 5), 0);
    }
}
