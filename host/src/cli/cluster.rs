//! A whole cluster of child processes on loopback, for `dev` and `bench`. Owns the children: they end with this process,
//! however it ends.
//!
//! The folder of a cluster holds a folder `host-N` for each host: `host.toml` (written anew at each start), `data`, and
//! `host.log` with what the host prints.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use telegraft_proto::v1::Role;

use super::{connect::Connection, failure::Failure};
use crate::settings::{HostAddress, KEYS, Settings, Sources, load};

/// How often we look whether something has happened.
const POLL: Duration = Duration::from_millis(50);
/// How long a host may take for one answer about its state.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// What is shown of the log of a host that died.
const LOG_TAIL_LINES: usize = 15;
const LOG_TAIL_BYTES: u64 = 16 * 1024;
/// What each host is told by us alone; a variable of the surroundings would tell all of them the same.
const PER_HOST_KEYS: [&str; 6] = ["host_id", "data_dir", "client_listen", "peer_listen", "http_listen", "hosts"];

/// Where one host listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Client API.
    pub client: u16,
    /// Other hosts.
    pub peer: u16,
    /// Metrics and health.
    pub http: u16,
}

/// One child.
pub struct LocalHost {
    /// Its id.
    pub id: u64,
    /// What it is told.
    pub settings: Settings,
    /// The file that says so.
    pub config: PathBuf,
    /// What it prints.
    pub log: PathBuf,
    child: Option<Child>,
}

impl LocalHost {
    /// Address of its client API.
    pub fn client(&self) -> String {
        self.settings.client_listen.to_string()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

/// A cluster of children. Dropping it kills them.
pub struct LocalCluster {
    /// One for each host, by rising id.
    pub hosts: Vec<LocalHost>,
    /// Held as long as the folder is ours.
    _lock: fs::File,
}

impl LocalCluster {
    /// Writes the hosts' files below `folder`; starts nothing.
    ///
    /// # Errors
    ///
    /// If another process runs a cluster there, the folder holds a cluster of another size, a setting of the surroundings is wrong, or a file cannot be written.
    pub fn prepare(folder: &Path, ports: &[Ports]) -> Result<Self, Failure> {
        let folder = std::path::absolute(folder)
            .map_err(|error| Failure::usage(format!("{} is no usable folder: {error}", folder.display())))?;
        refuse_another_size(&folder, ports.len())?;
        let lock = lock(&folder)?;
        let base = settings_of_surroundings()?;
        let listen = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let addresses: Vec<HostAddress> = (1..)
            .zip(ports)
            .map(|(id, ports)| HostAddress {
                id,
                client: listen(ports.client).to_string(),
                peer: listen(ports.peer).to_string(),
            })
            .collect();
        let mut hosts = Vec::with_capacity(ports.len());
        for (id, ports) in (1..).zip(ports) {
            let own = folder.join(format!("host-{id}"));
            let settings = Settings {
                host_id: id,
                data_dir: own.join("data"),
                client_listen: listen(ports.client),
                peer_listen: listen(ports.peer),
                http_listen: listen(ports.http),
                hosts: addresses.clone(),
                ..base.clone()
            };
            let (config, log) = (own.join("host.toml"), own.join("host.log"));
            write_config(&own, &config, &settings)
                .map_err(|error| Failure::usage(format!("{} cannot be written: {error}", config.display())))?;
            hosts.push(LocalHost { id, settings, config, log, child: None });
        }
        Ok(Self { hosts, _lock: lock })
    }

    /// Starts every host that does not run.
    ///
    /// # Errors
    ///
    /// Names the ports that somebody else uses; nothing is started then.
    pub fn start(&mut self) -> Result<(), Failure> {
        self.refuse_taken_ports()?;
        for host in self.hosts.iter_mut().filter(|host| host.child.is_none()) {
            host.child = Some(
                spawn(host)
                    .map_err(|error| Failure::refused(format!("host {} cannot be started: {error}", host.id)))?,
            );
        }
        Ok(())
    }

    fn refuse_taken_ports(&self) -> Result<(), Failure> {
        let mut taken = Vec::new();
        for host in self.hosts.iter().filter(|host| host.child.is_none()) {
            let settings = &host.settings;
            for (what, address) in [
                ("client API", settings.client_listen),
                ("peers", settings.peer_listen),
                ("HTTP", settings.http_listen),
            ] {
                if let Err(error) = TcpListener::bind(address) {
                    taken.push(format!("\n  {address} ({what} of host {}): {error}", host.id));
                }
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "these addresses cannot be used; another cluster may be running:{}\n  what to do: stop it, or choose others with --base-port",
            taken.concat()
        )))
    }

    /// Waits until every host knows the same leader, and gives its id.
    ///
    /// # Errors
    ///
    /// If a host dies meanwhile, or the time is over.
    pub async fn wait_for_leader(&mut self, limit: Duration) -> Result<u64, Failure> {
        let begin = Instant::now();
        loop {
            if let Some(death) = self.deaths().into_iter().next() {
                return Err(Failure::refused(death.report));
            }
            if let Some(leader) = self.leader().await
                && leader.known_by_all
            {
                return Ok(leader.id);
            }
            if begin.elapsed() > limit {
                let logs: Vec<String> = self.hosts.iter().map(|host| host.log.display().to_string()).collect();
                return Err(Failure::refused(format!(
                    "the hosts found no leader within {} s; their logs: {}",
                    limit.as_secs(),
                    logs.join(", ")
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Who leads, as the running hosts see it now.
    pub async fn leader(&self) -> Option<Leader> {
        let running = self.hosts.iter().filter(|host| host.child.is_some());
        let answers = futures::future::join_all(running.map(|host| async move {
            let connection = Connection::to(&host.client(), STATUS_TIMEOUT).await.ok()?;
            connection.status(false).await.ok()
        }))
        .await;
        let machine = |status: &Option<telegraft_proto::v1::HostStatus>| {
            let status = status.as_ref()?;
            Some((status.host_id, status.machines.first()?.clone()))
        };
        let machines: Vec<_> = answers.iter().map(machine).collect();
        let newest = machines.iter().flatten().map(|(_, machine)| machine.term).max()?;
        let (id, _) =
            machines.iter().flatten().find(|(_, machine)| machine.term == newest && machine.role() == Role::Leader)?;
        let known_by_all = machines.iter().all(|one| one.as_ref().is_some_and(|(_, machine)| machine.leader_id == *id));
        Some(Leader { id: *id, known_by_all })
    }

    /// The children that have died since the last look, each in plain words with the tail of its log.
    pub fn deaths(&mut self) -> Vec<Death> {
        let mut deaths = Vec::new();
        for host in &mut self.hosts {
            let Some(Ok(Some(status))) = host.child.as_mut().map(Child::try_wait) else { continue };
            host.child = None;
            let lines = tail(&host.log);
            let what = if lines.is_empty() { "is empty" } else { "ends:" };
            let mut report = format!("host {} {}; its log {} {what}", host.id, in_words(status), host.log.display());
            for line in lines {
                report.push_str(&format!("\n  | {line}"));
            }
            deaths.push(Death { id: host.id, config: host.config.clone(), report });
        }
        deaths
    }

    /// Kills a host at once, as a crash would, and waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn kill(&mut self, id: u64) -> Result<(), Failure> {
        let host = self.hosts.iter_mut().find(|host| host.id == id);
        let mut child = host
            .and_then(|host| host.child.take())
            .ok_or_else(|| Failure::refused(format!("host {id} does not run, so it cannot be killed")))?;
        let ended = child.kill().and_then(|()| child.wait());
        ended.map(drop).map_err(|error| Failure::refused(format!("host {id} cannot be killed: {error}")))
    }

    /// Asks a host to stop (SIGTERM), and waits for its end, up to `grace`.
    ///
    /// # Errors
    ///
    /// If it does not run, or goes on.
    pub async fn stop_host(&mut self, id: u64, grace: Duration) -> Result<(), Failure> {
        let host = self.hosts.iter_mut().find(|host| host.id == id && host.child.is_some());
        let host = host.ok_or_else(|| Failure::refused(format!("host {id} does not run, so it cannot be stopped")))?;
        ask_to_stop(host);
        let begin = Instant::now();
        while host.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            if begin.elapsed() > grace {
                return Err(Failure::refused(format!("host {id} did not stop within {} s", grace.as_secs())));
            }
            tokio::time::sleep(POLL / 2).await;
        }
        host.child = None;
        Ok(())
    }

    /// Stops every host: asks first, and kills after `grace`. Says which had to be killed.
    pub async fn stop(&mut self, grace: Duration) -> Vec<u64> {
        self.hosts.iter().for_each(ask_to_stop);
        let begin = Instant::now();
        while begin.elapsed() < grace {
            for host in &mut self.hosts {
                if host.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                    host.child = None;
                }
            }
            if self.hosts.iter().all(|host| host.child.is_none()) {
                return Vec::new();
            }
            tokio::time::sleep(POLL / 2).await;
        }
        let stubborn = self.hosts.iter().filter(|host| host.child.is_some()).map(|host| host.id).collect();
        self.kill_all();
        stubborn
    }

    fn kill_all(&mut self) {
        for host in &mut self.hosts {
            if let Some(mut child) = host.child.take() {
                // Nothing is left to do where the kernel refuses: it ends with us anyway.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Sends SIGTERM. A host that has ended by itself meanwhile needs none.
fn ask_to_stop(host: &LocalHost) {
    if let Some(pid) = host.pid().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// A child that has ended by itself.
#[derive(Clone, Debug)]
pub struct Death {
    /// The host's id.
    pub id: u64,
    /// The file with which it can be started again.
    pub config: PathBuf,
    /// In plain words, with the tail of its log.
    pub report: String,
}

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its id.
    pub id: u64,
    /// Whether every running host says so.
    pub known_by_all: bool,
}

/// A folder keeps the size of the cluster it was made for: the hosts' logs know their members.
fn refuse_another_size(folder: &Path, wanted: usize) -> Result<(), Failure> {
    let there = (1..).take_while(|id| folder.join(format!("host-{id}/data")).is_dir()).count();
    if there == 0 || there == wanted {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{} holds the data of a cluster of {there} hosts, not {wanted}\n  what to do: run with --hosts {there}, name another folder with --data, or remove that one",
        folder.display()
    )))
}

/// Makes the folder ours, before anything in it is written: the files of hosts that run are not for another to change.
fn lock(folder: &Path) -> Result<fs::File, Failure> {
    let path = folder.join("cluster.lock");
    let file = fs::create_dir_all(folder).and_then(|()| fs::File::create(&path));
    let file = file.map_err(|error| Failure::usage(format!("{} cannot be written: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Failure::usage(format!(
            "another process runs a cluster in {}\n  what to do: stop it, or name another folder with --data (and other ports with --base-port)",
            folder.display()
        ))),
        Err(fs::TryLockError::Error(error)) => {
            Err(Failure::usage(format!("{} cannot be locked: {error}", path.display())))
        }
    }
}

/// Defaults, and what the surroundings say about settings that all hosts share.
fn settings_of_surroundings() -> Result<Settings, Failure> {
    let mut sources = Sources::of_process(None);
    let per_host = |name: &String| KEYS.iter().any(|key| key.variable() == *name && PER_HOST_KEYS.contains(&key.path));
    sources.variables.retain(|(name, _)| !per_host(name));
    Ok(load(&sources)?.settings)
}

fn write_config(own: &Path, config: &Path, settings: &Settings) -> std::io::Result<()> {
    fs::create_dir_all(own)?;
    let text = toml::to_string(settings).map_err(std::io::Error::other)?;
    fs::write(
        config,
        format!("# Written anew whenever this cluster starts; what is changed here is lost then.\n{text}"),
    )
}

fn spawn(host: &LocalHost) -> std::io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(&host.log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg("--config").arg(&host.config).arg("--end-with").arg(std::process::id().to_string());
    for key in KEYS {
        // The file has them already.
        command.env_remove(key.variable());
    }
    // In a process group of its own, so that Ctrl-C reaches us alone and we stop the hosts in good order.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn()
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "has stopped".to_owned(),
        (Some(code), _) => format!("has ended with exit code {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
            format!("was killed by {name}")
        }
        (None, None) => "has ended".to_owned(),
    }
}

/// The last lines of a file; nothing where it cannot be read.
fn tail(file: &Path) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(file)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(LOG_TAIL_LINES)).map(|line| (*line).to_owned()).collect()
}

/// Ports that nobody uses now, for `hosts` hosts. They are free to take until somebody does: whoever starts on them must
/// be ready to fail.
///
/// # Errors
///
/// If the system gives none.
pub fn free_ports(hosts: usize) -> Result<Vec<Ports>, Failure> {
    let mut held = Vec::with_capacity(hosts * 3);
    let mut port = || -> std::io::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    (0..hosts)
        .map(|_| Ok(Ports { client: port()?, peer: port()?, http: port()? }))
        .collect::<std::io::Result<_>>()
        .map_err(|error| Failure::refused(format!("no free port: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_host_gets_a_file_that_loads() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = LocalCluster::prepare(folder.path(), &free_ports(3).unwrap()).unwrap();
        assert_eq!(cluster.hosts.len(), 3);
        for host in &cluster.hosts {
            let loaded = load(&Sources { file: Some(host.config.clone()), ..Sources::default() }).unwrap();
            assert_eq!(loaded.settings, host.settings);
            assert_eq!((loaded.settings.host_id, loaded.settings.hosts.len()), (host.id, 3));
        }
    }

    #[test]
    fn a_folder_of_another_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for id in 1..=3 {
            fs::create_dir_all(folder.path().join(format!("host-{id}/data"))).unwrap();
        }
        assert!(refuse_another_size(folder.path(), 3).is_ok());
        let failure = refuse_another_size(folder.path(), 5).unwrap_err();
        assert!(failure.message.contains("--hosts 3"), "{}", failure.message);
    }

    #[test]
    fn a_folder_in_use_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = LocalCluster::prepare(folder.path(), &free_ports(1).unwrap()).unwrap();
        let config = fs::read(&cluster.hosts[0].config).unwrap();
        let failure = LocalCluster::prepare(folder.path(), &free_ports(1).unwrap()).err().unwrap();
        assert!(failure.message.contains("another process runs a cluster"), "{}", failure.message);
        assert_eq!(fs::read(&cluster.hosts[0].config).unwrap(), config);
        drop(cluster);
        assert!(LocalCluster::prepare(folder.path(), &free_ports(1).unwrap()).is_ok());
    }

    #[test]
    fn a_taken_port_is_named_before_anything_starts() {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(2).unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[1].peer)).unwrap();
        let mut cluster = LocalCluster::prepare(folder.path(), &ports).unwrap();
        let failure = cluster.start().unwrap_err();
        assert!(
            failure.message.contains(&format!("127.0.0.1:{} (peers of host 2)", ports[1].peer)),
            "{}",
            failure.message
        );
        assert!(cluster.hosts.iter().all(|host| host.pid().is_none()));
    }

    #[test]
    fn free_ports_differ() {
        let ports = free_ports(5).unwrap();
        let all: BTreeSet<u16> = ports.iter().flat_map(|ports| [ports.client, ports.peer, ports.http]).collect();
        assert_eq!(all.len(), 15);
    }

    #[test]
    fn an_end_is_put_in_words() {
        assert_eq!(in_words(ExitStatus::from_raw(0)), "has stopped");
        assert_eq!(in_words(ExitStatus::from_raw(2 << 8)), "has ended with exit code 2");
        assert_eq!(in_words(ExitStatus::from_raw(9)), "was killed by SIGKILL");
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = (0..5000).map(|line| format!("line {line}\n")).collect();
        fs::write(file.path(), text).unwrap();
        let lines = tail(file.path());
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (LOG_TAIL_LINES, Some("line 4999")));
        assert!(tail(Path::new("/nowhere/host.log")).is_empty());
    }
}
