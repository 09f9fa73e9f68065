//! Why the core refuses.

use crate::confchange::{ConfChangeDecodeError, ConfChangeError};
use crate::config::ConfigError;
use crate::storage::StorageError;
use crate::types::{Index, NodeId};

/// Why a core cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A setting is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The durable state cannot be read.
    #[error("the stored state cannot be read: {0}")]
    Storage(#[from] StorageError),
    /// The log lost entries that were committed. The node must not take part again under its id.
    #[error("the stored commit index {commit} lies beyond the log's end {last_index}: committed entries are lost")]
    CommittedEntriesLost {
        /// The stored commit index.
        commit: Index,
        /// The log's last index.
        last_index: Index,
    },
    /// What is said to be applied is not in the log any more, or not yet: state machine and log do not belong together.
    #[error("`applied` is {applied}, must lie between the compaction point {low} and the log's end {high}")]
    AppliedOutOfRange {
        /// `Config::applied`.
        applied: Index,
        /// The compaction point.
        low: Index,
        /// The log's last index.
        high: Index,
    },
}

/// Why a message was not accepted. The core's state is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The message is for another node.
    #[error("the message is for node {0}")]
    WrongReceiver(NodeId),
    /// The sender's id is 0 or this node's own.
    #[error("the message claims to come from node {0}")]
    BadSender(NodeId),
    /// An answer from a node that is no member (any more).
    #[error("node {0} answers but is not a member")]
    UnknownPeer(NodeId),
    /// Term or log term cannot be: 0 where a term belongs, or a log newer than its sender.
    #[error("the terms in the message contradict each other")]
    BadTerm,
    /// Entries are not consecutive, or their terms go back or ahead of the sender's.
    #[error("the entries in the message are not a piece of a log")]
    BadEntries,
    /// A snapshot is missing, is of index 0 or newer than its sender, or names no voters.
    #[error("the snapshot in the message cannot be one")]
    BadSnapshot,
    /// Another leader of the same term.
    #[error("node {0} claims to lead a term that another node leads")]
    TwoLeaders(NodeId),
    /// The message would overwrite a committed entry.
    #[error("the entry at {0} is committed and differs from the message's")]
    CommittedConflict(Index),
    /// A commit index or an acknowledgement beyond the log's end.
    #[error("the message speaks of index {0}, which is beyond the log's end")]
    BeyondLog(Index),
    /// The log cannot be read any more, see [`Raft::fault`](crate::Raft::fault).
    #[error("the node has stopped: its log cannot be read")]
    Stopped,
    /// A proposal or read could not be taken up: there is no leader to hand it to, or this leader refuses it.
    #[error("the request in the message was dropped")]
    Dropped,
}

/// Why a proposal was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead; see [`Raft::leader`](crate::Raft::leader).
    #[error("this node is not the leader")]
    NotLeader,
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// The proposal was handed on to the leader; what becomes of it is not told.
    #[error("the proposal was handed on to the leader")]
    Forwarded,
    /// The uncommitted tail is full; try again once it shrinks.
    #[error("too much is proposed and not committed yet")]
    TooManyUncommitted,
    /// Leadership is being handed over.
    #[error("leadership is being transferred")]
    Transferring,
    /// This leader was removed from the group.
    #[error("this node is not in the configuration")]
    NotInConfiguration,
    /// Nothing was proposed.
    #[error("the proposal is empty")]
    Empty,
    /// An earlier change may not be applied yet. An empty entry was appended in the change's place.
    #[error("a configuration change before this one is not applied yet")]
    ConfChangePending,
    /// A joint configuration must be left first. An empty entry was appended in the change's place.
    #[error("the configuration is joint and must be left first")]
    ConfChangeInJoint,
    /// There is no joint configuration to leave. An empty entry was appended in the change's place.
    #[error("the configuration is not joint, there is nothing to leave")]
    ConfChangeNotJoint,
    /// The change cannot be applied to the configuration in force. An empty entry was appended in its place.
    #[error("the configuration change cannot be applied: {0}")]
    ConfChangeInvalid(ConfChangeError),
    /// A forwarded entry's bytes are no configuration change.
    #[error("the configuration change cannot be read")]
    ConfChangeMalformed,
    /// The log cannot be read any more.
    #[error("the node has stopped: its log cannot be read")]
    Stopped,
}

impl ProposeError {
    /// Whether an empty entry was appended in the proposal's place: its place in the log is taken, its effect is none.
    pub fn left_an_empty_entry(self) -> bool {
        matches!(
            self,
            ProposeError::ConfChangePending
                | ProposeError::ConfChangeInJoint
                | ProposeError::ConfChangeNotJoint
                | ProposeError::ConfChangeInvalid(_)
                | ProposeError::ConfChangeMalformed
        )
    }
}

impl From<ConfChangeDecodeError> for ProposeError {
    fn from(_: ConfChangeDecodeError) -> Self {
        ProposeError::ConfChangeMalformed
    }
}
