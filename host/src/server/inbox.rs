//! The way into the node for the rest of the host: bounded queues that the turn thread empties, and the ways back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use telegraft_node::{Input, ReadOutcome, Responder, WriteOutcome};
use telegraft_raft::NodeId;
use tokio::sync::oneshot;

use super::transfer::Unfit;

/// Peers' messages that may wait for the turn thread; then the peer's stream waits.
pub const PEER_INBOX_MAX: usize = 4_096;
/// Clients' writes that may wait for the turn thread; further ones are refused as overload. Reads likewise.
const CLIENT_INBOX_MAX: usize = 16_384;
/// Wishes to hand leadership over that may wait; operators are few.
const TRANSFER_INBOX_MAX: usize = 16;

/// What a waiting client learns.
#[derive(Debug)]
pub enum Answer<T> {
    /// What the node says.
    Outcome(T),
    /// The deadline had passed before anything was done.
    Expired,
}

/// The way of an answer to the task that waits for it. Nobody waits any more where the client went away.
pub enum Waiter {
    /// For a write, which stands all the same.
    Write(oneshot::Sender<Answer<WriteOutcome>>),
    /// For a read.
    Read(oneshot::Sender<Answer<ReadOutcome>>),
}

impl Waiter {
    /// The answer to one that came too late.
    pub fn expired(self) {
        match self {
            Self::Write(sender) => drop(sender.send(Answer::Expired)),
            Self::Read(sender) => drop(sender.send(Answer::Expired)),
        }
    }
}

impl Responder for Waiter {
    fn respond(self, outcome: WriteOutcome) {
        if let Self::Write(sender) = self {
            let _ = sender.send(Answer::Outcome(outcome));
        }
    }

    fn respond_read(self, outcome: ReadOutcome) {
        if let Self::Read(sender) = self {
            let _ = sender.send(Answer::Outcome(outcome));
        }
    }
}

/// A client's write that waits for the turn thread.
pub struct QueuedWrite {
    /// Data of the entry to propose.
    pub data: Bytes,
    /// After it nobody waits.
    pub deadline: Instant,
    /// Gets the answer.
    pub waiter: Waiter,
}

/// A client's read that waits for the turn thread.
pub struct QueuedRead {
    /// After it nobody waits.
    pub deadline: Instant,
    /// Gets the answer.
    pub waiter: Waiter,
}

/// A wish that another host lead.
pub struct HandOver {
    /// To whom; nothing: whoever is fit.
    pub to: Option<NodeId>,
    /// Gets whom the leader has chosen.
    pub answer: oneshot::Sender<Result<NodeId, Unfit>>,
}

/// The turn thread's end of the queues.
pub struct Inboxes {
    /// Of peers, and word of peers.
    pub peers: Receiver<Input<Waiter>>,
    /// Of clients.
    pub writes: Receiver<QueuedWrite>,
    /// Of clients.
    pub reads: Receiver<QueuedRead>,
    /// Of operators.
    pub transfers: Receiver<HandOver>,
}

/// The way into the node. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    peers: Sender<Input<Waiter>>,
    writes: Sender<QueuedWrite>,
    reads: Sender<QueuedRead>,
    transfers: Sender<HandOver>,
}

/// The node has stopped, or its inbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Try later.
    Full,
    /// The host is stopping.
    Stopped,
}

impl<T> From<TrySendError<T>> for Refused {
    fn from(error: TrySendError<T>) -> Self {
        match error {
            TrySendError::Full(_) => Self::Full,
            TrySendError::Disconnected(_) => Self::Stopped,
        }
    }
}

impl NodeHandle {
    /// Both ends.
    pub fn new() -> (Self, Inboxes) {
        let (peers, peer_inbox) = bounded(PEER_INBOX_MAX);
        let (writes, write_inbox) = bounded(CLIENT_INBOX_MAX);
        let (reads, read_inbox) = bounded(CLIENT_INBOX_MAX);
        let (transfers, transfer_inbox) = bounded(TRANSFER_INBOX_MAX);
        let inboxes = Inboxes { peers: peer_inbox, writes: write_inbox, reads: read_inbox, transfers: transfer_inbox };
        (Self { peers, writes, reads, transfers }, inboxes)
    }

    /// Hands in a peer's message (or word of a peer), waiting while the node's inbox is full so that the peer's stream
    /// feels it.
    pub async fn peer(&self, input: Input<Waiter>) -> Result<(), Refused> {
        let mut input = input;
        loop {
            match self.peers.try_send(input) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Refused::Stopped),
                Err(TrySendError::Full(back)) => {
                    input = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    /// Hands in a write to be proposed if this host leads; the answer comes through the receiver, which fails if the host
    /// stops before it is known.
    pub fn write(&self, data: Bytes, deadline: Instant) -> Result<oneshot::Receiver<Answer<WriteOutcome>>, Refused> {
        let (sender, receiver) = oneshot::channel();
        self.writes.try_send(QueuedWrite { data, deadline, waiter: Waiter::Write(sender) })?;
        Ok(receiver)
    }

    /// Asks from when on a read of this host's machine is linearizable. All that wait at a turn are asked for together.
    pub fn read(&self, deadline: Instant) -> Result<oneshot::Receiver<Answer<ReadOutcome>>, Refused> {
        let (sender, receiver) = oneshot::channel();
        self.reads.try_send(QueuedRead { deadline, waiter: Waiter::Read(sender) })?;
        Ok(receiver)
    }

    /// Asks this host, as the leader, to hand its leadership over, and gives to whom it will. That it has happened shows in
    /// [`Shared::leadership`](super::shared::Shared::leadership), if it does.
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<Result<NodeId, Unfit>, Refused> {
        let (answer, receiver) = oneshot::channel();
        self.transfers.try_send(HandOver { to, answer })?;
        receiver.await.map_err(|_| Refused::Stopped)
    }
}
