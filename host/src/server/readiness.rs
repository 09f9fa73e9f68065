//! Whether all hosts have compiled a module, before it is activated: an activation waits for the compiler in the machine's own
//! thread, and everything behind it waits too. So the host that is asked to activate lets the others finish first, which
//! compile in the background as soon as an upload is complete.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use telegraft_proto::internal::{ConditionRequest, peer_client::PeerClient};
use telegraft_raft::{Index, NodeId};
use telegraft_sandbox::{Digest, Sandbox};
use tonic::{Request, transport::Channel};

use super::{
    peers::introduce,
    shared::{GROUP, Shared},
};

/// How long one host may take to answer; a host that does not is not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the hosts are asked.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long the others are waited for where the caller names no time.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest that they are waited for, whatever the caller says.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// Asks the other hosts. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    shared: Arc<Shared>,
    channels: Arc<[(NodeId, Channel)]>,
    sandbox: Sandbox,
}

impl Readiness {
    /// See the head of this file.
    pub fn new(shared: Arc<Shared>, channels: &[(NodeId, Channel)], sandbox: Sandbox) -> Self {
        Self { shared, channels: channels.into(), sandbox }
    }

    /// Returns when neither this host nor any that answers is still compiling the module, or when half of the caller's `timeout` is over.
    pub async fn wait(&self, digest: Digest, timeout: Option<Duration>) {
        let until = Instant::now() + timeout.map_or(PATIENCE, |timeout| timeout / 2).min(PATIENCE_MAX);
        // The module is complete here. A host that has applied as much has begun to compile it, if it had not before.
        let applied = self.shared.applied_index();
        while Instant::now() < until {
            let others = self.channels.iter().map(|(_, channel)| self.is_ready(channel.clone(), digest, applied));
            let others = futures::future::join_all(others).await;
            if !self.sandbox.is_compiling(&digest) && others.into_iter().all(|ready| ready) {
                return;
            }
            tokio::time::sleep(INTERVAL).await;
        }
        tracing::info!(%digest, "a module is activated though a host may still be compiling it");
    }

    /// Whether a host has applied so much and is not compiling it; true where it does not answer or has halted: then there is nothing to wait for.
    async fn is_ready(&self, channel: Channel, digest: Digest, applied: Index) -> bool {
        let mut request = Request::new(ConditionRequest { group: GROUP, module: Bytes::copy_from_slice(&digest.0) });
        introduce(&mut request, &self.shared);
        let mut peer = PeerClient::new(channel);
        match tokio::time::timeout(ANSWER_TIMEOUT, peer.condition(request)).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                reply.halted || (reply.module_ready && reply.applied_index >= applied)
            }
            _ => true,
        }
    }
}
