//! `telegraft.internal.v1.Peer`: the door for the other hosts. Every stream is refused unless it names a host of this
//! cluster.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use telegraft_proto::internal::{
    ConditionReply, ConditionRequest, ForwardRequest, RaftEnd, RaftFrame, TransferReply, TransferRequest,
    peer_server::Peer,
};
use telegraft_sandbox::{Digest, Sandbox};
use tonic::{Request, Response, Status, Streaming};

use super::{forward, inbox::NodeHandle, peers, shared::Shared, submit::Writes, transfer::Transfers};

/// Serves peers.
#[derive(Clone)]
pub struct PeerService {
    /// This host.
    pub shared: Arc<Shared>,
    /// Takes Raft messages.
    pub node: NodeHandle,
    /// Takes forwarded writes.
    pub writes: Writes,
    /// Takes wishes that another host lead.
    pub transfers: Transfers,
    /// Knows which modules are compiled.
    pub sandbox: Sandbox,
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
        Ok(Response::new(forward::serve(self.shared.clone(), self.writes.clone(), request.into_inner())))
    }

    async fn condition(&self, request: Request<ConditionRequest>) -> Result<Response<ConditionReply>, Status> {
        peers::identify(request.metadata(), &self.shared)?;
        let halted = self.shared.halted().is_some();
        let asked = Digest::try_from(&*request.get_ref().module);
        let module_ready = asked.is_ok_and(|digest| !self.sandbox.is_compiling(&digest));
        Ok(Response::new(ConditionReply { halted, applied_index: self.shared.applied_index(), module_ready }))
    }

    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<TransferReply>, Status> {
        peers::identify(request.metadata(), &self.shared)?;
        let TransferRequest { to, timeout_ms, .. } = request.into_inner();
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.min(u64::from(u32::MAX)));
        let reply = match self.transfers.transfer_here((to != 0).then_some(to), deadline).await {
            None => TransferReply { not_leader: true, ..TransferReply::default() },
            Some(done) => {
                let done = done?;
                TransferReply {
                    not_leader: false,
                    leader_id: done.leader,
                    term: done.term,
                    previous_leader_id: done.previous,
                }
            }
        };
        Ok(Response::new(reply))
    }
}
