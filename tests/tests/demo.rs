//! Tests of the demo itself: it checks what it shows, and leaves nothing behind, however it ends.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use telegraft_tests::polling::{PATIENCE, until};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    time::timeout,
};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Starts the demo, and reads until `word` is printed; gives the client addresses and the data folder it has named.
async fn started_up_to(word: &str) -> Result<(Child, Vec<SocketAddr>, String)> {
    let mut child = demo(&[]).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let (mut addresses, mut folder) = (Vec::new(), String::new());
    loop {
        let line = timeout(PATIENCE, lines.next_line()).await.context("the demo has gone silent")??;
        let line = line.with_context(|| format!("the demo has ended before it said {word:?}"))?;
        if let Some((_, rest)) = line.split_once(": clients ") {
            addresses.push(rest.split(',').next().unwrap_or_default().parse()?);
        }
        if let Some((_, rest)) = line.split_once("data is in ") {
            rest.trim_end_matches('.').clone_into(&mut folder);
        }
        if line.contains(word) {
            // Whoever reads no more must not stop the writer.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            ensure!(addresses.len() == 3 && !folder.is_empty(), "{addresses:?}, {folder:?}");
            return Ok((child, addresses, folder));
        }
    }
}

async fn nobody_listens(addresses: &[SocketAddr]) -> Result<()> {
    until("the hosts to be gone", Duration::from_secs(10), async || {
        for address in addresses {
            TcpListener::bind(address).await.with_context(|| format!("{address} is still taken"))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_checks_what_it_shows_and_ends_by_itself() -> Result<()> {
    let output = timeout(Duration::from_secs(180), demo(&["--check"]).output()).await.context("it does not end")??;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}\n{said}\n{errors}", output.status);
    ensure!(said.contains("All was as it must be") && errors.is_empty(), "{said}\n{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_die_with_the_demo_even_if_it_is_killed() -> Result<()> {
    let (mut child, addresses, folder) = started_up_to("leads in term").await?;
    child.kill().await?;
    nobody_listens(&addresses).await?;
    // Killed, it could not tidy up.
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_asked_to_end_leaves_nothing_behind() -> Result<()> {
    let (mut child, addresses, folder) = started_up_to("leads in term").await?;
    let pid = i32::try_from(child.id().context("it has ended")?)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)?;
    let status = timeout(PATIENCE, child.wait()).await.context("it runs on")??;
    ensure!(status.success(), "{status}");
    nobody_listens(&addresses).await?;
    ensure!(!std::path::Path::new(&folder).exists(), "{folder} is left behind");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_says_what_is_missing() -> Result<()> {
    let output = demo(&["--check"]).env("TELEGRAFT_BIN", "/no/such/binary").output().await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && errors.contains("/no/such/binary"), "{output:?}");
    let output = demo(&["--chekc"]).output().await?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    Ok(())
}
