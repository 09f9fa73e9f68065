//! Writes that a follower forwards to the leader, on one long-lived stream to each peer, many at a time, answered by id.
//! Owns the streams, both ends of them.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use telegraft_proto::internal::{
    Command, ForwardFailure, ForwardReply, ForwardRequest, forward_reply::Outcome, peer_client::PeerClient,
};
use telegraft_raft::{Index, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use super::{
    errors::bad_call,
    peers::introduce,
    shared::{GROUP, Shared},
    submit::Writes,
    threads::spawn_task,
};

/// Writes that may wait to be forwarded to one peer.
const QUEUE_MAX: usize = 4_096;
/// Writes of one peer that may be under way on the leader; then its stream waits.
const UNDER_WAY_MAX: usize = 16_384;
/// How long the leader may take to accept a stream before the write is taken back and tried again.
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);

/// What became of a forwarded write.
pub enum Forwarded {
    /// The leader's answer.
    Answered(Result<(Index, Bytes), Status>),
    /// The host asked does not lead; nothing was proposed.
    NotLeader,
    /// It never left this host.
    NotSent,
    /// It left, and the stream broke before the answer came.
    Lost,
    /// The deadline passed; `sent` tells whether it may have been applied.
    TimedOut {
        /// Whether it may have left this host.
        sent: bool,
    },
}

struct Job {
    command: Bytes,
    deadline: Instant,
    answer: oneshot::Sender<Forwarded>,
}

/// The way of writes to the other hosts. Cheap to clone.
#[derive(Clone)]
pub struct Forward {
    queues: Arc<[(NodeId, mpsc::Sender<Job>)]>,
}

impl Forward {
    /// Starts one task for each peer.
    pub fn start(shared: &Arc<Shared>, channels: &[(NodeId, Channel)], faults: &mpsc::UnboundedSender<String>) -> Self {
        let queues = channels
            .iter()
            .map(|(peer, channel)| {
                let (queue, jobs) = mpsc::channel(QUEUE_MAX);
                spawn_task("forward", faults.clone(), run(shared.clone(), channel.clone(), jobs));
                (*peer, queue)
            })
            .collect();
        Self { queues }
    }

    /// Sends a write to `leader` and waits for the answer, until the deadline.
    pub async fn call(&self, leader: NodeId, command: &Command, deadline: Instant) -> Forwarded {
        let Some((_, queue)) = self.queues.iter().find(|(peer, _)| *peer == leader) else { return Forwarded::NotSent };
        let (answer, receiver) = oneshot::channel();
        let job = Job { command: command.encode_to_vec().into(), deadline, answer };
        if queue.try_send(job).is_err() {
            return Forwarded::NotSent;
        }
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(forwarded)) => forwarded,
            Ok(Err(_)) => Forwarded::Lost,
            Err(_) => Forwarded::TimedOut { sent: true },
        }
    }
}

async fn run(shared: Arc<Shared>, channel: Channel, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.recv().await {
        carry(&shared, channel.clone(), first, &mut jobs).await;
    }
}

/// One life of a stream, begun for the job `first`.
async fn carry(shared: &Shared, channel: Channel, first: Job, jobs: &mut mpsc::Receiver<Job>) {
    let (requests, stream) = mpsc::channel(64);
    let mut request = Request::new(ReceiverStream::new(stream));
    introduce(&mut request, shared);
    // The leader bounds replies, as the activation says.
    let mut client = PeerClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut replies = match tokio::time::timeout(OPEN_TIMEOUT, client.forward(request)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(_)) | Err(_) => {
            let _ = first.answer.send(Forwarded::NotSent);
            // Those that came meanwhile share its fate; the stream is tried again with the next.
            while let Ok(job) = jobs.try_recv() {
                let _ = job.answer.send(Forwarded::NotSent);
            }
            return;
        }
    };
    let mut under_way: BTreeMap<u64, oneshot::Sender<Forwarded>> = BTreeMap::new();
    let mut next_id = 0;
    let mut forget_at = UNDER_WAY_MAX;
    let mut next = Some(first);
    loop {
        if let Some(job) = next.take() {
            next_id += 1;
            let timeout = job.deadline.saturating_duration_since(Instant::now());
            if timeout.is_zero() {
                let _ = job.answer.send(Forwarded::TimedOut { sent: false });
                // Round again, with nothing in hand.
                continue;
            }
            let request = ForwardRequest {
                id: next_id,
                group: GROUP,
                timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                command: job.command,
            };
            under_way.insert(next_id, job.answer);
            tokio::select! {
                biased;
                sent = requests.send(request) => if sent.is_err() { break },
                reply = replies.message() => {
                    // The send was given up half way: the answer's fate is that of a broken stream.
                    match reply {
                        Ok(Some(reply)) => {
                            settle(&mut under_way, reply);
                            if let Some(answer) = under_way.remove(&next_id) {
                                let _ = answer.send(Forwarded::NotSent);
                            }
                        }
                        _ => break,
                    }
                }
            }
        }
        tokio::select! {
            job = jobs.recv() => match job {
                Some(job) => next = Some(job),
                None => return,
            },
            reply = replies.message() => match reply {
                Ok(Some(reply)) => settle(&mut under_way, reply),
                _ => break,
            },
        }
        // Waiters that gave up (their deadline passed) are forgotten when the leader answers; should it not, here.
        if under_way.len() > forget_at {
            under_way.retain(|_, answer| !answer.is_closed());
            forget_at = UNDER_WAY_MAX.max(under_way.len() * 2);
        }
    }
    for (_, answer) in under_way {
        let _ = answer.send(Forwarded::Lost);
    }
}

fn settle(under_way: &mut BTreeMap<u64, oneshot::Sender<Forwarded>>, reply: ForwardReply) {
    let Some(answer) = under_way.remove(&reply.id) else { return };
    let forwarded = match reply.outcome {
        Some(Outcome::Payload(payload)) => Forwarded::Answered(Ok((reply.index, payload))),
        Some(Outcome::Failure(failure)) if failure.not_leader => Forwarded::NotLeader,
        Some(Outcome::Failure(failure)) => Forwarded::Answered(Err(Status::with_details(
            Code::from_i32(failure.code),
            failure.message,
            failure.details,
        ))),
        None => Forwarded::Lost,
    };
    let _ = answer.send(forwarded);
}

/// Replies on a peer's stream.
pub type Replies = Pin<Box<dyn Stream<Item = Result<ForwardReply, Status>> + Send>>;

/// The leader's end: proposes what a follower sends, many at a time.
pub fn serve(shared: Arc<Shared>, writes: Writes, mut stream: Streaming<ForwardRequest>) -> Replies {
    let (replies, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let room = Arc::new(tokio::sync::Semaphore::new(UNDER_WAY_MAX));
        while let Some(Ok(request)) = stream.next().await {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let (writes, replies, under_way) = (writes.clone(), replies.clone(), UnderWay::begin(shared.clone()));
            tokio::spawn(async move {
                let reply = answer(&writes, request).await;
                let _ = replies.send(Ok(reply)).await;
                drop((permit, under_way));
            });
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Counts a forwarded write until it is answered: a host that stops waits for that.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn begin(shared: Arc<Shared>) -> Self {
        shared.positions.forwarded.fetch_add(1, Relaxed);
        Self(shared)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.positions.forwarded.fetch_sub(1, Relaxed);
    }
}

async fn answer(writes: &Writes, request: ForwardRequest) -> ForwardReply {
    let id = request.id;
    let deadline = Instant::now() + Duration::from_millis(request.timeout_ms.min(u64::from(u32::MAX)));
    let answer = match Command::decode(request.command) {
        Ok(command) => writes.submit_here(command, deadline).await,
        Err(e) => Some(Err(bad_call(format!("the forwarded command cannot be decoded: {e}")))),
    };
    let failure = |not_leader, status: Status| {
        Outcome::Failure(ForwardFailure {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Bytes::copy_from_slice(status.details()),
            not_leader,
        })
    };
    match answer {
        Some(Ok((index, payload))) => ForwardReply { id, index, outcome: Some(Outcome::Payload(payload)) },
        Some(Err(status)) => ForwardReply { id, index: 0, outcome: Some(failure(false, status)) },
        None => ForwardReply { id, index: 0, outcome: Some(failure(true, Status::unavailable("not the leader"))) },
    }
}
