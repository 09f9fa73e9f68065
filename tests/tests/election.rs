//! Whole-cluster tests of elections: there is a leader soon, there is never more than one in a term, and a new one comes
//! when the old one is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use telegraft_proto::v1::Role;
use telegraft_tests::{
    chat,
    client::HostClient,
    cluster::{Cluster, machine_of},
    polling::until,
};
use tokio::task::JoinHandle;

/// Asks all hosts over and over who leads, and keeps every claim to lead that any host makes for itself.
struct Watch {
    over: Arc<AtomicBool>,
    claims: JoinHandle<BTreeMap<u64, BTreeSet<u64>>>,
}

impl Watch {
    fn begin(hosts: &[HostClient]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (hosts, stop) = (hosts.to_vec(), Arc::clone(&over));
        let claims = tokio::spawn(async move {
            let mut claims: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                for (id, host) in (1_u64..).zip(&hosts) {
                    let Ok(Ok(machine)) = host.status(false).await.map(machine_of) else { continue };
                    if machine.role() == Role::Leader {
                        claims.entry(machine.term).or_default().insert(id);
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            claims
        });
        Self { over, claims }
    }

    /// The leaders seen in each term. Fails where a term has two.
    async fn end(self) -> Result<BTreeMap<u64, BTreeSet<u64>>> {
        self.over.store(true, Ordering::Relaxed);
        let claims = self.claims.await?;
        ensure!(claims.values().all(|leaders| leaders.len() == 1), "two leaders in one term: {claims:?}");
        Ok(claims)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_elect_a_leader_within_five_seconds() -> Result<()> {
    let mut cluster = Cluster::prepare(Default::default()).await?;
    cluster.start_all().await?;
    let leader = cluster.wait_for_leader_within(Duration::from_secs(5)).await?;
    ensure!(leader.term > 0);
    for id in cluster.ids() {
        until("every host to know the leader and its address", Duration::from_secs(5), async || {
            let machine = cluster.machine(id).await?;
            let known = cluster.client(machine.leader_id)?.address().to_string();
            ensure!(machine.leader_address == known, "host {id} says {:?}", machine.leader_address);
            Ok(())
        })
        .await?;
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_term_ever_has_two_leaders_while_leaders_are_killed_in_turn() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let watch = Watch::begin(cluster.clients());
    let mut terms = vec![cluster.wait_for_leader().await?];
    for _ in 0..3 {
        let old = cluster.wait_for_leader().await?;
        cluster.kill(old.id)?;
        let new = cluster.wait_for_leader().await?;
        ensure!(new.term > old.term && new.id != old.id, "{old:?} was followed by {new:?}");
        cluster.start_host(old.id).await?;
        terms.push(new);
    }
    let claims = watch.end().await?;
    ensure!(claims.len() >= 3, "the watch has seen too little to judge: {claims:?}");
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_is_replaced_and_follows_when_it_wakes() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let old = cluster.wait_for_leader().await?;
    let watch = Watch::begin(cluster.clients());

    cluster.host_mut(old.id)?.pause()?;
    let new = cluster.wait_for_leader().await?;
    ensure!(new.id != old.id && new.term > old.term, "{old:?} was followed by {new:?}");
    let others: Vec<HostClient> =
        cluster.live().into_iter().map(|id| cluster.client(id).cloned()).collect::<Result<_>>()?;
    let meanwhile = chat::send(&others, 0, &alice, "said while the old leader slept").await?;

    cluster.host_mut(old.id)?.resume()?;
    until("the woken host to step down", Duration::from_secs(10), async || {
        let machine = cluster.machine(old.id).await?;
        ensure!(machine.term > old.term, "it is still in term {}", machine.term);
        Ok(())
    })
    .await?;
    let seen = chat::read_all(cluster.client(old.id)?, &alice.user, meanwhile.index).await?;
    ensure!(chat::counted(&seen).get("said while the old leader slept") == Some(&1), "{seen:?}");
    watch.end().await?;
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_host_is_its_own_majority() -> Result<()> {
    let mut cluster = Cluster::start_with(telegraft_tests::cluster::Plan { hosts: 1, ..Default::default() }).await?;
    cluster.install(telegraft_modules::CHAT).await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    chat::send(cluster.clients(), 0, &alice, "to myself").await?;
    cluster.kill(1)?;
    cluster.start_host(1).await?;
    cluster.wait_for_leader().await?;
    cluster.wait_until_applied().await?;
    ensure!(chat::read_all(cluster.client(1)?, &alice.user, 0).await?.len() == 1);
    cluster.passed()
}
