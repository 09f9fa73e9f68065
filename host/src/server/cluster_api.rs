//! `telegraft.v1.Cluster`: what this host knows of itself and of its peers, and the transfer of leadership.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use telegraft_proto::v1::{
    GetStatus, HostStatus, MachineStatus, PeerStatus, Role as WireRole, TransferLeadership, TransferredLeadership,
    cluster_server::Cluster,
};
use telegraft_raft::Role;
use telegraft_sandbox::MachineReader;
use tonic::{Code, Request, Response, Status};

use super::{
    client_api::{check_machine, timeout},
    errors::{Applied, Reason, status},
    modules_api::module_info,
    shared::{MACHINE, Shared},
    submit::deadline,
    transfer::Transfers,
};

/// Serves status and transfers.
#[derive(Clone)]
pub struct ClusterService {
    /// This host.
    pub shared: Arc<Shared>,
    /// Its machine.
    pub machine: MachineReader,
    /// Takes wishes that another host lead.
    pub transfers: Transfers,
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, request: Request<GetStatus>) -> Result<Response<HostStatus>, Status> {
        let shared = &self.shared;
        let (applied_index, digest) = if request.get_ref().digest {
            let machine = self.machine.clone();
            tokio::task::spawn_blocking(move || machine.state_digest())
                .await
                .map_err(|_| Status::internal("the digest panicked: this is a defect of Telegraft"))?
                .map_err(|fault| status(Code::DataLoss, Reason::Stopping, Applied::No, "", fault.to_string()))?
        } else {
            (0, String::new())
        };
        let leadership = *shared.leadership.borrow();
        // The two indexes agree unless entries were applied meanwhile; a digest is worth nothing without its index.
        let (effects_index, effects) = self.machine.effect_digest();
        let applied_index = if digest.is_empty() { effects_index } else { applied_index };
        let effect_digest = if effects_index == applied_index { hexadecimal(&effects) } else { String::new() };
        let machine = MachineStatus {
            machine: MACHINE.into(),
            role: match leadership.role {
                Role::Leader => WireRole::Leader,
                Role::Follower => WireRole::Follower,
                Role::Candidate | Role::PreCandidate => WireRole::Candidate,
            }
            .into(),
            leader_id: leadership.leader,
            leader_address: shared.client_address(leadership.leader).into(),
            term: leadership.term,
            last_index: shared.positions.last.load(Relaxed),
            commit_index: shared.positions.commit.load(Relaxed),
            applied_index,
            module: self.machine.active().map(|active| module_info(&active.record, true)),
            peers: shared
                .peers
                .iter()
                .map(|peer| PeerStatus {
                    host_id: peer.address.id,
                    client_address: peer.address.client.clone(),
                    peer_address: peer.address.peer.clone(),
                    connected: peer.connected(),
                    match_index: if leadership.role == Role::Leader { peer.match_index.load(Relaxed) } else { 0 },
                })
                .collect(),
            digest,
            halted: shared.halted().map(|why| why.to_string()).unwrap_or_default(),
            effect_digest,
            verified_index: self.machine.verified_index(),
            engine: telegraft_sandbox::engine_name().into(),
            alarms: self.machine.alarms(),
        };
        Ok(Response::new(HostStatus {
            cluster: shared.settings.cluster.clone(),
            host_id: shared.id(),
            client_address: shared.client_address(shared.id()).into(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            machines: vec![machine],
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeadership>,
    ) -> Result<Response<TransferredLeadership>, Status> {
        let deadline = deadline(&self.shared.settings, timeout(request.metadata()));
        let TransferLeadership { machine, to } = request.into_inner();
        check_machine(&machine)?;
        let done = self.transfers.transfer((to != 0).then_some(to), deadline).await?;
        Ok(Response::new(TransferredLeadership {
            leader_id: done.leader,
            leader_address: self.shared.client_address(done.leader).into(),
            term: done.term,
            previous_leader_id: done.previous,
        }))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
