//! Whole-cluster tests of nonsense from outside: a host answers it with an error or hangs up, and serves everybody else.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use telegraft_proto::{
    internal::{ForwardRequest, RaftFrame, RaftMessage, peer_client::PeerClient},
    v1::{Consistency, ReadCall, WriteCall},
};
use telegraft_tests::{
    chat,
    client::{HostClient, may_try_again, reason},
    cluster::Cluster,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status};

const WITHIN: Duration = Duration::from_secs(10);

/// All hosts still serve, none has been restarted, and their states are equal.
async fn all_is_well(cluster: &mut Cluster, user: &chat::Member) -> Result<()> {
    ensure!(cluster.live().len() == 3, "a host has ended");
    for first in 0..3 {
        chat::send(cluster.clients(), first, user, "still well?").await?;
    }
    cluster.wait_for_agreement().await?;
    Ok(())
}

/// Sends a write until it gets an answer that is more than "not now".
async fn refusal(host: &HostClient, call: &WriteCall) -> Result<Status> {
    telegraft_tests::polling::until("a refusal", WITHIN, async || match host.request(call.clone(), WITHIN).await {
        Ok(reply) => Ok(Err(anyhow::anyhow!("accepted at index {}", reply.index))),
        Err(status) if may_try_again(&status) => Err(status.into()),
        Err(status) => Ok(Ok(status)),
    })
    .await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_call_is_refused_with_its_reason_on_every_host() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let good = WriteCall {
        method: chat::SEND_MESSAGE.to_owned(),
        payload: chat::message(&alice, "hello").encode_to_vec().into(),
        ..Default::default()
    };
    let malformed = WriteCall { payload: vec![0xff; 40].into(), ..good.clone() };
    let unknown_method = WriteCall { method: "chat.v1.Chat/Shout".to_owned(), ..good.clone() };
    let no_method = WriteCall { method: String::new(), ..good.clone() };
    let odd_method = WriteCall { method: "/\u{0}../../etc/passwd".to_owned(), ..good.clone() };
    let long_method = WriteCall { method: "m".repeat(100_000), ..good.clone() };
    let unknown_machine = WriteCall { machine: "elsewhere".to_owned(), ..good.clone() };
    let long_client = WriteCall { client_id: "c".repeat(65), request_id: 1, ..good.clone() };
    let oversize = WriteCall { payload: vec![b'x'; (2 << 20) + 1].into(), ..good.clone() };
    // Far beyond the limit the host does not even take the message in; the transport refuses it.
    let flood = WriteCall { payload: vec![b'x'; 32 << 20].into(), ..good.clone() };
    let wrong_text = WriteCall { payload: vec![0x0a, 0x02, 0xff, 0xfe].into(), ..good.clone() };
    let cases = [
        ("a malformed payload", malformed, &[Code::InvalidArgument][..]),
        ("text that is no UTF-8", wrong_text, &[Code::InvalidArgument]),
        ("an unknown method", unknown_method, &[Code::Unimplemented]),
        ("no method", no_method, &[Code::InvalidArgument, Code::Unimplemented]),
        ("an odd method", odd_method, &[Code::InvalidArgument, Code::Unimplemented]),
        ("a long method", long_method, &[Code::InvalidArgument, Code::Unimplemented]),
        ("an unknown machine", unknown_machine, &[Code::NotFound, Code::InvalidArgument]),
        ("a long client id", long_client, &[Code::InvalidArgument]),
        ("a payload too large", oversize, &[Code::InvalidArgument]),
        ("far too large a payload", flood, &[Code::InvalidArgument]),
    ];
    for (what, call, codes) in &cases {
        for (host, id) in cluster.clients().iter().zip(cluster.ids()) {
            let status = refusal(host, call).await.with_context(|| format!("{what}, host {id}"))?;
            ensure!(codes.contains(&status.code()) && !status.message().is_empty(), "{what}, host {id}: {status:?}");
        }
    }
    for (what, call, codes) in &cases {
        if what.contains("client") || what.contains("large") {
            continue;
        }
        let read = ReadCall {
            machine: call.machine.clone(),
            // A payload is judged by a method that reads.
            method: if call.method == chat::SEND_MESSAGE { chat::GET_MESSAGES.to_owned() } else { call.method.clone() },
            payload: call.payload.clone(),
            consistency: Consistency::Local.into(),
            min_index: 0,
        };
        let status = match cluster.client(2)?.query(read, WITHIN).await {
            Ok(_) if what.contains("machine") => bail!("{what} was read"),
            Ok(reply) => bail!("{what} was read: {reply:?}"),
            Err(status) => status,
        };
        ensure!(codes.contains(&status.code()), "{what}, as a read: {status:?}");
    }
    let odd = ReadCall { method: chat::GET_MESSAGES.to_owned(), consistency: 99, ..Default::default() };
    let answer = cluster.client(1)?.query(odd, WITHIN).await;
    ensure!(answer.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument), "consistency 99: {answer:?}");
    all_is_well(&mut cluster, &alice).await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_reads_cannot_write_and_one_that_writes_cannot_be_read() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let call = ReadCall {
        method: chat::SEND_MESSAGE.to_owned(),
        payload: chat::message(&alice, "written by a read").encode_to_vec().into(),
        ..Default::default()
    };
    for host in cluster.clients() {
        let Err(status) = host.query(call.clone(), WITHIN).await else { bail!("a read has written") };
        ensure!(!may_try_again(&status), "{status:?}");
    }
    let agreement = cluster.wait_for_agreement().await?;
    ensure!(chat::read_all(cluster.client(1)?, &alice.user, agreement.index).await?.is_empty());
    all_is_well(&mut cluster, &alice).await?;
    cluster.passed()
}

/// Bytes that are no HTTP/2: random-looking ones, a lone preface, and a preface with a frame of absurd length.
fn garbage() -> Vec<Vec<u8>> {
    let noise = (0..65_536_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let absurd = [preface.as_slice(), &[0xff, 0xff, 0xff, 0x04, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x41; 4096]].concat();
    let old = b"GET / HTTP/1.1\r\nHost: telegraft\r\n\r\n".to_vec();
    vec![noise, preface, absurd, old, vec![0; 1]]
}

async fn throw(bytes: &[u8], at: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(at).await.with_context(|| format!("connecting to {at}"))?;
    // The host may hang up in the middle, and is right to.
    let _ = stream.write_all(bytes).await;
    let mut answer = [0; 1024];
    let _ = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut answer)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_any_port_harms_nobody() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    for id in cluster.ids() {
        let addresses = cluster.host(id)?.addresses();
        for port in [addresses.client, addresses.peer, addresses.http] {
            for bytes in garbage() {
                throw(&bytes, port).await?;
            }
        }
    }
    // And a client that connects and says nothing costs no more than its socket.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(cluster.host(1)?.addresses().client).await?);
        silent.push(TcpStream::connect(cluster.host(1)?.addresses().peer).await?);
    }
    all_is_well(&mut cluster, &alice).await?;
    cluster.passed()
}

/// A request as a peer would open its stream with.
fn peer_request<T>(message: T, cluster: Option<&'static str>, from: Option<&'static str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(cluster) = cluster {
        request.metadata_mut().insert("telegraft-cluster", tonic::metadata::MetadataValue::from_static(cluster));
    }
    if let Some(from) = from {
        request.metadata_mut().insert("telegraft-from", tonic::metadata::MetadataValue::from_static(from));
    }
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_on_the_peer_port_is_refused() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let before = cluster.wait_for_leader().await?;
    // A vote request of a far future term would depose the leader, if anybody listened.
    let usurper = RaftMessage { kind: 5, from: 3, to: 1, term: 1 << 40, ..Default::default() };
    let frame = RaftFrame { group: 1, messages: vec![usurper] };
    let strangers = [
        ("another cluster", Some("another-cluster"), Some("3")),
        ("no cluster", None, Some("3")),
        ("an unknown host", Some("test"), Some("77")),
        ("no host", Some("test"), None),
        ("a host that is no number", Some("test"), Some("three")),
        ("host 0", Some("test"), Some("0")),
    ];
    for id in cluster.ids() {
        let peer = HostClient::new(cluster.host(id)?.addresses().peer);
        for (what, name, from) in strangers {
            let frames = tokio_stream::iter(vec![frame.clone()]);
            let mut client = PeerClient::new(peer.channel());
            let raft = tokio::time::timeout(WITHIN, client.raft(peer_request(frames, name, from))).await;
            let Err(status) = raft.with_context(|| format!("{what}: the stream stays open"))? else {
                bail!("{what} was let in to host {id}");
            };
            let codes =
                [Code::PermissionDenied, Code::FailedPrecondition, Code::Unauthenticated, Code::InvalidArgument];
            ensure!(codes.contains(&status.code()), "{what}: {status:?}");
            let requests = tokio_stream::iter(vec![ForwardRequest { id: 1, group: 1, ..Default::default() }]);
            let forward = tokio::time::timeout(WITHIN, client.forward(peer_request(requests, name, from))).await;
            ensure!(forward.with_context(|| format!("{what}: no answer"))?.is_err(), "{what} may forward to host {id}");
        }
    }
    let after = cluster.wait_for_leader().await?;
    ensure!(after.term < before.term + 100, "a stranger's term was believed: {after:?}");
    all_is_well(&mut cluster, &alice).await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_talks_nonsense_harms_nobody() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    // Rightly introduced as host 3, but what it says makes no sense: kinds that do not exist, other groups, other
    // addressees, entries out of order. Terms stay low: a true peer with a huge term is no nonsense but bad luck.
    let nonsense: Vec<RaftFrame> = (0..200_u64)
        .map(|number| RaftFrame {
            group: number % 3,
            messages: vec![RaftMessage {
                kind: u32::try_from(number % 30).unwrap_or_default(),
                from: number % 5,
                to: number % 4,
                term: 0,
                index: u64::MAX - number,
                log_term: u64::MAX,
                commit: u64::MAX,
                context: vec![0xff; 64].into(),
                ..Default::default()
            }],
        })
        .collect();
    for id in [1, 2] {
        let peer = HostClient::new(cluster.host(id)?.addresses().peer);
        let request = peer_request(tokio_stream::iter(nonsense.clone()), Some("test"), Some("3"));
        // Refused or swallowed, both are well.
        let _ = tokio::time::timeout(Duration::from_secs(2), PeerClient::new(peer.channel()).raft(request)).await;
        let requests = vec![
            ForwardRequest { id: 1, group: 1, timeout_ms: 500, command: vec![0xff; 100].into() },
            ForwardRequest { id: 1, group: 9, timeout_ms: u64::MAX, command: Vec::new().into() },
            ForwardRequest::default(),
        ];
        let request = peer_request(tokio_stream::iter(requests), Some("test"), Some("3"));
        let answers =
            tokio::time::timeout(Duration::from_secs(2), PeerClient::new(peer.channel()).forward(request)).await;
        if let Ok(Ok(answers)) = answers {
            let mut answers = answers.into_inner();
            while let Ok(Ok(Some(answer))) = tokio::time::timeout(Duration::from_secs(2), answers.message()).await {
                use telegraft_proto::internal::forward_reply::Outcome;
                ensure!(matches!(answer.outcome, Some(Outcome::Failure(_))), "nonsense was carried out: {answer:?}");
            }
        }
    }
    all_is_well(&mut cluster, &alice).await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_who_leads_and_whether_the_write_took_place() -> Result<()> {
    let cluster = Cluster::start_with_chat().await?;
    let call =
        WriteCall { machine: "elsewhere".to_owned(), method: chat::SEND_MESSAGE.to_owned(), ..Default::default() };
    for host in cluster.clients() {
        let status = refusal(host, &call).await?;
        let (reason, metadata) = reason(&status).with_context(|| format!("no ErrorInfo in {status:?}"))?;
        ensure!(reason.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{reason}");
        ensure!(metadata.get("applied").is_some_and(|applied| applied == "no"), "{metadata:?}");
        ensure!(metadata.contains_key("leader"), "{metadata:?}");
    }
    cluster.passed()
}
