//! Hostile modules on a cluster of three real hosts: each attack comes to what is documented for it, on every host alike;
//! the hosts live, serve others meanwhile, and hold equal states; and a replay of the whole log gives that state again.

mod components;
mod honest;
mod outcomes;

use std::{fs, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use telegraft_modules::HOSTILE;
use telegraft_proto::v1::{ActivateModule, CallReply, Consistency, ReadCall, WriteCall};
use telegraft_tests::{
    client::{HostClient, may_try_again},
    cluster::{Agreement, Cluster, Plan},
    polling::until,
};
use tonic::Status;

use crate::{
    honest::Honest,
    outcomes::{ATTACKS, Attack, REFUSED_AT_ACTIVATION, check},
};

const ATTACK: &str = "hostile.v1.Hostile/Attack";

/// Budgets that are used up in a fraction of a second.
const BUDGETS: &str = r#"
[machine]
fuel = 100000000
memory_bytes = "16MiB"
sql_steps = 500000
rows = 10000
result_bytes = "2MiB"
reply_bytes = "1MiB"
value_bytes = "1MiB"
database_bytes = "32MiB"
# A checkpoint of the hosts' own moves the machine's time, and with it the digest that a replay is held to.
digest_interval = "1h"

[telemetry]
log_level = "info"
"#;

/// For one attack, on a busy machine.
const ATTACK_WITHIN: Duration = Duration::from_secs(40);

/// For the replay of everything.
const REPLAY_WITHIN: Duration = Duration::from_secs(240);

/// One or more names of modules, separated by commas: only these are run.
const ONLY_VARIABLE: &str = "HOSTILE_ONLY";

fn chosen() -> Vec<&'static Attack> {
    let only = std::env::var(ONLY_VARIABLE).unwrap_or_default();
    let is_chosen = |attack: &&Attack| only.is_empty() || only.split(',').any(|name| name == attack.module);
    ATTACKS.iter().filter(is_chosen).collect()
}

fn component(name: &str) -> Result<&'static [u8]> {
    let found = HOSTILE.iter().find(|(module, _)| *module == name).map(|(_, bytes)| *bytes);
    found.with_context(|| format!("there is no hostile module {name}"))
}

#[test]
fn every_hostile_module_is_in_the_table_of_outcomes_and_says_what_it_tries() -> Result<()> {
    let mut listed: Vec<&str> = ATTACKS.iter().map(|attack| attack.module).chain([REFUSED_AT_ACTIVATION.0]).collect();
    listed.sort_unstable();
    let built: Vec<&str> = HOSTILE.iter().map(|(name, _)| *name).collect();
    ensure!(listed == built, "in the table: {listed:?}\nbuilt: {built:?}");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/modules/hostile/examples");
    for name in built {
        let text = fs::read_to_string(format!("{folder}/{name}.rs"))?;
        ensure!(text.starts_with("//! Tries: ") && text.contains("Outcome:"), "{name} does not say what it tries");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacks_come_to_what_is_documented_and_replicas_stay_equal_also_after_a_replay() -> Result<()> {
    let mut cluster = Cluster::start_with(Plan { tables: BUDGETS.to_owned(), ..Default::default() }).await?;
    let mut honest = Honest::default();
    for (number, attack) in chosen().into_iter().enumerate() {
        let begun = std::time::Instant::now();
        run(&mut cluster, &mut honest, number, attack).await.with_context(|| format!("module {}", attack.module))?;
        println!("{:<24} {:>6} ms", attack.module, begun.elapsed().as_millis());
    }
    refused_activation(&mut cluster, &mut honest).await?;
    logs_are_bounded_and_not_forged(&cluster)?;

    let before = cluster.wait_for_agreement().await?;
    println!("index {}, state {}, {} rows kept", before.index, before.digest, honest.kept());
    replay(&mut cluster, &before, false).await.context("a replay of everything")?;
    replay(&mut cluster, &before, true).await.context("a replay of everything that is killed in the middle")?;
    honest.serve_once(cluster.clients()).await.context("after the replays")?;
    cluster.passed()
}

/// One module: activated, attacked with as a command while others are served, then as a query on every host.
async fn run(cluster: &mut Cluster, honest: &mut Honest, number: usize, attack: &Attack) -> Result<()> {
    let ids = cluster.ids();
    let through = |offset: usize| ids.get((number + offset) % ids.len()).copied().unwrap_or(1);
    let uploaded = cluster.upload(through(0), component(attack.module)?).await.context("uploading")?;
    cluster.activate(through(1), &uploaded.digest).await.context("activating")?;
    cluster.wait_for_module(&uploaded.digest).await?;

    let served = honest.begin(cluster.clients());
    served.wait_for_more(&served.counts()).await?;
    let before = served.counts();
    let answer = command(cluster.client(through(2))?, &format!("{}-{number}", attack.module)).await;
    let during = served.counts();
    check("as a command", attack.command, &answer)?;
    // Afterwards in any case; meanwhile where there is time enough for it.
    served.wait_for_more(&before).await.context("after the attack")?;
    if attack.slow {
        ensure!(during.reads.iter().zip(&before.reads).any(|(now, then)| now > then), "no read was served meanwhile");
    }
    honest.end(served).await?;

    equal_and_whole(cluster).await.context("after the attack")?;
    let answers = until("the same index on every host", ATTACK_WITHIN, async || {
        let (one, two, three) =
            tokio::join!(query(cluster.client(1)?), query(cluster.client(2)?), query(cluster.client(3)?));
        cluster.wait_for_agreement().await.context("after queries")?;
        ensure!(one.0 == two.0 && two.0 == three.0, "read at {}, {} and {}", one.0, two.0, three.0);
        Ok([one.1, two.1, three.1])
    });
    let answers = answers.await?;
    for answer in &answers {
        check("as a query", attack.query, answer)?;
        let same = match (answer, &answers[0]) {
            (Ok(one), Ok(other)) => one == other,
            (Err(one), Err(other)) => one.code() == other.code() && one.message() == other.message(),
            _ => false,
        };
        ensure!(same, "hosts answer differently: {answers:?}");
    }
    honest.check_kept(cluster.clients()).await?;
    ensure!(cluster.live().len() == ids.len(), "a host has ended");
    Ok(())
}

/// The replicas' states and effects are equal, and none of them has halted.
async fn equal_and_whole(cluster: &mut Cluster) -> Result<()> {
    cluster.wait_for_agreement().await?;
    until("effect digests of one index", ATTACK_WITHIN, async || {
        let machines = cluster.machines().await?;
        let first = machines.values().next().context("no host runs")?;
        for (id, machine) in &machines {
            // These do not come right again.
            if !machine.halted.is_empty() {
                return Ok(Err(anyhow!("host {id} has halted: {}", machine.halted)));
            }
            ensure!(machine.applied_index == first.applied_index, "host {id} is at another index");
            if machine.effect_digest != first.effect_digest || machine.effect_digest.is_empty() {
                return Ok(Err(anyhow!("the effects of host {id} differ at index {}", machine.applied_index)));
            }
        }
        Ok(Ok(()))
    })
    .await?
}

/// The attack as a command, once, however often it must be sent.
async fn command(host: &HostClient, client_id: &str) -> Result<Vec<u8>, Status> {
    let call =
        WriteCall { method: ATTACK.to_owned(), client_id: client_id.to_owned(), request_id: 1, ..Default::default() };
    let begun = std::time::Instant::now();
    loop {
        match host.request(call.clone(), ATTACK_WITHIN).await {
            Err(status) if may_try_again(&status) && begun.elapsed() < ATTACK_WITHIN => {
                tokio::time::sleep(telegraft_tests::polling::INTERVAL).await;
            }
            answer => return answer.map(|reply| reply.payload.to_vec()),
        }
    }
}

/// The attack as a query, and the index it was read at; of a failure the index is not known, and counts as 0.
async fn query(host: &HostClient) -> (u64, Result<Vec<u8>, Status>) {
    let call = ReadCall { method: ATTACK.to_owned(), consistency: Consistency::Local.into(), ..Default::default() };
    match host.query(call, ATTACK_WITHIN).await {
        Ok(CallReply { payload, index }) => (index, Ok(payload.to_vec())),
        Err(status) => (0, Err(status)),
    }
}

/// A module that fails in its activation leaves the one before it active, and all data as it was.
async fn refused_activation(cluster: &mut Cluster, honest: &mut Honest) -> Result<()> {
    let (name, expected) = REFUSED_AT_ACTIVATION;
    let active = cluster.machine(1).await?.module.map(|module| module.digest).unwrap_or_default();
    let uploaded = cluster.upload(1, component(name)?).await.context("uploading")?;
    let answer = cluster.activate(2, &uploaded.digest).await.map(|_| Vec::new());
    check("its activation", &[expected], &answer).with_context(|| format!("module {name}"))?;
    cluster.wait_for_module(&active).await?;
    cluster.wait_for_agreement().await?;
    honest.check_kept(cluster.clients()).await?;
    honest.serve_once(cluster.clients()).await
}

/// No attack has filled a host's log, or written a line in the host's name.
fn logs_are_bounded_and_not_forged(cluster: &Cluster) -> Result<()> {
    for id in cluster.ids() {
        let output = cluster.host(id)?.output()?;
        ensure!(output.len() < 4 << 20, "host {id} has logged {} bytes", output.len());
        let long = output.lines().find(|line| line.len() > 8 << 10).map(str::len);
        ensure!(long.is_none(), "host {id} has logged a line of {long:?} bytes");
        let flood = output.lines().filter(|line| line.contains("flood 100")).count();
        ensure!(flood == 0, "host {id} has logged more than a hundred lines of one call");
        let forged = output.lines().find(|line| line.starts_with("2000-01-01"));
        ensure!(forged.is_none(), "host {id} has logged a guest's line as its own: {forged:?}");
    }
    Ok(())
}

/// Stops all hosts, takes their state away, and lets them make it again from the log; with `killed`, kills them all in the
/// middle of that once.
async fn replay(cluster: &mut Cluster, before: &Agreement, killed: bool) -> Result<()> {
    for id in cluster.ids() {
        let host = cluster.host_mut(id)?;
        let status = host.terminate(Duration::from_secs(20))?;
        ensure!(status.success(), "host {id} ended with {status}");
        for file in ["machine.db", "machine.db-wal", "machine.db-shm"] {
            let file = host.data_dir().join("machine").join(file);
            if file.exists() {
                fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
            }
        }
    }
    let begun = std::time::Instant::now();
    cluster.start_all().await?;
    if killed {
        // Entries are applied in large batches: after the first, it is in the middle of the next.
        let reached = until("a replay that has begun", REPLAY_WITHIN, async || {
            let applied = cluster.machine(1).await?.applied_index;
            ensure!(applied > 0, "host 1 is at index 0 of {}", before.index);
            Ok(applied)
        });
        let reached = reached.await?;
        // A few modules alone are replayed in no time.
        ensure!(
            reached < before.index || chosen().len() < ATTACKS.len(),
            "the replay was over before it could be killed"
        );
        for id in cluster.ids() {
            cluster.kill(id)?;
        }
        println!("killed at index {reached} of {}", before.index);
        cluster.start_all().await?;
    }
    let after = until("a replay of everything", REPLAY_WITHIN, async || cluster.wait_for_agreement().await).await?;
    println!("replayed in {:?}", begun.elapsed());
    ensure!(after.index > before.index, "a new leader adds an entry: {} after {}", after.index, before.index);
    ensure!(after.digest == before.digest, "the state is another one than before the replay");
    equal_and_whole(cluster).await
}

/// Reuse is for modules that keep nothing in memory. One that does, against its author's word, is found out by the audit,
/// and from then on, at one index, gets fresh instances everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_lies_about_reuse_gets_fresh_instances_again() -> Result<()> {
    const COMMANDS_MAX: usize = 1_000;
    let mut cluster = Cluster::start_with(Plan { tables: BUDGETS.to_owned(), ..Default::default() }).await?;
    let uploaded = cluster.upload(1, component("static_counter")?).await?;
    let order = ActivateModule { digest: uploaded.digest.clone(), reuse: true, ..Default::default() };
    cluster.client(1)?.modules().activate(order).await?;
    cluster.wait_for_module(&uploaded.digest).await?;
    let is_reused = async |cluster: &Cluster, id| {
        let module = cluster.machine(id).await?.module.context("no module is active")?;
        anyhow::Ok(module.reuse)
    };
    let mut counted = Vec::new();
    while is_reused(&cluster, 1).await? {
        ensure!(counted.len() < COMMANDS_MAX, "the audit has found nothing in {COMMANDS_MAX} commands");
        let reply = command(cluster.client(1)?, &format!("reuse-{}", counted.len())).await?;
        counted.push(String::from_utf8(reply)?.parse::<u64>()?);
    }
    println!("found out after {} commands", counted.len());
    ensure!(counted.iter().any(|count| *count > 1), "memory was not even kept: {counted:?}");
    cluster.wait_until_applied().await?;
    for id in cluster.ids() {
        ensure!(!is_reused(&cluster, id).await?, "host {id} still reuses");
    }
    for number in 0..2 {
        let reply = command(cluster.client(2)?, &format!("fresh-{number}")).await?;
        ensure!(reply == b"0", "an instance was not fresh: {reply:?}");
    }
    equal_and_whole(&mut cluster).await?;
    cluster.passed()
}
