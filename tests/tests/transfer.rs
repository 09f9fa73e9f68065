//! Whole-cluster tests of handing leadership over: on an operator's wish, and when a leader is stopped as planned.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use telegraft_proto::v1::{TransferLeadership, TransferredLeadership, WriteCall, cluster_client::ClusterClient};
use telegraft_tests::{
    chat::{self, Member},
    client::{HostClient, reason},
    cluster::{Cluster, Leader},
    command::telegraft,
    polling::{PATIENCE, until},
};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};

/// Wishes that `to` lead, through a host.
async fn transfer(host: &HostClient, to: u64, within: Duration) -> Result<TransferredLeadership, Status> {
    let mut request = Request::new(TransferLeadership { machine: String::new(), to });
    request.set_timeout(within);
    ClusterClient::new(host.channel()).transfer_leader(request).await.map(tonic::Response::into_inner)
}

/// The same, and again where the machine was too busy for it (or leadership moved by itself meanwhile).
async fn transferred(host: &HostClient, to: u64) -> Result<TransferredLeadership> {
    until("the transfer", PATIENCE, async || match transfer(host, to, PATIENCE).await {
        Err(status) if status.code() != Code::Unavailable => Ok(Err(status.into())),
        outcome => Ok(Ok(outcome?)),
    })
    .await?
}

/// Writes without sessions or retries, one attempt each: every error shows.
struct Writers {
    over: Arc<AtomicBool>,
    tasks: JoinSet<Result<Written>>,
}

/// What writers did.
#[derive(Default)]
struct Written {
    acknowledged: usize,
    /// The longest time that one write took.
    longest: Duration,
    /// With which each ended that could not go on.
    failures: Vec<Status>,
}

impl Writers {
    fn begin(hosts: &[HostClient], member: &Member, name: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (writer, host) in hosts.iter().cycle().take(8).enumerate() {
            let name = format!("{name}, writer {writer}");
            tasks.spawn(write_until(Arc::clone(&over), host.clone(), member.clone(), name));
        }
        Self { over, tasks }
    }

    async fn end(mut self) -> Result<Written> {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        while let Some(outcome) = self.tasks.join_next().await {
            let one = outcome??;
            all.acknowledged += one.acknowledged;
            all.longest = all.longest.max(one.longest);
            all.failures.extend(one.failures);
        }
        Ok(all)
    }
}

async fn write_until(over: Arc<AtomicBool>, host: HostClient, member: Member, name: String) -> Result<Written> {
    let mut written = Written::default();
    while !over.load(Ordering::Relaxed) && written.failures.is_empty() {
        let content = format!("{name}, message {}", written.acknowledged);
        let call = WriteCall {
            method: chat::SEND_MESSAGE.to_owned(),
            payload: chat::message(&member, &content).encode_to_vec().into(),
            ..Default::default()
        };
        let begun = Instant::now();
        match host.request(call, Duration::from_secs(20)).await {
            Ok(_) => written.acknowledged += 1,
            Err(status) => written.failures.push(status),
        }
        written.longest = written.longest.max(begun.elapsed());
    }
    Ok(written)
}

/// Whether each acknowledged message is there once, and besides no more than `doubtful` others.
async fn all_written(cluster: &mut Cluster, member: &Member, written: usize, doubtful: usize) -> Result<()> {
    let agreement = cluster.wait_for_agreement().await?;
    let id = cluster.live().first().copied().context("no host")?;
    let seen = chat::read_all(cluster.client(id)?, &member.user, agreement.index).await?;
    ensure!(seen.len() >= written, "{written} messages were acknowledged, {} are there", seen.len());
    ensure!(seen.len() <= written + doubtful, "{written} messages were acknowledged, {} are there", seen.len());
    ensure!(chat::counted(&seen).len() == seen.len(), "some are there twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_wished_through_any_host_while_writers_notice_nothing() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let writers = Writers::begin(cluster.clients(), &alice, "one");
    let mut before = cluster.wait_for_leader().await?;
    for round in 0..9_u64 {
        let to = before.id % 3 + 1;
        let through = cluster.client(round % 3 + 1)?;
        let done = transferred(through, to).await?;
        ensure!(done.leader_id == to && done.term > before.term, "{done:?} after {before:?}");
        ensure!(done.leader_address == cluster.client(to)?.address().to_string(), "{done:?}");
        before = cluster.wait_for_leader().await?;
        ensure!(before == Leader { id: to, term: done.term } || before.term > done.term, "{before:?}, but {done:?}");
        // Some writes under this leader too.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let Written { acknowledged, longest, failures } = writers.end().await?;
    println!("{acknowledged} writes over 9 transfers, the slowest took {longest:?}");
    ensure!(failures.is_empty(), "{failures:?}");
    all_written(&mut cluster, &alice, acknowledged, 0).await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_name_the_most_complete_log_leads() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let leader = cluster.wait_for_leader().await?;
    let followers: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader.id).collect();
    // One sleeps, so that the other is the more complete, and the only one that is heard.
    cluster.host_mut(followers[0])?.pause()?;
    for number in 0..20 {
        chat::send(std::slice::from_ref(cluster.client(leader.id)?), 0, &alice, &format!("{number}")).await?;
    }
    let done = transferred(cluster.client(followers[1])?, 0).await?;
    ensure!((done.leader_id, done.previous_leader_id) == (followers[1], leader.id), "{done:?}");
    cluster.host_mut(followers[0])?.resume()?;
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

/// The code and reason of a refusal.
fn refused(outcome: Result<TransferredLeadership, Status>) -> Result<(Code, String, String)> {
    let Err(status) = outcome else { bail!("it was not refused: {outcome:?}") };
    let (reason, metadata) = reason(&status).with_context(|| format!("no ErrorInfo in {status:?}"))?;
    ensure!(metadata.contains_key("leader"), "{metadata:?}");
    Ok((status.code(), reason, status.message().to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_cannot_be_fulfilled_is_refused_with_the_reason_on_every_host() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let leader = cluster.wait_for_leader().await?;
    for host in cluster.clients() {
        let (code, _, message) = refused(transfer(host, 7, PATIENCE).await)?;
        ensure!(code == Code::NotFound && message.contains("1, 2, 3"), "{message}");
        // Who leads already is no error, and no change.
        let done = transfer(host, leader.id, PATIENCE).await?;
        ensure!((done.leader_id, done.previous_leader_id, done.term) == (leader.id, leader.id, leader.term));
    }
    let mut other = Request::new(TransferLeadership { machine: "other".to_owned(), to: 1 });
    other.set_timeout(PATIENCE);
    let answer = ClusterClient::new(cluster.client(1)?.channel()).transfer_leader(other).await;
    ensure!(refused(answer.map(tonic::Response::into_inner))?.0 == Code::NotFound);

    // One that sleeps, and one that is gone: refused soon, and the leader leads on.
    let followers: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader.id).collect();
    cluster.host_mut(followers[0])?.pause()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for through in [leader.id, followers[1]] {
        let (code, reason, message) = refused(transfer(cluster.client(through)?, followers[0], PATIENCE).await)?;
        ensure!((code, reason.as_str()) == (Code::Unavailable, "NOT_TRANSFERRED"), "{message}");
    }
    cluster.host_mut(followers[0])?.resume()?;
    cluster.kill(followers[0])?;
    let (code, reason, message) = refused(transfer(cluster.client(followers[1])?, followers[0], PATIENCE).await)?;
    ensure!((code, reason.as_str()) == (Code::Unavailable, "NOT_TRANSFERRED"), "{message}");
    ensure!(cluster.wait_for_leader().await? == leader, "leadership has moved");
    chat::send(cluster.clients(), 0, &alice, "as before").await?;

    // With nobody to lead there is nobody to ask.
    cluster.kill(leader.id)?;
    let begun = Instant::now();
    let outcome = transfer(cluster.client(followers[1])?, 0, Duration::from_secs(2)).await;
    let (code, reason, _) = refused(outcome)?;
    ensure!((code, reason.as_str()) == (Code::Unavailable, "NO_LEADER"), "{code:?} {reason}");
    ensure!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_who_leads_and_fails_with_the_reason() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let before = cluster.wait_for_leader().await?;
    let address = cluster.client(before.id % 3 + 1)?.address().to_string();
    let next = before.id % 3 + 1;
    let to = next.to_string();
    let arguments = |more: &[&str]| -> Vec<String> {
        let begin = ["--host", &address, "cluster", "transfer-leader"];
        begin.iter().chain(more).map(|&argument| argument.to_owned()).collect()
    };
    let done = telegraft(&arguments(&["--json", "--to", &to])).await?.json()?;
    ensure!(done["changed"] == true && done["leader_id"] == next, "{done}");
    ensure!(done["previous_leader_id"] == before.id && done["term"].as_u64() > Some(before.term), "{done}");
    let again = telegraft(&arguments(&["--to", &to])).await?;
    ensure!(again.code == 0 && again.stdout.contains("leads already"), "{again:?}");
    let anyone = telegraft(&arguments(&[])).await?;
    ensure!(anyone.code == 0 && anyone.stdout.contains("leads now"), "{anyone:?}");
    let unknown = telegraft(&arguments(&["--to", "9"])).await?;
    ensure!(unknown.code == 1 && unknown.stderr.contains("NOT_FOUND"), "{unknown:?}");
    let mistyped = telegraft(&arguments(&["--to", "me"])).await?;
    ensure!(mistyped.code == 2, "{mistyped:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_host_has_nobody_to_hand_over_to_and_stops_all_the_same() -> Result<()> {
    let plan = telegraft_tests::cluster::Plan { hosts: 1, ..Default::default() };
    let mut cluster = Cluster::start_with(plan).await?;
    let (code, reason, _) = refused(transfer(cluster.client(1)?, 0, PATIENCE).await)?;
    ensure!((code, reason.as_str()) == (Code::Unavailable, "NOT_TRANSFERRED"), "{code:?} {reason}");
    ensure!(cluster.host_mut(1)?.terminate(PATIENCE)?.success());
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_hands_over_first_and_no_client_of_another_host_sees_an_error() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let (mut written, mut doubtful, mut handed_over) = (0, 0, 0);
    for round in 0..4 {
        let old = cluster.wait_for_leader().await?;
        cluster.wait_until_applied().await?;
        let others: Vec<HostClient> = cluster
            .ids()
            .into_iter()
            .filter(|id| *id != old.id)
            .map(|id| cluster.client(id).cloned())
            .collect::<Result<_>>()?;
        let writers = Writers::begin(&others, &alice, &format!("round {round}"));
        let own = std::slice::from_ref(cluster.client(old.id)?);
        let own_writers = Writers::begin(own, &alice, &format!("round {round}, its own"));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        let ended = cluster.host_mut(old.id)?.terminate(PATIENCE)?;
        ensure!(ended.success(), "{ended}");
        let stopped = begun.elapsed();
        let new = cluster.wait_for_leader().await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Written { acknowledged, longest, failures } = writers.end().await?;
        println!("host {} stopped in {stopped:?}; {acknowledged} writes, the slowest took {longest:?}", old.id);
        ensure!(failures.is_empty(), "{failures:?}");
        // Its own clients find the door closed. Nobody is let in and then turned away, or left in doubt.
        let own = own_writers.end().await?;
        let answered = own.failures.iter().find(|status| status.source().is_none());
        ensure!(answered.is_none(), "the host that stopped answered {answered:?}");
        // Where the one election was the old leader's own wish, nobody had to notice that it was gone.
        let output = cluster.host(old.id)?.output()?;
        let says_so = output.contains("leadership was handed over before the stop");
        handed_over += usize::from(says_so && new.term == old.term + 1);
        written += acknowledged + own.acknowledged;
        doubtful += own.failures.len();
        cluster.start_host(old.id).await?;
    }
    // A busy machine may hold an election of its own now and then.
    ensure!(handed_over >= 2, "leadership was handed over in {handed_over} of 4 stops");
    all_written(&mut cluster, &alice, written, doubtful).await?;
    cluster.passed()
}
