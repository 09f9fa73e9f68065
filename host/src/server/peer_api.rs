//! `telegraft.internal.v1.Peer`: the door for the other hosts. Every stream is refused unless it names a host of this
//! cluster.

use std::sync::Arc;

use telegraft_proto::internal::{ForwardRequest, RaftEnd, RaftFrame, peer_server::Peer};
use tonic::{Request, Response, Status, Streaming};

use super::{forward, peers, shared::Shared, submit::Writes, threads::NodeHandle};

/// Serves peers.
#[derive(Clone)]
pub struct PeerService {
    /// This host.
    pub shared: Arc<Shared>,
    /// Takes Raft messages.
    pub node: NodeHandle,
    /// Takes forwarded writes.
    pub writes: Writes,
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn raft(&self, request: Request<Streaming<RaftFrame>>) -> Result<Response<RaftEnd>, Status> {
        let from = peers::identify(request.metadata(), &self.shared)?;
        peers::run_inbound(&self.shared, &self.node, from, request.into_inner()).await?;
        Ok(Response::new(RaftEnd {}))
    }

    type ForwardStream = forward::Replies;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        peers::identify(request.metadata(), &self.shared)?;
        Ok(Response::new(forward::serve(self.writes.clone(), request.into_inner())))
    }
}
