//! Whole-cluster tests of what a machine keeps beside its module's data: budgets that are set through the log, its past, the
//! way back to the module before, one version for each call, and replicas that notice when one of them differs.

mod differing;
mod queries;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use serde_json::Value;
use telegraft_modules::KV;
use telegraft_proto::{
    kv::{GetRequest, PutRequest},
    v1::{
        Budgets, Consistency, GetHistory, GetLimits, HistoryEntry, ListModules, MachineLimits, MachineStatus, ReadCall,
        RollbackModule, RolledBack, SetMachineLimits, TransferLeadership, WriteCall, cluster_client::ClusterClient,
    },
};
use telegraft_tests::{
    client::{HostClient, may_try_again, reason},
    cluster::{Cluster, Plan},
    command::{Ran, telegraft},
    http,
    polling::{PATIENCE, until},
    probe::{self, LOOP, PROBE, Probe, RUN, VERSION},
};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

async fn limits_of(host: &HostClient) -> Result<MachineLimits> {
    Ok(host.machines().limits(GetLimits::default()).await?.into_inner())
}

async fn history_of(host: &HostClient) -> Result<Vec<HistoryEntry>> {
    Ok(host.machines().history(GetHistory::default()).await?.into_inner().entries)
}

/// Runs the command against one host.
async fn at(host: &HostClient, arguments: &[&str]) -> Result<Ran> {
    let address = host.address().to_string();
    telegraft(&[&["--host", &address, "--timeout", "20s"], arguments].concat()).await
}

/// Repeats a write that was certainly not carried out, until it is answered.
async fn write(host: &HostClient, method: &str, payload: &str) -> Result<telegraft_proto::v1::CallReply, Status> {
    let begun = Instant::now();
    loop {
        match probe::write(host, method, payload).await {
            Err(status) if may_try_again(&status) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(telegraft_tests::polling::INTERVAL).await;
            }
            answer => return answer,
        }
    }
}

async fn number(host: &HostClient, sql: &str, index: u64) -> Result<i64> {
    let reply = probe::read(host, sql, Consistency::AtLeast, index).await?;
    Ok(i64::from_le_bytes(reply.payload.as_ref().try_into().context("no number")?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_one_host_sets_hold_on_all_and_survive_a_restart() -> Result<()> {
    let tables = "[machine]\nfuel = 123000000\nvalue_bytes = \"3MiB\"\n".to_owned();
    let mut cluster = Cluster::start_with(Plan { tables, ..Default::default() }).await?;
    cluster.install(&PROBE.build()?).await?;
    // What the hosts are configured with is what a new machine begins with.
    for host in cluster.clients() {
        let limits = limits_of(host).await?;
        let now = limits.budgets.context("no budgets")?;
        ensure!((now.fuel, now.value_bytes) == (123_000_000, 3 << 20), "{limits:?}");
        let (max, default) = (limits.max.context("no max")?, limits.default.context("no default")?);
        ensure!(now.fuel < max.fuel && default.database_bytes <= max.database_bytes, "{limits:?}");
    }

    let second = cluster.client(2)?;
    let set = at(second, &["machine", "limits", "--set", "fuel=5_000_000", "--set", "value_bytes=512KiB"]).await?;
    ensure!(
        set.code == 0 && set.stdout.contains("value_bytes is 512KiB") && set.stdout.contains("was 3MiB"),
        "{set:?}"
    );
    let expected = |limits: &MachineLimits| {
        let now = limits.budgets.unwrap_or_default();
        (now.fuel, now.value_bytes, now.rows) == (5_000_000, 512 << 10, 100_000)
    };
    cluster.wait_until_applied().await?;
    for host in cluster.clients() {
        let limits = limits_of(host).await?;
        ensure!(expected(&limits), "{limits:?}");
        let table = at(host, &["machine", "limits"]).await?;
        for part in ["fuel", "5,000,000", "512KiB", "MAXIMUM", "database_bytes", "used"] {
            ensure!(table.stdout.contains(part), "{part} is not in {}", table.stdout);
        }
    }

    // Whoever runs out is told of what, and leaves nothing behind; the same on all hosts.
    let asked = write(cluster.client(1)?, LOOP, "").await;
    let Err(status) = asked else { bail!("it ended: {asked:?}") };
    ensure!(matches!(status.code(), Code::ResourceExhausted | Code::Aborted), "{status:?}");
    ensure!(status.message().contains("fuel"), "{status:?}");
    let asked = write(cluster.client(3)?, RUN, "INSERT INTO t(v) VALUES (hex(zeroblob(300000)))").await;
    ensure!(asked.as_ref().is_err_and(|status| status.code() != Code::Unavailable), "{asked:?}");
    let kept = write(cluster.client(1)?, RUN, "INSERT INTO t(v) VALUES ('short')").await?;
    for host in cluster.clients() {
        ensure!(number(host, "SELECT count(*) FROM t", kept.index).await? == 1);
    }

    // A later activation, and restarts, leave them alone.
    cluster.install(&Probe { version: "1.0.1", ..PROBE }.build()?).await?;
    for id in cluster.ids() {
        cluster.kill(id)?;
        cluster.start_host(id).await?;
    }
    cluster.wait_for_leader().await?;
    cluster.wait_until_applied().await?;
    for host in cluster.clients() {
        let limits = limits_of(host).await?;
        ensure!(expected(&limits), "{limits:?}");
    }
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_budget_is_refused_and_nothing_changes() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.install(&PROBE.build()?).await?;
    let host = cluster.client(1)?.clone();
    let before = limits_of(&host).await?;
    for (text, word) in [
        ("fule=5", "there are fuel"),
        ("fuel=many", "whole number"),
        ("fuel=0", "greater than 0"),
        ("value_bytes=2MB", "MiB"),
        ("value_bytes=1000TiB", "at most"),
    ] {
        let ran = at(&host, &["machine", "limits", "--set", text]).await?;
        ensure!(ran.code == 2 && ran.stderr.contains(word), "{text}: {ran:?}");
    }
    let small = at(&host, &["machine", "limits", "--set", "value_bytes=1KiB"]).await?;
    ensure!(small.code == 1 && small.stderr.contains("262144 at least"), "{small:?}");
    let twice = at(&host, &["machine", "limits", "--set", "fuel=5", "--set", "fuel=6"]).await?;
    ensure!(twice.code == 2 && twice.stderr.contains("twice"), "{twice:?}");
    for budgets in [None, Some(Budgets::default()), Some(Budgets { fuel: u64::MAX, ..Default::default() })] {
        let wish = SetMachineLimits { machine: String::new(), budgets };
        let answer = host.machines().set_limits(wish).await;
        ensure!(answer.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument), "{budgets:?}: {answer:?}");
    }
    let other = host.machines().limits(GetLimits { machine: "other".into() }).await;
    ensure!(other.is_err_and(|status| status.code() == Code::NotFound));
    ensure!(limits_of(&host).await?.budgets == before.budgets);
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_of_a_machine_is_told_alike_by_all_hosts() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let first = cluster.install(&PROBE.build()?).await?;
    let next = Probe { version: "1.1.0", ..PROBE }.build()?;
    let second = cluster.install(&next).await?;
    let set = at(cluster.client(3)?, &["--json", "machine", "limits", "--set", "rows=77"]).await?.json()?;
    ensure!(set["limits"]["rows"] == 77, "{set}");
    let back = at(cluster.client(2)?, &["--json", "module", "rollback"]).await?.json()?;
    ensure!(back["data"] == "unchanged" && back["module"]["version"] == "1.0.0", "{back}");
    // An init that fails is told of too.
    let refused = Probe { version: "9.0.0", schema: 9, init: "CREATE TABLE t(other)", downgrade: None, ..PROBE };
    let uploaded = cluster.upload(1, &refused.build()?).await?;
    ensure!(cluster.activate(1, &uploaded.digest).await.is_err());
    cluster.wait_until_applied().await?;

    let told = history_of(cluster.client(1)?).await?;
    let brief: Vec<(&str, &str, u64)> =
        told.iter().map(|entry| (entry.what.as_str(), entry.version.as_str(), entry.index)).collect();
    ensure!(brief.len() == 5 && brief.is_sorted_by(|a, b| a.2 > b.2), "the newest first: {told:?}");
    let whats: Vec<&str> = brief.iter().map(|entry| entry.0).collect();
    ensure!(whats == ["activation-refused", "rolled-back", "limits-set", "activated", "activated"], "{told:?}");
    ensure!((brief[4].2, brief[3].2) == (first.index, second.index), "{told:?}");
    ensure!((brief[4].1, brief[3].1) == ("1.0.0", "1.1.0"), "{told:?}");
    ensure!(told[2].detail.contains("rows") && told[0].detail.contains("already exists"), "{told:?}");
    ensure!(told.iter().all(|entry| entry.time_us > 1_600_000_000_000_000), "{told:?}");
    for host in cluster.clients() {
        ensure!(history_of(host).await? == told);
        let modules = host.modules().list(ListModules::default()).await?.into_inner().modules;
        ensure!(
            modules.iter().filter(|module| module.activated_index > 0).all(|m| !m.engine.is_empty()),
            "{modules:?}"
        );
    }
    let newest = at(cluster.client(1)?, &["--json", "machine", "history", "--limit", "2"]).await?.json()?;
    let entries = newest["entries"].as_array().context("no entries")?;
    ensure!(entries.len() == 2 && entries[1]["what"] == "rolled-back", "{newest}");
    let table = at(cluster.client(2)?, &["machine", "history"]).await?;
    for part in ["activation-refused", "rolled-back", "limits-set", "1.1.0"] {
        ensure!(table.stdout.contains(part), "{part} is not in\n{}", table.stdout);
    }
    cluster.passed()
}

async fn rollback(host: &HostClient, discard_since_activation: bool) -> Result<RolledBack, Status> {
    rollback_from(host, discard_since_activation, "").await
}

async fn rollback_from(host: &HostClient, discard_since_activation: bool, from: &str) -> Result<RolledBack, Status> {
    let begun = Instant::now();
    loop {
        let message = RollbackModule { discard_since_activation, from_digest: from.to_owned(), ..Default::default() };
        let mut request = Request::new(message);
        request.set_timeout(PATIENCE);
        match host.modules().rollback(request).await.map(tonic::Response::into_inner) {
            Err(status) if may_try_again(&status) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(telegraft_tests::polling::INTERVAL).await;
            }
            answer => return answer,
        }
    }
}

/// The second version of the probe: its data layout has a column more.
const WIDER: Probe =
    Probe { version: "2.0.0", schema: 2, init: "ALTER TABLE t ADD COLUMN w INTEGER NOT NULL DEFAULT 7", ..PROBE };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_over_a_new_layout_needs_the_modules_help_or_the_operators_word() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let hosts = cluster.clients().to_vec();
    let nothing = rollback(&hosts[0], false).await;
    ensure!(nothing.as_ref().is_err_and(|status| status.code() == Code::FailedPrecondition), "{nothing:?}");
    cluster.install(&PROBE.build()?).await?;
    let nothing = rollback(&hosts[0], true).await;
    ensure!(nothing.as_ref().is_err_and(|status| status.code() == Code::FailedPrecondition), "{nothing:?}");

    // No help, no word: refused with the price, and nothing changes. The price grows with each write.
    write(&hosts[0], RUN, "INSERT INTO t(v) VALUES ('before')").await?;
    let wider = cluster.install(&WIDER.build()?).await?;
    for row in 0..12 {
        write(&hosts[row % 3], RUN, "INSERT INTO t(v, w) VALUES ('since', 8)").await?;
    }
    let refused = at(&hosts[1], &["module", "rollback"]).await?;
    ensure!(refused.code == 1 && refused.stderr.contains("--discard-since-activation"), "{refused:?}");
    ensure!(refused.stderr.contains("12 commands") && refused.stderr.contains("FAILED_PRECONDITION"), "{refused:?}");
    let kept = write(&hosts[2], RUN, "INSERT INTO t(v, w) VALUES ('after the refusal', 9)").await?;
    ensure!(kept.payload == b"2.0.0"[..]);
    ensure!(number(&hosts[0], "SELECT count(*) FROM t WHERE w >= 8", kept.index).await? == 13);

    // With the operator's word.
    let done = at(&hosts[1], &["module", "rollback", "--discard-since-activation", "--yes"]).await?;
    ensure!(
        done.code == 0 && done.stdout.contains("from probe 2.0.0") && done.stdout.contains("to probe 1.0.0"),
        "{done:?}"
    );
    ensure!(done.stdout.contains("13 commands"), "{done:?}");
    cluster.wait_until_applied().await?;
    for host in &hosts {
        ensure!(number(host, "SELECT count(*) FROM t", kept.index).await? == 1);
        let narrow = probe::read(host, "SELECT w FROM t", Consistency::Local, 0).await;
        ensure!(narrow.is_err(), "the old layout is back: {narrow:?}");
    }
    // It went the way that was asked for: nothing was refused but what was asked for without the word.
    let told = history_of(&hosts[0]).await?;
    let whats: Vec<_> = told.iter().take(3).map(|entry| entry.what.as_str()).collect();
    ensure!(whats == ["rolled-back", "rollback-refused", "activated"] && told[0].index > wider.index, "{told:?}");

    // With the module's help nothing is lost.
    let helpful = Probe { version: "2.0.1", downgrade: Some("ALTER TABLE t DROP COLUMN w"), ..WIDER };
    cluster.install(&helpful.build()?).await?;
    write(&hosts[0], RUN, "INSERT INTO t(v, w) VALUES ('since', 8)").await?;
    let done = rollback(&hosts[2], false).await?;
    ensure!((done.data.as_str(), done.commands_lost) == ("downgraded", 0), "{done:?}");
    ensure!(done.module.as_ref().is_some_and(|module| module.version == "1.0.0"), "{done:?}");
    for host in &hosts {
        ensure!(number(host, "SELECT count(*) FROM t", done.index).await? == 2);
    }

    // A repeat that says what it leaves goes back no further, though there is a module before.
    cluster.install(&Probe { version: "1.1.0", ..PROBE }.build()?).await?;
    let left = cluster.install(&Probe { version: "1.2.0", ..PROBE }.build()?).await?;
    let left = left.module.as_ref().map(|module| module.digest.clone()).unwrap_or_default();
    let done = rollback_from(&hosts[1], false, &left).await?;
    ensure!(done.module.as_ref().is_some_and(|module| module.version == "1.1.0"), "{done:?}");
    let again = rollback_from(&hosts[2], false, &left).await;
    ensure!(again.as_ref().is_err_and(|status| status.code() == Code::FailedPrecondition), "{again:?}");
    let again = at(&hosts[0], &["module", "rollback", "--from", &left[..12]]).await?;
    ensure!(again.code == 1 && again.stderr.contains("the active module is probe 1.1.0"), "{again:?}");
    let unknown = at(&hosts[0], &["module", "rollback", "--from", "0123456789ab"]).await?;
    ensure!(unknown.code == 1 && unknown.stderr.contains("no module's digest begins with"), "{unknown:?}");
    let further = rollback(&hosts[0], false).await?;
    ensure!(further.module.as_ref().is_some_and(|module| module.version == "1.0.0"), "{further:?}");
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

/// What callers saw: the log index of each answer, and the version that gave it.
type Answers = Vec<(u64, String)>;

/// Calls over and over; each call is one entry (or one read), and its answer says by which version.
async fn call_until(over: Arc<AtomicBool>, hosts: Vec<HostClient>, reads: bool) -> Result<Answers> {
    let mut answers = Answers::new();
    for host in hosts.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let answer = if reads {
            let call = ReadCall { method: VERSION.to_owned(), ..Default::default() };
            host.query(call, Duration::from_secs(10)).await
        } else {
            let call = WriteCall { method: VERSION.to_owned(), ..Default::default() };
            host.request(call, Duration::from_secs(10)).await
        };
        match answer {
            Ok(reply) => answers.push((reply.index, String::from_utf8(reply.payload.to_vec())?)),
            // What became of it is not known, so it is no evidence.
            Err(status) if may_try_again(&status) => {}
            Err(status) => bail!("{status:?}"),
        }
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_at_a_swap_are_answered_by_exactly_one_version() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let hosts = cluster.clients().to_vec();
    let versions = ["1.0.0", "1.1.0", "1.2.0"];
    let mut digests = Vec::new();
    for version in versions {
        digests.push(cluster.upload(1, &Probe { version, ..PROBE }.build()?).await?.digest);
    }
    // From which index on which version is active.
    let mut active: BTreeMap<u64, &str> = BTreeMap::new();
    active.insert(cluster.activate(1, &digests[0]).await?.index, versions[0]);
    cluster.wait_for_module(&digests[0]).await?;

    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let mut order = hosts.clone();
            order.rotate_left(caller % 3);
            tokio::spawn(call_until(Arc::clone(&over), order, caller % 4 == 3))
        })
        .collect();
    for swap in 1..=9 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let next = swap % versions.len();
        let activated = cluster.activate(swap as u64 % 3 + 1, &digests[next]).await?;
        active.insert(activated.index, versions[next]);
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    over.store(true, Ordering::Relaxed);

    // An activation that was sent again may stand there twice; what was answered is one of them.
    cluster.wait_until_applied().await?;
    let told = history_of(&hosts[0]).await?;
    let entries = told.iter().filter(|entry| entry.what == "activated");
    let told: BTreeMap<u64, &str> = entries.map(|entry| (entry.index, entry.version.as_str())).collect();
    ensure!(active.iter().all(|(index, version)| told.get(index) == Some(version)), "{told:?} is told of {active:?}");
    let active = told;

    let (mut judged, mut by_version) = (0, HashMap::<String, usize>::new());
    for (caller, task) in callers.into_iter().enumerate() {
        let reads = caller % 4 == 3;
        for (index, version) in task.await?? {
            ensure!(reads || !active.contains_key(&index), "the entry {index} is an activation, and answered a call");
            let expected = active.range(..=index).next_back().map(|(_, version)| *version);
            ensure!(expected == Some(version.as_str()), "at {index} {version} answered, not {expected:?} ({active:?})");
            judged += 1;
            *by_version.entry(version).or_default() += 1;
        }
    }
    println!("{judged} answers over {} swaps: {by_version:?}", active.len() - 1);
    ensure!(by_version.len() == versions.len() && by_version.values().all(|count| *count > 20), "{by_version:?}");

    // All hosts say the same of when which was switched on.
    for host in &hosts[1..] {
        let here = history_of(host).await?;
        let here: BTreeMap<u64, &str> =
            here.iter().filter(|entry| entry.what == "activated").map(|e| (e.index, e.version.as_str())).collect();
        ensure!(here == active, "{here:?} is told of {active:?}");
    }
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

const INTERVAL: &str = "[machine]\ndigest_interval = \"200ms\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_on_the_command_line_says_when_there_is_nothing_to_go_back_to() -> Result<()> {
    let cluster = Cluster::start().await?;
    let file = cluster.folder()?.join("probe.wasm");
    fs::write(&file, PROBE.build()?)?;
    let file = file.to_string_lossy().into_owned();
    let empty = at(cluster.client(1)?, &["machine", "history"]).await?;
    ensure!(empty.code == 0 && empty.stdout.contains("nothing was done"), "{empty:?}");
    let activated = at(cluster.client(1)?, &["module", "activate", &file]).await?;
    ensure!(activated.code == 0, "{activated:?}");
    let refused = at(cluster.client(1)?, &["module", "rollback"]).await?;
    ensure!(refused.code == 1 && refused.stderr.contains(": there is no module to go back to"), "{refused:?}");
    ensure!(refused.stderr.contains("reason: NO_MODULE"), "{refused:?}");
    // Uploaded, and never active.
    let other = cluster.folder()?.join("other.wasm");
    let bytes = Probe { version: "1.1.0", ..PROBE }.build()?;
    fs::write(&other, &bytes)?;
    let uploaded = at(cluster.client(1)?, &["module", "upload", &other.to_string_lossy()]).await?;
    ensure!(uploaded.code == 0, "{uploaded:?}");
    let digest = at(cluster.client(1)?, &["module", "list", "--json"]).await?.json()?["modules"]
        .as_array()
        .and_then(|all| all.iter().find(|module| module["version"] == "1.1.0"))
        .and_then(|module| module["digest"].as_str().map(str::to_owned))
        .context("the upload")?;
    let refused = at(cluster.client(1)?, &["module", "rollback", "--from", &digest]).await?;
    let (first, then) = ("the active module is probe 1.0.0", "there is no module to go back to");
    let places = [first, then].map(|words| refused.stderr.find(words));
    ensure!(refused.code == 1 && places[0].is_some() && places[0] < places[1], "{refused:?}");
    let listed = at(cluster.client(1)?, &["module", "list"]).await?;
    for part in ["ENGINE", "UPLOADED", "ACTIVATED", "probe", "wasmtime"] {
        ensure!(listed.stdout.contains(part), "{part} is not in\n{}", listed.stdout);
    }
    cluster.passed()
}
