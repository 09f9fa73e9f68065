//! Messages between nodes.
//!
//! One flat struct serves every kind: most fields are meaningful for a few kinds only, and are zero otherwise. Which
//! field means what is told at [`MessageKind`].

use bytes::Bytes;

use crate::types::{Entry, Index, NodeId, Snapshot, Term};

/// What a message asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// A follower hands `entries` (payload and kind; term and index unset) on to the leader. Carries no term.
    Propose,
    /// AppendEntries: `entries` follow the entry (`index`, `log_term`); `commit` is the sender's commit index.
    Append,
    /// `index` is the last index that now matches; with `reject`, the index that did not match, `reject_hint` an index
    /// and `log_term` its term from which the leader can find the point of divergence.
    AppendResponse,
    /// RequestVote: the candidate's last entry is (`index`, `log_term`). `context` = [`CAMPAIGN_TRANSFER`] overrides leases.
    Vote,
    /// `reject` tells the verdict.
    VoteResponse,
    /// As `Vote`, asking about `term` without having entered it.
    PreVote,
    /// `term` is the term asked about when granted, the voter's own when not.
    PreVoteResponse,
    /// InstallSnapshot: `snapshot` replaces the receiver's log up to its index.
    Snapshot,
    /// Sign of life; `commit` is no higher than what the receiver is known to hold; `context` names a read round.
    Heartbeat,
    /// Echoes `context`.
    HeartbeatResponse,
    /// The leader asks the receiver to start an election at once (leadership transfer).
    TimeoutNow,
    /// A follower hands a read-index request on to the leader; the request's token is `context`. Carries no term.
    ReadIndex,
    /// `index` is safe to read at once it is applied; `context` is the token.
    ReadIndexResponse,
    /// Leadership shall go to `from`. Carries no term.
    TransferLeader,
}

impl MessageKind {
    /// Every kind, in the order of the wire numbers.
    pub const ALL: [MessageKind; 14] = [
        MessageKind::Propose,
        MessageKind::Append,
        MessageKind::AppendResponse,
        MessageKind::Vote,
        MessageKind::VoteResponse,
        MessageKind::PreVote,
        MessageKind::PreVoteResponse,
        MessageKind::Snapshot,
        MessageKind::Heartbeat,
        MessageKind::HeartbeatResponse,
        MessageKind::TimeoutNow,
        MessageKind::ReadIndex,
        MessageKind::ReadIndexResponse,
        MessageKind::TransferLeader,
    ];

    /// The number this kind travels under; never 0, never reused.
    pub fn to_wire(self) -> u32 {
        match self {
            MessageKind::Propose => 1,
            MessageKind::Append => 2,
            MessageKind::AppendResponse => 3,
            MessageKind::Vote => 4,
            MessageKind::VoteResponse => 5,
            MessageKind::PreVote => 6,
            MessageKind::PreVoteResponse => 7,
            MessageKind::Snapshot => 8,
            MessageKind::Heartbeat => 9,
            MessageKind::HeartbeatResponse => 10,
            MessageKind::TimeoutNow => 11,
            MessageKind::ReadIndex => 12,
            MessageKind::ReadIndexResponse => 13,
            MessageKind::TransferLeader => 14,
        }
    }

    /// The kind behind a wire number; `None` for a number no peer may send.
    pub fn from_wire(number: u32) -> Option<Self> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        Self::ALL.get(at).copied()
    }

    /// Whether the message answers another. An answer from a node that is no member is not worth a look.
    pub(crate) fn is_response(self) -> bool {
        matches!(
            self,
            MessageKind::AppendResponse
                | MessageKind::VoteResponse
                | MessageKind::PreVoteResponse
                | MessageKind::HeartbeatResponse
                | MessageKind::ReadIndexResponse
        )
    }

    /// Whether the message travels without a term: it is a request by a client of the group, handed on.
    pub(crate) fn is_termless(self) -> bool {
        matches!(self, MessageKind::Propose | MessageKind::ReadIndex | MessageKind::TransferLeader)
    }

    /// Whether only the leader of the message's term sends such a message.
    pub(crate) fn is_from_leader(self) -> bool {
        matches!(self, MessageKind::Append | MessageKind::Snapshot | MessageKind::Heartbeat | MessageKind::TimeoutNow)
    }

    /// Whether the message may leave only once the sender's state is durable: what it promises must survive a crash.
    pub(crate) fn waits_for_append(self) -> bool {
        matches!(self, MessageKind::AppendResponse | MessageKind::VoteResponse | MessageKind::PreVoteResponse)
    }
}

/// `context` of a vote request made on the leader's behest: the voter need not wait for the leader's lease to end.
pub const CAMPAIGN_TRANSFER: &[u8] = b"transfer";

/// A message from one node to another; see [`MessageKind`] for what the fields mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: MessageKind,
    /// Sender.
    pub from: NodeId,
    /// Receiver.
    pub to: NodeId,
    /// The sender's term (with the exceptions told at the kinds).
    pub term: Term,
    /// A term that goes with `index`.
    pub log_term: Term,
    /// A log index.
    pub index: Index,
    /// Entries, consecutive.
    pub entries: Vec<Entry>,
    /// A commit index.
    pub commit: Index,
    /// Reserved: the vote of a hard state, where a host sends its storage requests as messages.
    pub vote: NodeId,
    /// The snapshot of a `Snapshot` message.
    pub snapshot: Option<Box<Snapshot>>,
    /// A refusal.
    pub reject: bool,
    /// See `AppendResponse`.
    pub reject_hint: Index,
    /// An opaque token.
    pub context: Bytes,
}

impl Message {
    /// A message with every optional field empty.
    pub fn new(kind: MessageKind, from: NodeId, to: NodeId) -> Self {
        Message {
            kind,
            from,
            to,
            term: 0,
            log_term: 0,
            index: 0,
            entries: Vec::new(),
            commit: 0,
            vote: 0,
            snapshot: None,
            reject: false,
            reject_hint: 0,
            context: Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_numbers_round_trip() {
        for kind in MessageKind::ALL {
            assert_eq!(MessageKind::from_wire(kind.to_wire()), Some(kind));
        }
        assert_eq!(MessageKind::from_wire(0), None);
        assert_eq!(MessageKind::from_wire(15), None);
        assert_eq!(MessageKind::from_wire(u32::MAX), None);
    }
}
