//! Whole-cluster tests of hosts that stop and come back: what was acknowledged is there, what was missed is caught up with,
//! and a host whose files are damaged says so instead of serving.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use telegraft_tests::{
    chat,
    cluster::{Cluster, Plan},
    polling::until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_host_comes_back_and_catches_up() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    chat::send(cluster.clients(), 0, &alice, "before").await?;
    cluster.wait_until_applied().await?;
    let leader = cluster.wait_for_leader().await?.id;
    let victim = if leader == 3 { 2 } else { 3 };
    cluster.kill(victim)?;
    let mut newest = 0;
    for count in 0..200 {
        let through = cluster
            .clients()
            .iter()
            .position(|host| host.address() == cluster.client(leader).map_or(host.address(), |it| it.address()));
        newest =
            chat::send(cluster.clients(), through.unwrap_or_default(), &alice, &format!("missed {count}")).await?.index;
    }
    cluster.start_host(victim).await?;
    let seen = chat::read_all(cluster.client(victim)?, &alice.user, newest).await?;
    ensure!(seen.len() == 201, "{} of 201 messages", seen.len());
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_killed_as_a_whole_keeps_everything() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    for count in 0..30 {
        chat::send(cluster.clients(), count, &alice, &format!("message {count}")).await?;
    }
    let before = cluster.wait_for_agreement().await?;
    let term = cluster.wait_for_leader().await?.term;
    for id in cluster.ids() {
        cluster.kill(id)?;
    }
    cluster.start_all().await?;
    let leader = cluster.wait_for_leader().await?;
    ensure!(leader.term > term, "term {} after term {term}: the term was forgotten", leader.term);
    let after = cluster.wait_for_agreement().await?;
    ensure!(
        after.index > before.index,
        "a new leader adds an entry of its own: {} after {}",
        after.index,
        before.index
    );
    ensure!(after.digest == before.digest, "the state has changed while nobody wrote");
    for host in cluster.clients() {
        ensure!(chat::read_all(host, &alice.user, 0).await?.len() == 30);
    }
    // The module came back too, active as it was.
    chat::send(cluster.clients(), 0, &alice, "and on it goes").await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_asked_to_end_ends_soon_and_well() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    for id in cluster.ids() {
        let status = cluster.host_mut(id)?.terminate(Duration::from_secs(10))?;
        ensure!(status.success(), "host {id} ended with {status}");
        cluster.start_host(id).await?;
    }
    cluster.wait_for_leader().await?;
    chat::send(cluster.clients(), 0, &alice, "after the round").await?;
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_its_log_in_memory_serves() -> Result<()> {
    let mut cluster = Cluster::start_with(Plan { log: "memory".to_owned(), ..Default::default() }).await?;
    cluster.install(telegraft_modules::CHAT).await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    for first in 0..3 {
        chat::send(cluster.clients(), first, &alice, &format!("through {first}")).await?;
    }
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

/// All files below `folder`, largest first.
fn files_below(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                found.push((metadata.len(), entry.path()));
            }
        }
    }
    found.sort();
    found.reverse();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_log_is_damaged_refuses_to_start_and_says_so() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    for count in 0..20 {
        chat::send(cluster.clients(), count, &alice, &format!("message {count}")).await?;
    }
    cluster.wait_until_applied().await?;
    cluster.kill(3)?;

    // RocksDB's write-ahead logs are the .log files with a number for a name; the log's newest entries are only there.
    let data = cluster.host(3)?.data_dir();
    let numbered =
        |path: &Path| path.file_stem().is_some_and(|stem| stem.to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    let journal = files_below(&data)?
        .into_iter()
        .find(|(size, path)| *size > 0 && path.extension().is_some_and(|end| end == "log") && numbered(path));
    let (size, journal) = journal.context("no write-ahead log below the data folder")?;
    let mut bytes = fs::read(&journal)?;
    // A third of the way in: entries that were synced and acknowledged long ago, not the torn end of a write.
    let middle = usize::try_from(size)? / 3;
    for byte in bytes.iter_mut().skip(middle).take(64) {
        *byte ^= 0xff;
    }
    fs::write(&journal, bytes)?;

    cluster.host_mut(3)?.start()?;
    let status = cluster.host_mut(3)?.wait_for_end(Duration::from_secs(20)).context("a damaged log was accepted")?;
    ensure!(!status.success(), "{status}");
    let output = cluster.host(3)?.output()?.to_lowercase();
    ensure!(output.contains("corrupt") || output.contains("damaged"), "the message does not say what is wrong");
    ensure!(!output.contains("panicked"), "a panic is no message");

    // The others go on without it.
    chat::send(&cluster.clients()[..2], 0, &alice, "without host 3").await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_serves_one_process_at_a_time() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    // The same configuration again, while the host runs: neither may harm the other.
    let status = tokio::process::Command::new(telegraft_tests::host::binary()?)
        .arg("serve")
        .arg("--config")
        .arg(cluster.host(1)?.config())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(Duration::from_secs(20), status).await.context("the second process runs on")??;
    ensure!(!output.status.success(), "{}", output.status);
    ensure!(!output.stderr.is_empty(), "it says nothing");
    until("the first to serve on", Duration::from_secs(10), async || cluster.machine(1).await).await?;
    cluster.wait_for_leader().await?;
    cluster.passed()
}
