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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use telegraft_modules::CHAT;
    use telegraft_proto::internal::{
        ConditionReply, ForwardReply, ForwardRequest, RaftEnd, RaftFrame, TransferReply, TransferRequest,
        peer_server::{Peer, PeerServer},
    };
    use telegraft_sandbox::SandboxOptions;
    use tempfile::TempDir;
    use tokio::{net::TcpListener, sync::watch};
    use tonic::{
        Response, Status, Streaming,
        transport::{Server, server::TcpIncoming},
    };

    use super::*;
    use crate::{server::peers, settings::Settings};

    /// The newest entry that the asking host has applied.
    const APPLIED: Index = 10;
    const WELL: ConditionReply = ConditionReply { halted: false, applied_index: APPLIED, module_ready: true };
    const COMPILING: ConditionReply = ConditionReply { module_ready: false, ..WELL };
    const BEHIND: ConditionReply = ConditionReply { applied_index: APPLIED - 1, ..WELL };
    const HALTED: ConditionReply = ConditionReply { halted: true, applied_index: 0, module_ready: false };

    /// For what a host does at once.
    const SOON: Duration = Duration::from_secs(20);
    /// A caller's patience that no test is to reach.
    const LONG: Option<Duration> = Some(Duration::from_secs(600));

    /// What a host says when it is asked for its condition.
    #[derive(Clone, Copy)]
    enum Answer {
        Is(ConditionReply),
        Fails,
        /// It takes the question and says nothing.
        Hangs,
    }

    /// Another host's peer service, which answers as told.
    #[derive(Clone)]
    struct Other {
        address: SocketAddr,
        answer: watch::Sender<Answer>,
        /// The module it was asked about last, and how often it was asked.
        asked: watch::Sender<(Bytes, u64)>,
    }

    impl Other {
        async fn start(answer: Answer) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let other = Self { address, answer: watch::Sender::new(answer), asked: watch::Sender::default() };
            let server = Server::builder().add_service(PeerServer::new(other.clone()));
            tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
            other
        }

        /// Returns once it was asked so often.
        async fn until_asked(&self, times: u64) {
            let mut asked = self.asked.subscribe();
            let asked = tokio::time::timeout(SOON, asked.wait_for(|(_, so_far)| *so_far >= times)).await;
            assert!(asked.is_ok_and(|asked| asked.is_ok()), "asked only {} times", self.asked.borrow().1);
        }
    }

    #[tonic::async_trait]
    impl Peer for Other {
        async fn condition(&self, request: Request<ConditionRequest>) -> Result<Response<ConditionReply>, Status> {
            self.asked.send_modify(|(module, times)| {
                *module = request.into_inner().module;
                *times += 1;
            });
            let answer = *self.answer.borrow();
            match answer {
                Answer::Is(reply) => Ok(Response::new(reply)),
                Answer::Fails => Err(Status::unavailable("this host is stopping")),
                Answer::Hangs => std::future::pending().await,
            }
        }

        async fn raft(&self, _: Request<Streaming<RaftFrame>>) -> Result<Response<RaftEnd>, Status> {
            Err(Status::unimplemented("not asked for"))
        }

        type ForwardStream = tokio_stream::Empty<Result<ForwardReply, Status>>;

        async fn forward(
            &self,
            _: Request<Streaming<ForwardRequest>>,
        ) -> Result<Response<Self::ForwardStream>, Status> {
            Err(Status::unimplemented("not asked for"))
        }

        async fn transfer(&self, _: Request<TransferRequest>) -> Result<Response<TransferReply>, Status> {
            Err(Status::unimplemented("not asked for"))
        }
    }

    /// What the host that is asked to activate has, with the others at these addresses.
    fn readiness(others: &[SocketAddr]) -> (Readiness, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(SandboxOptions::new(folder.path())).unwrap();
        let channels: Vec<_> =
            (2..).zip(others).map(|(id, address)| (id, peers::channel(&address.to_string()).unwrap())).collect();
        (Readiness::new(Shared::new(Settings::default(), APPLIED), &channels, sandbox), folder)
    }

    fn digest() -> Digest {
        Digest::of(b"a module")
    }

    #[tokio::test]
    async fn one_host_that_compiles_or_has_not_come_so_far_is_waited_for_until_it_has() {
        for not_yet in [COMPILING, BEHIND] {
            let ready = Other::start(Answer::Is(WELL)).await;
            let late = Other::start(Answer::Is(not_yet)).await;
            let (readiness, _folder) = readiness(&[ready.address, late.address]);
            let waiting = tokio::spawn(async move { readiness.wait(digest(), LONG).await });
            late.until_asked(3).await;
            assert!(!waiting.is_finished(), "{not_yet:?} was not waited for");
            assert_eq!(late.asked.borrow().0, digest().0[..], "asked about another module");
            late.answer.send_replace(Answer::Is(WELL));
            tokio::time::timeout(SOON, waiting).await.expect("it waits for nobody").expect("a panic");
        }
    }

    #[tokio::test]
    async fn this_host_is_waited_for_while_it_compiles() {
        let (readiness, _folder) = readiness(&[]);
        // The same module under other digests, by an empty section of another name, until the compiler is seen at work.
        for name in b'a'..=b'z' {
            let bytes = [CHAT, &[0, 2, 1, name]].concat();
            let (sandbox, module) = (readiness.sandbox.clone(), Digest::of(&bytes));
            let compiling = std::thread::spawn(move || sandbox.inspect(&bytes).map(drop));
            while !readiness.sandbox.is_compiling(&module) && !compiling.is_finished() {
                std::thread::yield_now();
            }
            let seen = readiness.sandbox.is_compiling(&module);
            readiness.wait(module, LONG).await;
            assert!(!readiness.sandbox.is_compiling(&module), "it was not waited for");
            compiling.join().expect("a panic").expect("the chat is a module");
            if seen {
                return;
            }
        }
        panic!("the compiler was never seen at work");
    }

    #[tokio::test]
    async fn a_host_that_has_halted_or_does_not_answer_is_not_waited_for() {
        let halted = Other::start(Answer::Is(HALTED)).await;
        let stopping = Other::start(Answer::Fails).await;
        let silent = Other::start(Answer::Hangs).await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for other in [halted.address, stopping.address, silent.address, nobody] {
            let (readiness, _folder) = readiness(&[other]);
            let waited = tokio::time::timeout(SOON, readiness.wait(digest(), LONG)).await;
            assert!(waited.is_ok(), "host {other} is waited for");
        }
        assert!([&halted, &stopping, &silent].into_iter().all(|other| other.asked.borrow().1 > 0), "nobody was asked");
    }

    #[tokio::test]
    async fn patience_ends_with_half_of_the_callers_time() {
        let other = Other::start(Answer::Is(COMPILING)).await;
        let (readiness, _folder) = readiness(&[other.address]);
        let begun = Instant::now();
        let time = Duration::from_secs(4);
        readiness.wait(digest(), Some(time)).await;
        assert!((time / 2..time).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}
