//! `demo`: a cluster of real processes, shown at work. It chats through different hosts, loses its leader to `kill -9`,
//! carries on, takes the killed host back, and swaps modules; everything it shows it also checks. Then the cluster stays
//! up until Ctrl-C, or with `--check` ends at once. Exit code 0: all was as it must be; 1: it was not; 2: bad usage.

#![forbid(unsafe_code)]

mod chatting;
mod stage;
mod swapping;

use std::{fs::File, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use telegraft_tests::{
    cluster::{Cluster, Plan},
    host,
    ports::{Addresses, claim},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::stage::Stage;

/// Client ports of the demo's hosts; peers and HTTP are on the next two of each.
const PORTS: [u16; 3] = [7400, 7410, 7420];

const USAGE: &str = "\
usage: demo [--check]

Starts three Telegraft hosts on loopback, chats through them, kills the leader, swaps modules, and shows what happens.
Leaves the cluster running until Ctrl-C.

  --check   stop by itself; exit code 0 only if everything shown was as it must be
  --help    this text

TELEGRAFT_BIN names another binary than the one beside this program.";

#[tokio::main]
async fn main() -> ExitCode {
    let mut check = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--check" => check = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("demo: unknown argument {other:?}\n\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let stage = Stage::new();
    // Dropping the story on a signal kills its hosts and leaves no data behind.
    let outcome = tokio::select! {
        outcome = story(&stage, check) => outcome,
        () = asked_to_end() => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stage.failed(&error);
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C or SIGTERM.
async fn asked_to_end() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

async fn story(stage: &Stage, check: bool) -> Result<()> {
    let begun = Instant::now();
    stage.title("Telegraft: replicated state machines as WebAssembly components");
    stage.say(&format!("The binary is {}.", stage::shown(&host::binary()?)));

    let (mut cluster, _claimed) = begin(stage).await?;
    let outcome = async {
        let alice = chatting::show(stage, &mut cluster).await?;
        swapping::show(stage).await?;
        if !check {
            invite(stage, &cluster, &alice)?;
            asked_to_end().await;
            stage.say("Ctrl-C: the hosts end, their data is removed.");
        }
        Ok::<_, anyhow::Error>(())
    }
    .await;
    if let Err(error) = outcome {
        // Kept, with the last lines of each host: what went wrong is in there.
        cluster.keep();
        return Err(error);
    }
    if check {
        cluster.passed()?;
        stage.title(&format!("All was as it must be, in {:.1} s.", begun.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// Three hosts, on the usual ports where they are free, and what keeps another demo off those.
async fn begin(stage: &Stage) -> Result<(Cluster, Option<File>)> {
    stage.act("Three hosts start");
    let usual: Vec<Addresses> = PORTS.into_iter().map(Addresses::from_port).collect();
    // Two demos at once: the second takes other ports, even if the first does not listen yet.
    let claimed = claim("usual")?;
    let free = claimed.is_some() && usual.iter().all(Addresses::are_free);
    if !free {
        stage.say(&format!("Something else listens on one of the usual ports ({PORTS:?} and the two after each), so the demo takes others."));
    }
    let plan = Plan { name: "demo".to_owned(), addresses: free.then_some(usual), ..Plan::default() };
    let mut cluster = Cluster::prepare(plan).await?;
    cluster.discard_when_dropped();
    let begun = Instant::now();
    cluster.start_all().await.context("starting the hosts")?;
    for id in cluster.ids() {
        let Addresses { client, peer, http } = cluster.host(id)?.addresses();
        stage.say(&format!("host {id}: clients {client}, peers {peer}, metrics and health http://{http}"));
    }
    stage.say(&format!("Their data is in {}.", cluster.folder()?.display()));
    let leader = cluster.wait_for_leader().await?;
    stage.good(&format!("host {} leads in term {}, {}", leader.id, leader.term, stage::after(begun)));
    Ok((cluster, claimed))
}

/// Where the cluster is, and what to try.
fn invite(stage: &Stage, cluster: &Cluster, alice: &str) -> Result<()> {
    stage.title("The cluster runs on until Ctrl-C. To try by hand:");
    let telegraft = stage::shown(&host::binary()?);
    let addresses: Vec<Addresses> =
        cluster.ids().into_iter().map(|id| Ok(cluster.host(id)?.addresses())).collect::<Result<_>>()?;
    let [first, .., last] = addresses.as_slice() else { anyhow::bail!("a cluster of less than two hosts") };
    for line in [
        format!("{telegraft} --host {} status", first.client),
        format!("{telegraft} --host {} module list", first.client),
        format!("{telegraft} --host {} call chat.v1.Chat/CreateUser '{{\"name\": \"dora\"}}'", last.client),
        format!("{telegraft} --host {} call chat.v1.Chat/GetMessages '{{\"userId\": \"{alice}\"}}'", last.client),
        format!("curl http://{}/metrics", first.http),
        format!("grpcurl -plaintext {} list", last.client),
        format!("grpcurl -plaintext -d '{{\"name\": \"erik\"}}' {} chat.v1.Chat/CreateUser", last.client),
    ] {
        stage.command(&line);
    }
    Ok(())
}
