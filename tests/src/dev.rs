//! `telegraft dev` as a child: a whole cluster by one command, whose events are read as a machine reads them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{
    command::{Ran, telegraft},
    host,
    polling::{PATIENCE, until},
    ports::PortBlock,
    process,
};

/// Hosts of such a cluster.
const HOSTS: u16 = 3;

/// Ports from one host to the next, as `dev` lays them out.
const PORTS_PER_HOST: u16 = 10;

/// A running `telegraft dev --watch`. Dropping it kills it, and its hosts with it.
#[derive(Debug)]
pub struct Dev {
    child: Child,
    events: UnboundedReceiver<Value>,
    folder: PathBuf,
    /// The first document it prints: hosts, leader, module.
    pub introduction: Value,
    base_port: u16,
}

/// Two neighbouring blocks of ports: room for three hosts as `dev` lays them out.
#[derive(Debug)]
pub struct DevPorts {
    blocks: [PortBlock; 2],
}

impl DevPorts {
    /// Reserves them.
    ///
    /// # Errors
    ///
    /// Where there are none.
    pub fn reserve() -> Result<Self> {
        // Blocks that have no neighbour are held until one has, so that the search goes on behind them.
        let mut held: Vec<PortBlock> = Vec::new();
        for _ in 0..32 {
            let block = PortBlock::reserve()?;
            let first = block.addresses(1).client.port();
            let neighbour = held.last().is_some_and(|last| last.addresses(1).client.port() + 16 == first);
            match held.pop() {
                Some(last) if neighbour => return Ok(Self { blocks: [last, block] }),
                Some(last) => held.extend([last, block]),
                None => held.push(block),
            }
        }
        bail!("no two neighbouring blocks of ports are free")
    }

    fn base(&self) -> u16 {
        self.blocks[0].addresses(1).client.port()
    }
}

impl Dev {
    /// Starts `telegraft dev --watch` with a module, its data below `folder`, and waits for what it says first.
    ///
    /// # Errors
    ///
    /// Where it ends, or says nothing, `within` the time given; with what it printed.
    pub async fn start(ports: &DevPorts, module: &Path, folder: &Path, within: Duration) -> Result<Self> {
        let base_port = ports.base();
        let errors = File::create(folder.join("dev.err"))?;
        let mut command = Command::new(host::binary()?);
        command.args(["--json", "dev", "--watch", "--module"]).arg(module).arg("--data").arg(folder.join("data"));
        command.args(["--hosts", &HOSTS.to_string(), "--base-port", &base_port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        for (name, _) in std::env::vars_os() {
            // Nor must a target folder of the tests' own become the module's.
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("TELEGRAFT_") || name.starts_with("CARGO") {
                command.env_remove(name);
            }
        }
        let mut child = process::spawn(command).context("starting telegraft dev")?;
        let printed = child.stdout.take().context("no standard output")?;
        let (lines, events) = unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(printed).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if lines.send(event).is_err() {
                    break;
                }
            }
        });
        let mut dev = Self { child, events, folder: folder.to_owned(), introduction: Value::Null, base_port };
        dev.introduction = dev.next(within).await?;
        ensure!(dev.introduction["leader"].is_u64(), "{}", dev.introduction);
        Ok(dev)
    }

    /// The next line it prints.
    async fn next(&mut self, within: Duration) -> Result<Value> {
        let next = tokio::time::timeout(within, self.events.recv()).await;
        match next {
            Ok(Some(value)) => Ok(value),
            Ok(None) => bail!("telegraft dev has ended: {:?}, {}", self.child.wait()?, self.errors()),
            Err(_) => bail!("telegraft dev says nothing within {within:?}: {}", self.errors()),
        }
    }

    /// The next event that is not merely that something has changed.
    ///
    /// # Errors
    ///
    /// Where it does not come, or is another one than `wanted`.
    pub async fn event(&mut self, wanted: &str, within: Duration) -> Result<Value> {
        loop {
            let event = self.next(within).await?;
            if event["event"] == "changed" {
                continue;
            }
            ensure!(event["event"] == wanted, "not {wanted}: {event}");
            return Ok(event);
        }
    }

    /// What it printed as errors.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.join("dev.err")).unwrap_or_default()
    }

    /// The client address of a host, from 1.
    pub fn address(&self, host: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + (host - 1) % HOSTS * PORTS_PER_HOST)
    }

    /// Runs `telegraft --host … --json` with these arguments, at a host.
    ///
    /// # Errors
    ///
    /// Where it cannot be run.
    pub async fn ask(&self, host: u16, arguments: &[&str]) -> Result<Ran> {
        let address = self.address(host);
        telegraft(&[&["--host", &address, "--json"], arguments].concat()).await
    }

    /// Calls a method at a host; the reply.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub async fn call(&self, host: u16, method: &str, request: &str) -> Result<Value> {
        Ok(self.ask(host, &["call", method, request]).await?.json()?["reply"].clone())
    }

    /// Asks a query of a host; the reply reflects every write that was answered.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub async fn read(&self, host: u16, method: &str, request: &str) -> Result<Value> {
        let ran = self.ask(host, &["call", method, request, "--consistency", "linearizable"]).await?;
        Ok(ran.json()?["reply"].clone())
    }

    /// Waits until every host's machine has the module of this digest.
    ///
    /// # Errors
    ///
    /// Where that does not come to be in time.
    pub async fn everywhere(&self, digest: &str) -> Result<()> {
        until("the module on every host", PATIENCE, async || {
            let status = self.ask(1, &["status"]).await?;
            let status: Value = serde_json::from_str(&status.stdout).with_context(|| format!("{status:?}"))?;
            let hosts = status["hosts"].as_array().context("no hosts")?;
            let have = hosts.iter().filter(|host| host["machines"][0]["module"]["digest"] == digest).count();
            ensure!(have == usize::from(HOSTS), "{have} hosts have {digest}: {status}");
            Ok(())
        })
        .await
    }

    /// Asks it to stop, as Ctrl-C does, and waits for its end.
    ///
    /// # Errors
    ///
    /// Where it does not end.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        until("the end of telegraft dev", PATIENCE, async || {
            self.child.try_wait()?.with_context(|| format!("it goes on: {}", self.errors()))
        })
        .await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
