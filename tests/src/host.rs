//! One host: its configuration, its process and its output.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{ports::Addresses, process};

/// Environment variable that names the binary to test.
pub const BINARY_VARIABLE: &str = "TELEGRAFT_BIN";

/// The `telegraft` binary: the one that `TELEGRAFT_BIN` names, else the one beside the running executable.
///
/// # Errors
///
/// Where there is none; the message says how to make it.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        let named = PathBuf::from(named);
        if named.is_file() {
            return Ok(named);
        }
        bail!("{BINARY_VARIABLE} names {}, which is no file", named.display());
    }
    // Tests run from target/release/deps, the demo from target/release.
    let here = std::env::current_exe().context("asking for the path of the running executable")?;
    let mut looked = String::new();
    for folder in here.ancestors().skip(1).take(2) {
        let candidate = folder.join("telegraft");
        if candidate.is_file() {
            return Ok(candidate);
        }
        let _ = write!(looked, " {}", candidate.display());
    }
    bail!(
        "the telegraft binary is missing (looked for{looked}). Build it with `cargo build --release --workspace`, or name \
         another one in {BINARY_VARIABLE}"
    )
}

/// What a host's configuration file says.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Name of the cluster.
    pub cluster: String,
    /// Id of this host.
    pub id: u64,
    /// "rocksdb" or "memory".
    pub log: String,
    /// All hosts of the cluster, this one among them.
    pub hosts: Vec<(u64, Addresses)>,
    /// More TOML: whole tables, as `[requests]` and what belongs to it.
    pub tables: String,
}

impl HostSettings {
    /// The configuration as TOML, for data in `data_dir`.
    ///
    /// # Errors
    ///
    /// Where the host is not among the hosts.
    pub fn to_toml(&self, data_dir: &Path) -> Result<String> {
        let own = self.hosts.iter().find(|(id, _)| *id == self.id).map(|(_, addresses)| addresses);
        let own = own.ok_or_else(|| anyhow!("host {} is not among the hosts", self.id))?;
        let mut toml = format!(
            "cluster = {:?}\nhost_id = {}\ndata_dir = {:?}\nlog = {:?}\nclient_listen = \"{}\"\npeer_listen = \"{}\"\n\
             http_listen = \"{}\"\n",
            self.cluster, self.id, data_dir, self.log, own.client, own.peer, own.http
        );
        for (id, addresses) in &self.hosts {
            let _ = write!(
                toml,
                "\n[[hosts]]\nid = {id}\nclient = \"{}\"\npeer = \"{}\"\n",
                addresses.client, addresses.peer
            );
        }
        let _ = write!(toml, "\n{}", self.tables);
        Ok(toml)
    }
}

/// A host as a child process. Dropping it kills it.
#[derive(Debug)]
pub struct HostProcess {
    id: u64,
    addresses: Addresses,
    folder: PathBuf,
    child: Option<Child>,
    paused: bool,
}

impl HostProcess {
    /// Writes the configuration into `folder`; starts nothing yet.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be written, or the host is not among the hosts.
    pub fn prepare(settings: &HostSettings, folder: PathBuf) -> Result<Self> {
        let data = folder.join("data");
        fs::create_dir_all(&data).with_context(|| format!("making the folder {}", data.display()))?;
        let config = folder.join("host.toml");
        fs::write(&config, settings.to_toml(&data)?).with_context(|| format!("writing {}", config.display()))?;
        let addresses = settings.hosts.iter().find(|(id, _)| *id == settings.id).map(|(_, addresses)| *addresses);
        let addresses = addresses.ok_or_else(|| anyhow!("host {} is not among the hosts", settings.id))?;
        Ok(Self { id: settings.id, addresses, folder, child: None, paused: false })
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("host.toml")
    }

    /// The file that gets all it prints, over all its lives.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("host.log")
    }

    /// Starts the process. That it serves is for the caller to wait for.
    ///
    /// # Errors
    ///
    /// Where it runs already, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("host {} runs already", self.id);
        }
        let log = self.log_file();
        let open = OpenOptions::new().create(true).append(true).open(&log);
        let output = open.with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new(binary()?);
        command.arg("serve").arg("--config").arg(self.config()).env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
        // Whatever is set for us must not change the settings under test.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TELEGRAFT_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        self.child = Some(process::spawn(command).with_context(|| format!("starting host {}", self.id))?);
        Ok(())
    }

    /// Whether the process is there; a paused one is.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether it is there and not paused.
    pub fn is_live(&mut self) -> bool {
        !self.paused && self.is_running()
    }

    /// How the process ended, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    ///
    /// Where it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.paused = false;
        self.child.take().ok_or_else(|| anyhow!("host {} does not run", self.id))?.wait()?;
        Ok(())
    }

    /// Asks the process to end (SIGTERM), and waits for that up to `within`.
    ///
    /// # Errors
    ///
    /// Where it does not run, or is still there after `within`.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_for_end(within)
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    ///
    /// Where it does not run, or is still there after `within`.
    pub fn wait_for_end(&mut self, within: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        let child = self.child.as_mut().ok_or_else(|| anyhow!("host {} does not run", self.id))?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if begun.elapsed() > within {
                bail!("host {} still runs after {within:?}", self.id);
            }
            std::thread::sleep(crate::polling::INTERVAL);
        }
    }

    /// Stops the process in its tracks (SIGSTOP): sockets stay open, nobody answers. Returns when it has stopped: the
    /// signal takes effect when one of its threads gets to run, and the others go on until then.
    ///
    /// # Errors
    ///
    /// Where it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        self.paused = true;
        let begun = Instant::now();
        while !self.has_stopped()? {
            ensure!(begun.elapsed() < crate::polling::PATIENCE, "host {} does not stop", self.id);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether every thread of the process is stopped (proc(5): state T).
    fn has_stopped(&self) -> Result<bool> {
        let child = self.child.as_ref().ok_or_else(|| anyhow!("host {} does not run", self.id))?;
        for thread in fs::read_dir(format!("/proc/{}/task", child.id())).context("listing a host's threads")? {
            let stat = fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
            // No state: the thread has just ended.
            if state.is_some_and(|state| state != "T") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// Where it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        self.paused = false;
        Ok(())
    }

    /// Everything it has printed.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read.
    pub fn output(&self) -> Result<String> {
        let log = self.log_file();
        let bytes = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last `lines` lines it has printed.
    pub fn tail(&self, lines: usize) -> String {
        let output = self.output().unwrap_or_else(|error| format!("{error:#}"));
        let all: Vec<&str> = output.lines().collect();
        all.iter().skip(all.len().saturating_sub(lines)).fold(String::new(), |text, line| text + "    " + line + "\n")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().ok_or_else(|| anyhow!("host {} does not run", self.id))?;
        let pid = i32::try_from(child.id()).context("a process id beyond the kernel's range")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("sending {signal} to host {}", self.id))
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way nothing is left to do about it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_every_host() -> Result<()> {
        let hosts = vec![(1, Addresses::from_port(7400)), (2, Addresses::from_port(7410))];
        let settings = HostSettings {
            cluster: "c".to_owned(),
            id: 2,
            log: "memory".to_owned(),
            hosts,
            tables: "[raft]\ntick = \"10ms\"\n".to_owned(),
        };
        let toml = settings.to_toml(Path::new("/data"))?;
        for line in ["host_id = 2", "client_listen = \"127.0.0.1:7410\"", "peer = \"127.0.0.1:7401\"", "[raft]"] {
            assert!(toml.contains(line), "{line} is missing in\n{toml}");
        }
        assert!(HostSettings { id: 3, ..settings }.to_toml(Path::new("/data")).is_err());
        Ok(())
    }
}
