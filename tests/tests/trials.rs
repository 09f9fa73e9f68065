//! Whole-cluster tests of trials: what a dry run and a rehearsal say is true, of a state that goes on changing, and they
//! change nothing themselves.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use telegraft_modules::{CHAT, KV};
use telegraft_proto::{
    kv::{PutReply, PutRequest},
    v1::{
        DryRunReport, ListModules, RehearsalDifference, RehearsalEvent, RehearsalReport, TryModule,
        modules_client::ModulesClient, rehearsal_event::Event,
    },
};
use telegraft_tests::{
    client::{HostClient, Session, may_try_again, reason},
    cluster::{Cluster, Plan},
    command::telegraft,
    polling::{PATIENCE, until},
    probe::{LOOP, PROBE, Probe, RUN, write},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// The module that a file holds, in messages as a client sends them.
fn parts(bytes: &[u8], last: u64) -> Vec<TryModule> {
    let mut parts: Vec<_> =
        bytes.chunks(256 << 10).map(|data| TryModule { data: data.to_vec().into(), ..Default::default() }).collect();
    if let Some(first) = parts.first_mut() {
        first.last = last;
    }
    parts
}

async fn dry_run(host: &HostClient, bytes: &[u8]) -> Result<DryRunReport, Status> {
    let answer = host.modules().dry_run(tokio_stream::iter(parts(bytes, 0))).await;
    answer.map(tonic::Response::into_inner)
}

async fn begin_rehearsal(host: &HostClient, bytes: &[u8], last: u64) -> Result<Streaming<RehearsalEvent>, Status> {
    let answer = host.modules().rehearse(tokio_stream::iter(parts(bytes, last))).await;
    answer.map(tonic::Response::into_inner)
}

/// What came of a rehearsal.
struct Rehearsed {
    report: RehearsalReport,
    differences: Vec<RehearsalDifference>,
    /// Versions of the modules that were active, each with since when.
    modules: Vec<(String, u64)>,
    stages: Vec<String>,
}

async fn rehearse(host: &HostClient, bytes: &[u8], last: u64) -> Result<Rehearsed, Status> {
    let mut events = begin_rehearsal(host, bytes, last).await?;
    let (mut differences, mut modules, mut stages) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(RehearsalEvent { event }) = events.message().await? {
        match event {
            Some(Event::Progress(progress)) => stages.push(progress.stage),
            Some(Event::Difference(difference)) => differences.push(difference),
            Some(Event::Module(module)) => {
                let module = module.module.unwrap_or_default();
                modules.push((module.version, module.activated_index));
            }
            Some(Event::Report(report)) => {
                stages.dedup();
                return Ok(Rehearsed { report, differences, modules, stages });
            }
            None => {}
        }
    }
    Err(Status::internal("the stream ended without a report"))
}

/// Folder in which a host keeps the copies of trials.
fn trials_of(cluster: &Cluster, id: u64) -> Result<PathBuf> {
    Ok(cluster.folder()?.join(format!("host-{id}")).join("data").join("trials"))
}

fn nothing_is_left(cluster: &Cluster, id: u64) -> Result<()> {
    let left: Vec<_> = fs::read_dir(trials_of(cluster, id)?).context("listing the trials")?.collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Writes rows until told to stop; the number of those that were acknowledged.
async fn load(over: Arc<AtomicBool>, hosts: Vec<HostClient>, written: Arc<AtomicU64>) -> Result<()> {
    for number in 0_usize.. {
        if over.load(Relaxed) {
            break;
        }
        // Every tenth text has been there before.
        let text = if number % 10 == 9 { number - 1 } else { number };
        let sql = format!("INSERT INTO t VALUES({}, 'text {text}')", 1_000 + number);
        match write(&hosts[number % hosts.len()], RUN, &sql).await {
            Ok(_) => written.fetch_add(1, Relaxed),
            // A leader may change under load, and a row may have been written by a call that is in doubt.
            Err(status) if may_try_again(&status) || status.code() == Code::FailedPrecondition => continue,
            Err(status) => bail!("row {number}: {status:?}"),
        };
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_under_load_tell_the_truth_and_change_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.install(&PROBE.build()?).await?;
    let hosts = cluster.clients().to_vec();
    let (over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let loading = tokio::spawn(load(over.clone(), hosts.clone(), written.clone()));
    let enough = |wanted: u64| {
        let written = written.clone();
        async move {
            until("rows written", PATIENCE, async || {
                let now = written.load(Relaxed);
                ensure!(now >= wanted, "{now} rows");
                Ok(now)
            })
            .await
        }
    };
    enough(200).await?;

    // One host after the other, the leader among them, while rows come in.
    let rows = Probe { version: "2.0.0", schema: 2, init: "UPDATE t SET v = v || '!'", ..PROBE }.build()?;
    let unique = Probe { schema: 2, init: "CREATE INDEX by_v ON t(v)", ..PROBE }.build()?;
    let failing = Probe { version: "3.0.0", schema: 3, init: "CREATE UNIQUE INDEX by_v ON t(v)", ..PROBE }.build()?;
    for (id, host) in (1..).zip(&hosts) {
        let before = cluster.machine(id).await?.applied_index;
        let report = dry_run(host, &rows).await?;
        let after = cluster.machine(id).await?.applied_index;
        ensure!(report.refused.is_empty() && report.init_runs && report.from_schema == Some(1), "{report:?}");
        ensure!((before..=after).contains(&report.index), "{before} {} {after}", report.index);
        let [changes] = report.table_changes.as_slice() else { bail!("{report:?}") };
        // As many rows as there are: no more than entries, no fewer than were acknowledged before.
        ensure!(changes.table == "t" && changes.updated >= 200 && changes.updated < report.index, "{report:?}");
        ensure!((changes.inserted, changes.deleted) == (0, 0), "{report:?}");
        ensure!(
            report.schema_changes.is_empty() && report.fuel > 0 && report.sql_steps > changes.updated,
            "{report:?}"
        );

        let report = dry_run(host, &unique).await?;
        let [change] = report.schema_changes.as_slice() else { bail!("{report:?}") };
        ensure!((change.change.as_str(), change.kind.as_str(), change.name.as_str()) == ("created", "index", "by_v"));
        ensure!(change.before.is_empty() && change.after == "CREATE INDEX by_v ON t(v)", "{change:?}");

        let report = dry_run(host, &failing).await?;
        ensure!(report.refused.contains("UNIQUE") && report.refused.contains("init"), "{report:?}");
        ensure!(report.refused_code != 0 && report.schema_changes.is_empty(), "{report:?}");
    }

    // The same code, other bytes: nothing differs. (Its version is the reply of every command.)
    let alike = Probe { init: "CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT) -- ", ..PROBE }.build()?;
    let so_far = written.load(Relaxed);
    let same = rehearse(&hosts[1], &alike, 150).await?;
    ensure!(same.report.differing == 0 && same.differences.is_empty(), "{:?}", same.differences.first());
    ensure!(same.report.commands == 150 && same.report.notes.is_empty(), "{:?}", same.report);
    let order = ["compiling", "rebuilding the state", "copying the state", "replaying"];
    ensure!(same.stages == order, "{:?}", same.stages);
    ensure!(same.modules.len() == 1 && same.modules[0].0 == "1.0.0", "{:?}", same.modules);
    let (before, after) = (same.report.before.context("a cost")?, same.report.after.context("a cost")?);
    ensure!(before.replies == 150 && after.replies == 150, "{before:?} {after:?}");
    ensure!(
        before.fuel > 0 && (before.fuel, before.sql_steps) == (after.fuel, after.sql_steps),
        "{before:?} {after:?}"
    );
    ensure!(before.time_ns > 0 && after.time_ns_max > 0, "{before:?} {after:?}");

    // One that takes no text twice: each command that brings one again is shown, and no other.
    let strict = Probe { init: "CREATE UNIQUE INDEX by_v ON t(v)", ..PROBE };
    let strict = Probe { schema: 2, ..strict }.build()?;
    let found = rehearse(&hosts[2], &strict, 5).await?;
    let refused = found.report.activation.context("an activation")?.refused;
    ensure!(refused.contains("UNIQUE") && found.report.commands == 0, "{refused:?}");
    let other = Probe { version: "2.0.0", ..PROBE }.build()?;
    let found = rehearse(&hosts[2], &other, 50).await?;
    ensure!((found.report.commands, found.report.differing, found.differences.len()) == (50, 50, 50));
    for difference in &found.differences {
        let (before, after) =
            (difference.before.clone().context("before")?, difference.after.clone().context("after")?);
        ensure!(before.reply == b"1.0.0"[..] && after.reply == b"2.0.0"[..], "{difference:?}");
        ensure!(difference.method == RUN && before.fuel > 0 && after.time_ns > 0, "{difference:?}");
    }
    // Apply went on all the while.
    enough(so_far + 50).await?;
    over.store(true, Relaxed);
    loading.await??;

    for (id, host) in (1..).zip(&hosts) {
        let modules = host.modules().list(ListModules::default()).await?.into_inner().modules;
        ensure!(modules.len() == 1 && modules[0].active && modules[0].version == "1.0.0", "{modules:?}");
        nothing_is_left(&cluster, id)?;
    }
    // No index was made: the text comes a third time.
    write(&hosts[0], RUN, "INSERT INTO t VALUES(1, 'text 0'), (2, 'text 0')").await?;
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trial_at_a_time_and_it_ends_when_the_client_goes_away() -> Result<()> {
    let tables = "[machine]\nfuel = 20000000\n".to_owned();
    let mut cluster = Cluster::start_with(Plan { hosts: 1, tables, ..Default::default() }).await?;
    let host = cluster.client(1)?.clone();
    let probe = PROBE.build()?;
    let Err(none) = rehearse(&host, &probe, 1).await else { bail!("there was something to compare with") };
    ensure!(none.code() == Code::FailedPrecondition, "{none:?}");
    ensure!(reason(&none).is_some_and(|(reason, _)| reason == "NO_MODULE"), "{none:?}");
    cluster.install(&probe).await?;
    let Err(early) = rehearse(&host, &probe, 1).await else { bail!("there was something to replay") };
    ensure!(early.code() == Code::FailedPrecondition && early.message().contains("no command"), "{early:?}");
    for bytes in [&b"no module"[..], &[]] {
        let Err(bad) = dry_run(&host, bytes).await else { bail!("{bytes:?} was tried") };
        ensure!(reason(&bad).is_some_and(|(reason, _)| reason == "BAD_MODULE"), "{bad:?}");
    }

    // Commands that take long.
    for _ in 0..40 {
        let Err(endless) = write(&host, LOOP, "").await else { bail!("a loop has ended") };
        ensure!(endless.message().contains("fuel"), "{endless:?}");
    }
    let mut events = begin_rehearsal(&host, &probe, 40).await?;
    until("the replay", PATIENCE, async || {
        let event = events.message().await?.and_then(|event| event.event);
        let progress = match event {
            Some(Event::Progress(progress)) => progress,
            Some(Event::Module(_)) => bail!("not far yet"),
            event => return Ok(Err(anyhow::anyhow!("{event:?}"))),
        };
        ensure!(progress.stage == "replaying" && progress.done > 0, "{progress:?}");
        Ok(Ok(()))
    })
    .await??;
    let Err(second) = dry_run(&host, &probe).await else { bail!("two trials at once") };
    ensure!(second.code() == Code::ResourceExhausted && second.message().contains("another trial"), "{second:?}");
    // Nothing of the machine's waits for it.
    write(&host, RUN, "INSERT INTO t VALUES(1, 'meanwhile')").await?;
    drop(events);
    until("the place to be free", PATIENCE, async || Ok(dry_run(&host, &probe).await?)).await?;
    nothing_is_left(&cluster, 1)?;

    // What a host that was killed in the middle has left is gone when it is up again.
    cluster.kill(1)?;
    let left = trials_of(&cluster, 1)?.join("left-over");
    fs::create_dir_all(&left)?;
    fs::write(left.join("machine.db"), b"half a copy")?;
    cluster.start_host(1).await?;
    ensure!(!left.exists(), "{} is still there", left.display());
    cluster.passed()
}

/// A refusal of the second of two trials.
fn is_busy(refused: &Status) -> bool {
    refused.code() == Code::ResourceExhausted && refused.message().contains("another trial")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_has_its_place_before_its_module_comes_in() -> Result<()> {
    let mut cluster = Cluster::start_with(Plan { hosts: 1, ..Default::default() }).await?;
    let host = cluster.client(1)?.clone();
    let probe = PROBE.build()?;
    cluster.install(&probe).await?;

    // One that sends its module's first part and then nothing. Where the second call comes first, it begins anew.
    let (parts, slow) = until("the place to be taken", PATIENCE, async || {
        let (parts, stream) = tokio::sync::mpsc::channel(1);
        parts.send(TryModule { data: probe[..100].to_vec().into(), last: 1, ..Default::default() }).await?;
        let slow = host.clone();
        let slow = tokio::spawn(async move { slow.modules().dry_run(ReceiverStream::new(stream)).await });
        match dry_run(&host, &probe).await {
            Err(refused) if is_busy(&refused) => Ok((parts, slow)),
            other => {
                drop(parts);
                bail!("{other:?}, and then {:?}", slow.await?)
            }
        }
    })
    .await?;
    let Err(refused) = begin_rehearsal(&host, &probe, 1).await else { bail!("two trials at once") };
    ensure!(is_busy(&refused), "{refused:?}");
    // What is refused is refused whatever its size, before it has been sent.
    let (_unsent, nothing) = tokio::sync::mpsc::channel::<TryModule>(1);
    let refused = tokio::time::timeout(PATIENCE, host.modules().dry_run(ReceiverStream::new(nothing))).await?;
    ensure!(refused.as_ref().is_err_and(is_busy), "{refused:?}");

    // Its end frees the place, whatever comes of it: here a module of 100 bytes, which is none.
    drop(parts);
    let Err(half) = slow.await? else { bail!("half a module was tried") };
    ensure!(reason(&half).is_some_and(|(reason, _)| reason == "BAD_MODULE"), "{half:?}");
    dry_run(&host, &probe).await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_whose_client_does_not_read_is_ended_and_told_so() -> Result<()> {
    let mut cluster = Cluster::start_with(Plan { hosts: 1, ..Default::default() }).await?;
    let host = cluster.client(1)?.clone();
    cluster.install(&PROBE.build()?).await?;
    // Each is answered differently, and told with what was asked: far more than a connection and the host keep for a client.
    for number in 0..100 {
        write(&host, RUN, &format!("INSERT INTO t VALUES({number}, '{}')", "x".repeat(48 << 10))).await?;
    }
    let other = Probe { version: "2.0.0", ..PROBE }.build()?;
    let narrow = tonic::transport::Endpoint::from_shared(format!("http://{}", host.address()))?
        .initial_stream_window_size(65_535)
        .connect_lazy();
    let parts = tokio_stream::iter(parts(&other, 100));
    let begun = Instant::now();
    let mut events = ModulesClient::new(narrow).rehearse(parts).await?.into_inner();
    until("the rehearsal to hold the place", PATIENCE, async || match dry_run(&host, &other).await {
        Err(refused) if is_busy(&refused) => Ok(()),
        other => bail!("{other:?}"),
    })
    .await?;
    until("the place to be free", PATIENCE * 3, async || Ok(dry_run(&host, &other).await?)).await?;
    // It waits a while for one that is slow.
    ensure!(begun.elapsed() > Duration::from_secs(20), "{:?}", begun.elapsed());
    nothing_is_left(&cluster, 1)?;

    // What was under way still comes, and then why there is no more.
    let mut differences = 0;
    let end = loop {
        match events.message().await {
            Ok(Some(RehearsalEvent { event: Some(Event::Difference(_)) })) => differences += 1,
            Ok(Some(RehearsalEvent { event: Some(Event::Report(report)) })) => bail!("it ended well: {report:?}"),
            Ok(Some(_)) => {}
            Ok(None) => bail!("it ended without a word"),
            Err(status) => break status,
        }
    };
    ensure!(end.code() == Code::DeadlineExceeded && end.message().contains("30 s"), "{end:?}");
    ensure!((1..100).contains(&differences), "{differences} of 100 differences");
    // One that reads gets all of the same.
    ensure!(rehearse(&host, &other, 100).await?.differences.len() == 100);
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_whether_it_is_safe() -> Result<()> {
    let mut cluster = Cluster::start_with(Plan { hosts: 1, ..Default::default() }).await?;
    cluster.install(KV).await?;
    let hosts = cluster.clients().to_vec();
    let mut session = Session::new("put");
    for number in 0..30 {
        let request = PutRequest { key: format!("key {}", number % 10), value: b"v".to_vec().into() };
        session.write::<PutReply>(&hosts, 0, "kv.v1.Kv/Put", &request, PATIENCE).await?;
    }
    let files = tempfile::tempdir()?;
    let file = |name: &str, bytes: &[u8]| -> Result<String> {
        let path = files.path().join(name);
        fs::write(&path, bytes)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (kv, chat) = (file("kv.wasm", KV)?, file("chat.wasm", CHAT)?);
    let failing = Probe { name: "kv", schema: 9, init: "INSERT INTO nowhere VALUES(1)", ..PROBE };
    let failing = file("failing.wasm", &failing.build()?)?;
    let address = hosts[0].address().to_string();
    let run = async |arguments: &[&str]| telegraft(&[arguments, &["--host", &address]].concat()).await;
    let before = cluster.wait_for_agreement().await?;

    let ran = run(&["module", "activate", &chat, "--dry-run"]).await?;
    ensure!(ran.code == 0, "{ran:?}");
    for part in ["would be activated", "created", "CREATE TABLE", "init runs", "fuel", "nothing was changed"] {
        ensure!(ran.stdout.contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    let seen = run(&["module", "activate", &chat, "--dry-run", "--json"]).await?.json()?;
    ensure!(seen["would_activate"] == true && seen["refused"].is_null() && seen["from_schema"].is_null(), "{seen}");
    ensure!(seen["fuel"].as_u64() > Some(0) && seen["index"].as_u64() == Some(before.index), "{seen}");
    let ran = run(&["module", "activate", &failing, "--dry-run"]).await?;
    ensure!(ran.code == 1 && ran.stdout.contains("would be refused") && ran.stdout.contains("nowhere"), "{ran:?}");
    let ran = run(&["module", "activate", "0123456789", "--dry-run"]).await?;
    ensure!(ran.code == 2 && ran.stderr.contains("file"), "{ran:?}");

    let ran = run(&["module", "rehearse", &kv, "--last", "20"]).await?;
    ensure!(ran.code == 0, "{ran:?}");
    for part in ["20 commands", "every command is answered alike", "replies", "fuel, all", "time, longest"] {
        ensure!(ran.stdout.contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    let seen = run(&["module", "rehearse", &kv, "--json"]).await?.json()?;
    ensure!(seen["safe"] == true && seen["commands"] == 30 && seen["differing"] == 0, "{seen}");
    ensure!(seen["before"]["cost"]["fuel"] == seen["after"]["cost"]["fuel"], "{seen}");
    ensure!(seen["notes"][0].as_str().is_some_and(|note| note.contains("1000 commands were asked for")), "{seen}");

    // Another module altogether: it knows none of the methods.
    let ran = run(&["module", "rehearse", &chat, "--last", "25"]).await?;
    ensure!(ran.code == 1, "{ran:?}");
    let parts =
        ["25 commands are answered differently", r#"{"version":"#, r#""key":"key 9""#, "UNIMPLEMENTED", "and 5 more"];
    for part in parts {
        ensure!(ran.stdout.contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    let ran = run(&["module", "rehearse", &chat, "--last", "3", "--json"]).await?;
    ensure!(ran.code == 1, "{ran:?}");
    let seen: serde_json::Value = serde_json::from_str(&ran.stdout)?;
    ensure!(seen["safe"] == false && seen["differences"].as_array().is_some_and(|all| all.len() == 3), "{seen}");
    ensure!(seen["differences"][2]["before"]["reply"] == json!({ "version": "3" }), "{seen}");
    ensure!(seen["differences"][2]["after"]["code"] == "UNIMPLEMENTED", "{seen}");
    ensure!(run(&["module", "rehearse", &failing]).await?.code == 1);

    ensure!(cluster.wait_for_agreement().await? == before, "a trial has changed something");

    // Right after another module took over: the commands are replayed with the one that answered them.
    ensure!(run(&["module", "activate", &chat]).await?.code == 0);
    let ran = run(&["module", "rehearse", &kv, "--last", "20"]).await?;
    ensure!(ran.code == 0, "{ran:?}");
    for part in
        ["20 commands", "replayed by the modules of then", "every command is answered alike", "the candidate went on"]
    {
        ensure!(ran.stdout.contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    let ran = run(&["module", "rehearse", &chat, "--last", "3", "--json"]).await?;
    let seen: serde_json::Value = serde_json::from_str(&ran.stdout)?;
    let names = |modules: &serde_json::Value| -> Vec<String> {
        let modules = modules.as_array().cloned().unwrap_or_default();
        modules.iter().map(|module| module["name"].to_string()).collect()
    };
    ensure!(names(&seen["before"]["modules"]) == [r#""kv""#, r#""chat""#], "{seen}");
    ensure!(seen["differences"].as_array().is_some_and(|all| all.len() == 3), "{seen}");
    ensure!(seen["differences"][0]["module_before"].as_str().is_some_and(|label| label.starts_with("kv ")), "{seen}");
    ensure!(seen["differences"][2]["before"]["reply"] == json!({ "version": "3" }), "{seen}");
    cluster.passed()
}
