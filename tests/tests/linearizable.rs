//! Whole-cluster tests of linearizable reads: any host answers them, with everything that was answered anywhere before,
//! and rather not at all than with less. With a round of messages for each, and with leases.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use telegraft_proto::{
    chat::{GetMessagesReply, GetMessagesRequest},
    v1::{Consistency, ReadCall},
};
use telegraft_tests::{
    chat::{self, Member},
    client::{HostClient, decoded, reason},
    cluster::{Cluster, Plan},
    polling::{PATIENCE, until},
};
use tonic::{Code, Request, Status};

/// How a leader may make sure that it leads.
const KINDS: [&str; 2] = ["read-index", "lease"];

/// Three hosts with the chat.
async fn cluster(read: &str) -> Result<Cluster> {
    let tables = format!("[raft]\nread = \"{read}\"\n");
    let mut cluster = Cluster::start_with(Plan { tables, ..Default::default() }).await?;
    cluster.install(telegraft_modules::CHAT).await?;
    Ok(cluster)
}

fn read_of(member: &Member) -> ReadCall {
    let request = GetMessagesRequest { user_id: member.user.clone(), limit: 500, ..Default::default() };
    ReadCall {
        method: chat::GET_MESSAGES.to_owned(),
        payload: request.encode_to_vec().into(),
        consistency: Consistency::Linearizable.into(),
        ..Default::default()
    }
}

/// How many messages a linearizable read on this host shows.
async fn count(host: &HostClient, member: &Member, within: Duration) -> Result<usize, Status> {
    let reply: GetMessagesReply = decoded(host.query(read_of(member), within).await?)?.message;
    Ok(reply.messages.len())
}

/// The same by the module's own service.
async fn count_natively(host: &HostClient, member: &Member) -> Result<usize, Status> {
    let message = GetMessagesRequest { user_id: member.user.clone(), limit: 500, ..Default::default() };
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    let level = "linearizable".parse().map_err(|_| Status::internal("no metadata"))?;
    request.metadata_mut().insert("telegraft-consistency", level);
    Ok(host.chat().get_messages(request).await?.into_inner().messages.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_host_shows_what_any_host_has_just_acknowledged() -> Result<()> {
    for kind in KINDS {
        let cluster = cluster(kind).await?;
        let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
        for written in 1..=60_usize {
            chat::send(cluster.clients(), written, &alice, &format!("message {written}")).await?;
            // At once on all three: mostly on hosts that have not applied the entry yet.
            let [one, two, three] = cluster.clients() else { bail!("not three hosts") };
            let (one, two, three) = tokio::join!(
                count(one, &alice, PATIENCE),
                count(two, &alice, PATIENCE),
                count(three, &alice, PATIENCE)
            );
            let seen = [one?, two?, three?];
            ensure!(seen == [written; 3], "{kind}: the hosts show {seen:?} of {written} messages");
            let host = &cluster.clients()[written % 3];
            ensure!(count_natively(host, &alice).await? == written, "{kind}: the own service, message {written}");
        }
        cluster.passed()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_and_writers_at_once_never_see_an_old_state() -> Result<()> {
    for kind in KINDS {
        let cluster = cluster(kind).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..16_usize {
            let hosts = cluster.clients().to_vec();
            tasks.spawn(async move {
                let member = chat::user_in_chat(&hosts, &format!("user {task}")).await?;
                for written in 1..=25 {
                    chat::send(&hosts, task + written, &member, &format!("{written}")).await?;
                    let host = &hosts[(task + written + 1) % 3];
                    let seen = count(host, &member, PATIENCE).await?;
                    ensure!(seen == written, "{seen} messages of {written} on {}", host.address());
                }
                Ok(())
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome?.context(kind)?;
        }
        cluster.passed()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_slept_catches_up_before_it_answers() -> Result<()> {
    let mut cluster = cluster("read-index").await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    for round in 1..=5_usize {
        let leader = cluster.wait_for_leader().await?.id;
        let sleeper = cluster.ids().into_iter().find(|id| *id != leader).context("no follower")?;
        cluster.host_mut(sleeper)?.pause()?;
        let awake = others(&mut cluster, sleeper)?;
        for message in 0..40 {
            chat::send(&awake, message, &alice, &format!("{round}, {message}")).await?;
        }
        // Asked while it sleeps, so that it answers the moment it wakes.
        let host = cluster.client(sleeper)?.clone();
        let asked = tokio::spawn({
            let alice = alice.clone();
            async move { count(&host, &alice, PATIENCE).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.host_mut(sleeper)?.resume()?;
        let seen = asked.await??;
        ensure!(seen == 40 * round, "{seen} messages of {} on the host that slept", 40 * round);
    }
    cluster.passed()
}

/// Clients of all live hosts but one.
fn others(cluster: &mut Cluster, one: u64) -> Result<Vec<HostClient>> {
    let ids: Vec<u64> = cluster.live().into_iter().filter(|id| *id != one).collect();
    ids.into_iter().map(|id| cluster.client(id).cloned()).collect()
}

/// The old leader sleeps while another is elected and written to. Reads wait in its sockets, and more come when it wakes:
/// what it believes then is old, and its clock of ticks has not noticed.
async fn an_old_leader_never_shows_an_old_state(kind: &str) -> Result<()> {
    let mut cluster = cluster(kind).await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let mut answered = 0;
    for round in 1..=8_usize {
        let old = cluster.wait_for_leader().await?;
        let sleeper = cluster.client(old.id)?.clone();
        // A fresh lease, if there is such a thing.
        ensure!(count(&sleeper, &alice, PATIENCE).await? == round - 1);
        cluster.host_mut(old.id)?.pause()?;
        let new = cluster.wait_for_leader().await?;
        ensure!(new.id != old.id && new.term > old.term);
        chat::send(&others(&mut cluster, old.id)?, 0, &alice, &format!("round {round}")).await?;

        let mut reads = tokio::task::JoinSet::new();
        let read = |reads: &mut tokio::task::JoinSet<_>| {
            let (host, alice) = (sleeper.clone(), alice.clone());
            reads.spawn(async move { count(&host, &alice, Duration::from_secs(5)).await });
        };
        (0..8).for_each(|_| read(&mut reads));
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.host_mut(old.id)?.resume()?;
        for _ in 0..40 {
            read(&mut reads);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        while let Some(seen) = reads.join_next().await {
            match seen? {
                Ok(seen) => {
                    ensure!(seen == round, "{kind}: the old leader showed {seen} of {round} messages");
                    answered += 1;
                }
                Err(status) => ensure!(status.code() == Code::Unavailable, "{status:?}"),
            }
        }
    }
    println!("{kind}: {answered} reads answered");
    ensure!(answered > 100, "too few answers to judge: {answered}");
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_wakes_never_shows_an_old_state_by_read_index() -> Result<()> {
    an_old_leader_never_shows_an_old_state("read-index").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_wakes_never_shows_an_old_state_by_lease() -> Result<()> {
    an_old_leader_never_shows_an_old_state("lease").await
}

/// Whether the leader answers a read while both of its followers sleep: asked at once, and once it has had time to notice.
async fn answers_alone(cluster: &mut Cluster, member: &Member) -> Result<(bool, bool)> {
    let leader = cluster.wait_for_leader().await?.id;
    let client = cluster.client(leader)?.clone();
    let followers: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    // A connection, and a fresh lease where there are leases.
    count(&client, member, PATIENCE).await?;
    for id in &followers {
        cluster.host_mut(*id)?.pause()?;
    }
    let at_once = count(&client, member, Duration::from_millis(500)).await.is_ok();
    let later = until("the leader to give up", PATIENCE, async || {
        let machine = cluster.machine(leader).await?;
        ensure!(machine.leader_id == 0, "it still follows {}", machine.leader_id);
        Ok(())
    });
    later.await?;
    let begun = Instant::now();
    let refusal = count(&client, member, Duration::from_secs(1)).await;
    ensure!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    if let Err(status) = &refusal {
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        let (reason, metadata) = reason(status).context("no ErrorInfo")?;
        ensure!(reason == "NO_LEADER" && metadata.contains_key("leader"), "{reason} {metadata:?}");
    }
    // What is at hand is shown to whoever is content with it.
    chat::read_all(&client, &member.user, 0).await?;
    for id in &followers {
        cluster.host_mut(*id)?.resume()?;
    }
    Ok((at_once, refusal.is_ok()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_alone_answers_by_its_lease_and_then_no_more() -> Result<()> {
    let mut by_read_index = cluster("read-index").await?;
    let alice = chat::user_in_chat(by_read_index.clients(), "alice").await?;
    for _ in 0..3 {
        ensure!(answers_alone(&mut by_read_index, &alice).await? == (false, false), "nobody can have confirmed it");
    }
    by_read_index.passed()?;

    let mut by_lease = cluster("lease").await?;
    let alice = chat::user_in_chat(by_lease.clients(), "alice").await?;
    // A busy machine may need longer than a lease lasts.
    for attempt in 1.. {
        let (at_once, later) = answers_alone(&mut by_lease, &alice).await?;
        ensure!(!later, "the lease never ends");
        if at_once {
            break;
        }
        ensure!(attempt < 20, "no lease was ever used");
    }
    by_lease.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_a_linearizable_read_ends_unavailable_within_its_deadline() -> Result<()> {
    let mut cluster = cluster("read-index").await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    cluster.kill(1)?;
    cluster.kill(2)?;
    let host = cluster.client(3)?.clone();
    // The first may still be told of a leader that is gone.
    for _ in 0..3 {
        let begun = Instant::now();
        let Err(status) = count(&host, &alice, Duration::from_secs(1)).await else {
            bail!("one host of three answered a linearizable read");
        };
        ensure!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        let (reason, _) = reason(&status).context("no ErrorInfo")?;
        ensure!(reason == "NO_LEADER", "{status:?}");
    }
    // One that waits is answered when a majority is back.
    let waiting = tokio::spawn(async move { count(&host, &alice, Duration::from_secs(25)).await });
    cluster.start_host(1).await?;
    ensure!(waiting.await?? == 0);
    cluster.passed()
}
