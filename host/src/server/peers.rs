//! Raft messages between hosts. Owns one long-lived stream to each peer, and the service that takes peers' streams in.
//!
//! A peer's silence never blocks the node: its queue is bounded, what does not fit is dropped and the core told so, and
//! the stream is made anew, with a pause that grows, whenever it breaks.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use telegraft_node::Input;
use telegraft_proto::internal::{RaftFrame, peer_client::PeerClient};
use telegraft_raft::{Message, MessageKind, NodeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, metadata::MetadataMap, transport::Channel, transport::Endpoint};

use super::{
    inbox::NodeHandle,
    shared::{GROUP, PeerState, Shared},
    wire,
};

/// Messages that may wait for a peer's stream.
pub const OUTBOX_MAX: usize = 1_024;
/// Messages that one frame carries.
const FRAME_MESSAGES_MAX: usize = 256;
/// Frames that may wait inside the stream.
const FRAMES_UNDER_WAY_MAX: usize = 8;
/// Pauses before a broken stream is made anew.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// A stream that lasted so long had been taken in: the next pause begins small again. Longer than [`CONNECT_TIMEOUT`].
const STREAM_LIFE_MIN: Duration = Duration::from_secs(1);
/// How long a peer may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a silent connection is asked whether it lives, and how long the answer may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that may be under way on a stream, and on a connection, before the receiver must have read.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// See [`STREAM_WINDOW_BYTES`].
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Metadata that opens every stream between hosts.
const CLUSTER_KEY: &str = "telegraft-cluster";
const FROM_KEY: &str = "telegraft-from";

/// A channel to a peer that connects when first used, and again when it broke.
pub fn channel(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| format!("`{address}` is no host and port: {e}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

/// Says who we are, at the head of a stream.
pub fn introduce<T>(request: &mut Request<T>, shared: &Shared) {
    let metadata = request.metadata_mut();
    if let Ok(cluster) = shared.settings.cluster.parse() {
        metadata.insert(CLUSTER_KEY, cluster);
    }
    metadata.insert(FROM_KEY, shared.id().into());
}

/// Who opened a stream.
///
/// # Errors
///
/// For a stranger, and for a host of another cluster.
pub fn identify(metadata: &MetadataMap, shared: &Shared) -> Result<NodeId, Status> {
    let refuse = |message: String| {
        tracing::warn!("a stream from a peer was refused: {message}");
        super::errors::status(
            tonic::Code::PermissionDenied,
            super::errors::Reason::WrongCluster,
            super::errors::Applied::No,
            "",
            message,
        )
    };
    let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
    let ours = &shared.settings.cluster;
    match text(CLUSTER_KEY) {
        Some(cluster) if cluster == ours => {}
        Some(other) => return Err(refuse(format!("this is a host of cluster `{ours}`, the caller is of `{other}`"))),
        None => return Err(refuse(format!("a stream between hosts must carry the metadata `{CLUSTER_KEY}`"))),
    }
    let from = text(FROM_KEY).and_then(|id| id.parse::<NodeId>().ok());
    match from {
        Some(id) if shared.peer(id).is_some() => Ok(id),
        Some(id) => Err(refuse(format!("host {id} is not in the configuration of host {}", shared.id()))),
        None => Err(refuse(format!("a stream between hosts must carry the sender's id as `{FROM_KEY}`"))),
    }
}

/// Carries messages to one peer for as long as the host runs.
pub async fn run_outbound(
    shared: Arc<Shared>,
    node: NodeHandle,
    peer: NodeId,
    channel: Channel,
    mut outbox: mpsc::Receiver<Message>,
) {
    let mut pause = RECONNECT_PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let lost = carry(&shared, &node, peer, channel.clone(), &mut outbox).await;
        if outbox.is_closed() || node.peer(Input::Unreachable(peer)).await.is_err() {
            return;
        }
        let mut lost_a_snapshot = lost.is_some_and(|lost| lost.snapshot);
        pause =
            if begun.elapsed() >= STREAM_LIFE_MIN { RECONNECT_PAUSE_MIN } else { (pause * 2).min(RECONNECT_PAUSE_MAX) };
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
        // What waited meanwhile is stale: the core has been told, and sends what is needed now.
        while let Ok(message) = outbox.try_recv() {
            lost_a_snapshot |= message.kind == MessageKind::Snapshot;
        }
        if lost_a_snapshot && node.peer(Input::SnapshotSent { to: peer, arrived: false }).await.is_err() {
            return;
        }
    }
}

/// A frame that was not handed over.
struct Lost {
    /// Whether it carried a snapshot.
    snapshot: bool,
}

/// One life of a stream. Gives what was in hand when it ended.
async fn carry(
    shared: &Shared,
    node: &NodeHandle,
    peer: NodeId,
    channel: Channel,
    outbox: &mut mpsc::Receiver<Message>,
) -> Option<Lost> {
    let mut client = PeerClient::new(channel).max_encoding_message_size(usize::MAX);
    let (frames, stream) = mpsc::channel(FRAMES_UNDER_WAY_MAX);
    let mut request = Request::new(ReceiverStream::new(stream));
    introduce(&mut request, shared);
    // An empty frame opens the stream before there is anything to say: the peer knows by it that we are there.
    let _ = frames.try_send(RaftFrame { group: GROUP, messages: Vec::new() });
    let mut call = std::pin::pin!(client.raft(request));
    let mut messages = Vec::with_capacity(FRAME_MESSAGES_MAX);
    loop {
        tokio::select! {
            biased;
            end = &mut call => {
                if let Err(status) = end {
                    tracing::debug!(peer, %status, "the stream to a peer ended");
                }
                return None;
            }
            count = outbox.recv_many(&mut messages, FRAME_MESSAGES_MAX) => {
                if count == 0 {
                    return None;
                }
                let snapshot = messages.iter().any(|message| message.kind == MessageKind::Snapshot);
                let frame = RaftFrame { group: GROUP, messages: messages.drain(..).map(wire::to_wire).collect() };
                tokio::select! {
                    biased;
                    end = &mut call => {
                        if let Err(status) = end {
                            tracing::debug!(peer, %status, "the stream to a peer ended");
                        }
                        return Some(Lost { snapshot });
                    }
                    sent = frames.send(frame) => {
                        if sent.is_err() {
                            return Some(Lost { snapshot });
                        }
                    }
                }
                // Should the stream still lose it, the peer's answer to the next append will tell.
                if snapshot && node.peer(Input::SnapshotSent { to: peer, arrived: true }).await.is_err() {
                    return None;
                }
            }
        }
    }
}

/// Takes in one peer's stream until it ends.
pub async fn run_inbound(
    shared: &Shared,
    node: &NodeHandle,
    from: NodeId,
    stream: tonic::Streaming<RaftFrame>,
) -> Result<(), Status> {
    let Some(peer) = shared.peer(from) else { return Err(Status::permission_denied("a stranger")) };
    if peer.streams.fetch_add(1, Relaxed) == 0 {
        tracing::info!(peer = from, "a peer's stream stands");
    }
    let _open = OpenStream { peer, from };
    take_in(shared, node, peer, stream).await
}

/// Counts a peer's stream for as long as it stands, however it ends.
struct OpenStream<'a> {
    peer: &'a PeerState,
    from: NodeId,
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        if self.peer.streams.fetch_sub(1, Relaxed) == 1 {
            tracing::warn!(peer = self.from, "a peer's stream ended");
        }
    }
}

async fn take_in(
    shared: &Shared,
    node: &NodeHandle,
    peer: &PeerState,
    mut stream: tonic::Streaming<RaftFrame>,
) -> Result<(), Status> {
    let from = peer.address.id;
    while let Some(frame) = stream.message().await? {
        shared.hear(peer);
        if frame.group != GROUP {
            tracing::warn!(from, group = frame.group, "a peer speaks of a machine this host does not carry");
            continue;
        }
        for message in frame.messages {
            if message.from != from || message.to != shared.id() {
                return Err(Status::invalid_argument(format!(
                    "host {from} sent a message from {} to {}; this is host {}",
                    message.from,
                    message.to,
                    shared.id()
                )));
            }
            let Some(message) = wire::from_wire(message) else {
                tracing::warn!(from, "a peer sent a message of an unknown kind: is it of another version?");
                continue;
            };
            if node.peer(Input::Peer(message)).await.is_err() {
                return Err(Status::unavailable("this host is stopping"));
            }
        }
    }
    Ok(())
}
