//! Whole-cluster tests of reads and writes through any host.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use telegraft_proto::{
    chat::{GetMessagesRequest, SendMessageReply},
    v1::{CallReply, Consistency, ReadCall, WriteCall},
};
use telegraft_tests::{
    chat::{self, Member},
    client::{decoded, may_try_again, reason},
    cluster::Cluster,
    polling::until,
};
use tonic::Code;

const SHORT: Duration = Duration::from_secs(5);

fn write_of(member: &Member, content: &str, client_id: &str, request_id: u64) -> WriteCall {
    WriteCall {
        method: chat::SEND_MESSAGE.to_owned(),
        payload: chat::message(member, content).encode_to_vec().into(),
        client_id: client_id.to_owned(),
        request_id,
        ..Default::default()
    }
}

fn read_of(member: &Member, consistency: Consistency, min_index: u64) -> ReadCall {
    let request = GetMessagesRequest { user_id: member.user.clone(), ..Default::default() };
    ReadCall {
        method: chat::GET_MESSAGES.to_owned(),
        payload: request.encode_to_vec().into(),
        consistency: consistency.into(),
        min_index,
        ..Default::default()
    }
}

/// Sends a call with a session to host `id` until it is answered.
async fn answered(cluster: &Cluster, id: u64, call: &WriteCall) -> Result<CallReply> {
    until("an answer", Duration::from_secs(20), async || {
        let answer = cluster.client(id)?.request(call.clone(), SHORT).await;
        match answer {
            Err(status) if !may_try_again(&status) => Ok(Err(status.into())),
            answer => Ok(Ok(answer?)),
        }
    })
    .await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_through_every_host_is_seen_the_same_on_every_host() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let mut newest = 0;
    for round in 0..3 {
        for first in 0..3 {
            let sent = chat::send(cluster.clients(), first, &alice, &format!("{round} through {first}")).await?;
            ensure!(sent.index > newest, "index {} after {newest}", sent.index);
            newest = sent.index;
        }
    }
    let mut answers = Vec::new();
    for host in cluster.clients() {
        answers.push(chat::read_all(host, &alice.user, newest).await?);
    }
    ensure!(answers.iter().all(|answer| answer.len() == 9), "{answers:?}");
    ensure!(answers.iter().all(|answer| *answer == answers[0]), "hosts differ: {answers:?}");
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_at_the_index_of_a_reply_reflects_that_write_on_every_host() -> Result<()> {
    let cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    // Right after each answer, and mostly on hosts that have not applied the entry yet.
    for count in 1..=60_usize {
        let sent = chat::send(cluster.clients(), count, &alice, &format!("message {count}")).await?;
        for (host, id) in cluster.clients().iter().zip(cluster.ids()) {
            let reply = host.query(read_of(&alice, Consistency::AtLeast, sent.index), SHORT).await?;
            ensure!(reply.index >= sent.index, "host {id} read at {}, asked for {}", reply.index, sent.index);
            let seen: telegraft_proto::chat::GetMessagesReply = decoded(reply)?.message;
            ensure!(seen.messages.len() == count, "host {id} shows {} of {count} messages", seen.messages.len());
        }
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_at_an_index_that_never_comes_ends_at_its_deadline() -> Result<()> {
    let cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    for host in cluster.clients() {
        let begun = std::time::Instant::now();
        let Err(status) = host.query(read_of(&alice, Consistency::AtLeast, u64::MAX), Duration::from_secs(1)).await
        else {
            bail!("an index that does not exist was read");
        };
        let late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled | Code::Unavailable);
        ensure!(late, "{status:?}");
        ensure!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_through_another_host_gets_the_first_answer_and_is_applied_once() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let call = write_of(&alice, "once", "retrying-client", 7);
    let mut replies = Vec::new();
    for id in [1, 2, 3, 1] {
        replies.push(decoded::<SendMessageReply>(answered(&cluster, id, &call).await?)?.message);
    }
    ensure!(replies.iter().all(|reply| *reply == replies[0]), "retries were answered differently: {replies:?}");

    // The same while the first answer has not come yet: all three at once.
    let call = write_of(&alice, "at once", "retrying-client", 8);
    let (one, two, three) =
        tokio::join!(answered(&cluster, 1, &call), answered(&cluster, 2, &call), answered(&cluster, 3, &call));
    let at_once = [one?, two?, three?].map(|reply| reply.payload);
    ensure!(at_once.iter().all(|payload| *payload == at_once[0]), "answered differently: {at_once:?}");

    // And after the whole cluster has lost its memory.
    for id in cluster.ids() {
        cluster.kill(id)?;
    }
    cluster.start_all().await?;
    cluster.wait_for_leader().await?;
    ensure!(answered(&cluster, 2, &call).await?.payload == at_once[0], "the restart has changed the answer");

    let agreement = cluster.wait_for_agreement().await?;
    for host in cluster.clients() {
        let seen = chat::read_all(host, &alice.user, agreement.index).await?;
        let counts = chat::counted(&seen);
        ensure!(counts.get("once") == Some(&1) && counts.get("at once") == Some(&1), "{counts:?}");
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_number_of_another_client_is_another_request() -> Result<()> {
    let cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    for client in ["one", "other"] {
        answered(&cluster, 1, &write_of(&alice, "hello", client, 1)).await?;
    }
    let last = answered(&cluster, 2, &write_of(&alice, "bye", "one", 2)).await?;
    let seen = chat::read_all(cluster.client(3)?, &alice.user, last.index).await?;
    ensure!(chat::counted(&seen).get("hello") == Some(&2), "{seen:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_by_the_module_carries_its_code_and_message_from_every_host() -> Result<()> {
    let cluster = Cluster::start_with_chat().await?;
    let hosts = cluster.clients();
    let alice = chat::user_in_chat(hosts, "alice").await?;
    let bob = chat::create_user(hosts, 0, "bob").await?.message.user_id;
    let outsider = Member { user: bob.clone(), chat: alice.chat.clone() };
    let nobody = Member { user: "no-such-user".to_owned(), chat: alice.chat.clone() };
    let nowhere = Member { user: alice.user.clone(), chat: "01900000-0000-7000-8000-000000000000".to_owned() };
    let too_long = "x".repeat(4097);
    for first in 0..3 {
        let cases = [
            ("a taken name", chat::create_user(hosts, first, "alice").await.err(), &[Code::AlreadyExists][..]),
            ("an empty name", chat::create_user(hosts, first, "").await.err(), &[Code::InvalidArgument]),
            ("a stranger", chat::send(hosts, first, &outsider, "hi").await.err(), &[Code::PermissionDenied]),
            ("no user", chat::send(hosts, first, &nobody, "hi").await.err(), &[Code::NotFound, Code::InvalidArgument]),
            ("no chat", chat::send(hosts, first, &nowhere, "hi").await.err(), &[Code::NotFound]),
            ("no content", chat::send(hosts, first, &alice, "").await.err(), &[Code::InvalidArgument]),
            ("much content", chat::send(hosts, first, &alice, &too_long).await.err(), &[Code::InvalidArgument]),
            ("no chat", chat::join(hosts, first, &nowhere).await.err(), &[Code::NotFound]),
        ];
        for (what, status, codes) in cases {
            let status = status.with_context(|| format!("{what} was accepted through host {}", first + 1))?;
            ensure!(codes.contains(&status.code()), "{what}: {status:?}");
            ensure!(!status.message().is_empty(), "{what}: no message");
            let (_, metadata) = reason(&status).with_context(|| format!("{what}: no ErrorInfo"))?;
            ensure!(metadata.get("applied").is_some_and(|applied| applied == "no"), "{what}: {metadata:?}");
        }
    }
    // None of it left a trace.
    ensure!(chat::read_all(cluster.client(1)?, &alice.user, 0).await?.is_empty());
    ensure!(chat::join(hosts, 0, &outsider).await?.message.joined);
    ensure!(!chat::join(hosts, 1, &outsider).await?.message.joined, "joined twice");
    cluster.passed()
}
