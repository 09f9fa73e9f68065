//! A cluster: its hosts, what they say of themselves, and what they agree on.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use telegraft_proto::v1::{
    ActivateModule, ActivatedModule, HostStatus, ListModules, MachineStatus, ModuleInfo, Role, UploadModule,
    UploadedModule,
};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

use crate::{
    client::{HostClient, may_try_again},
    host::{HostProcess, HostSettings},
    polling::{INTERVAL, PATIENCE, until},
    ports::{Addresses, PortBlock},
};

/// Clusters that run at once in one test program: more would only make them slow on two cores.
static SLOTS: Semaphore = Semaphore::const_new(2);

/// Size of an upload's message.
const UPLOAD_CHUNK_BYTES: usize = 256 << 10;

/// What a new cluster shall be like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the cluster.
    pub name: String,
    /// Number of hosts, at most [`crate::ports::HOSTS_MAX`].
    pub hosts: u64,
    /// "rocksdb" or "memory".
    pub log: String,
    /// More configuration: whole TOML tables.
    pub tables: String,
    /// Ports to use; where there are none, free ones are reserved.
    pub addresses: Option<Vec<Addresses>>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            name: "test".to_owned(),
            hosts: 3,
            log: "rocksdb".to_owned(),
            tables: "[telemetry]\nlog_level = \"info\"\n".to_owned(),
            addresses: None,
        }
    }
}

/// Who leads, as a majority sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The host.
    pub id: u64,
    /// Its term.
    pub term: u64,
}

/// What hosts have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Newest index, applied on all of them.
    pub index: u64,
    /// Digest of the state there.
    pub digest: String,
}

/// A cluster of child processes. It is killed when dropped. Unless [`Cluster::passed`] was called, that is a failure: the
/// hosts' last lines are printed and their folder is kept.
#[derive(Debug)]
pub struct Cluster {
    hosts: Vec<HostProcess>,
    clients: Vec<HostClient>,
    folder: Option<TempDir>,
    /// Whether the files are of no more use once the cluster is dropped.
    discard: bool,
    _ports: Option<PortBlock>,
    _slot: SemaphorePermit<'static>,
}

impl Cluster {
    /// Starts three hosts with RocksDB, and waits until they have a leader.
    ///
    /// # Errors
    ///
    /// Those of [`Cluster::prepare`], [`Cluster::start_all`] and [`Cluster::wait_for_leader`].
    pub async fn start() -> Result<Self> {
        Self::start_with(Plan::default()).await
    }

    /// Starts three hosts that serve the chat module.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`] and [`Cluster::install`].
    pub async fn start_with_chat() -> Result<Self> {
        let mut cluster = Self::start().await?;
        cluster.install(telegraft_modules::CHAT).await?;
        Ok(cluster)
    }

    /// Starts a cluster as planned, and waits until it has a leader.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub async fn start_with(plan: Plan) -> Result<Self> {
        let mut cluster = Self::prepare(plan).await?;
        cluster.start_all().await?;
        cluster.wait_for_leader().await?;
        Ok(cluster)
    }

    /// Reserves ports and writes the configuration; starts nothing.
    ///
    /// # Errors
    ///
    /// Where ports or folders cannot be had.
    pub async fn prepare(plan: Plan) -> Result<Self> {
        let slot = SLOTS.acquire().await?;
        let folder = tempfile::Builder::new().prefix("telegraft-").tempdir().context("making a folder for data")?;
        let (ports, addresses) = match plan.addresses {
            Some(addresses) => (None, addresses),
            None => {
                let block = PortBlock::reserve()?;
                let addresses = (1..=plan.hosts).map(|id| block.addresses(id)).collect();
                (Some(block), addresses)
            }
        };
        let all: Vec<(u64, Addresses)> = (1..).zip(addresses).collect();
        let mut hosts = Vec::new();
        for (id, _) in &all {
            let settings = HostSettings {
                cluster: plan.name.clone(),
                id: *id,
                log: plan.log.clone(),
                hosts: all.clone(),
                tables: plan.tables.clone(),
            };
            hosts.push(HostProcess::prepare(&settings, folder.path().join(format!("host-{id}")))?);
        }
        let clients = all.iter().map(|(_, addresses)| HostClient::new(addresses.client)).collect();
        Ok(Self { hosts, clients, folder: Some(folder), discard: false, _ports: ports, _slot: slot })
    }

    /// Starts every host that does not run, and waits until all of them answer.
    ///
    /// # Errors
    ///
    /// Where one ends at once or stays silent.
    pub async fn start_all(&mut self) -> Result<()> {
        for host in &mut self.hosts {
            if !host.is_running() {
                host.start()?;
            }
        }
        for id in self.ids() {
            self.wait_until_it_answers(id).await?;
        }
        Ok(())
    }

    /// Starts one host, and waits until it answers.
    ///
    /// # Errors
    ///
    /// Where it ends at once or stays silent.
    pub async fn start_host(&mut self, id: u64) -> Result<()> {
        self.host_mut(id)?.start()?;
        self.wait_until_it_answers(id).await
    }

    /// Kills one host (`kill -9`).
    ///
    /// # Errors
    ///
    /// Where it does not run.
    pub fn kill(&mut self, id: u64) -> Result<()> {
        self.host_mut(id)?.kill()
    }

    /// Every host's id.
    pub fn ids(&self) -> Vec<u64> {
        self.hosts.iter().map(HostProcess::id).collect()
    }

    /// The hosts that run and are not paused.
    pub fn live(&mut self) -> Vec<u64> {
        self.hosts.iter_mut().filter_map(|host| host.is_live().then_some(host.id())).collect()
    }

    /// One host.
    ///
    /// # Errors
    ///
    /// Where there is none of this id.
    pub fn host(&self, id: u64) -> Result<&HostProcess> {
        self.hosts.iter().find(|host| host.id() == id).ok_or_else(|| anyhow!("no host {id}"))
    }

    /// One host, to do something to it.
    ///
    /// # Errors
    ///
    /// Where there is none of this id.
    pub fn host_mut(&mut self, id: u64) -> Result<&mut HostProcess> {
        self.hosts.iter_mut().find(|host| host.id() == id).ok_or_else(|| anyhow!("no host {id}"))
    }

    /// Clients of all hosts, in the order of their ids.
    pub fn clients(&self) -> &[HostClient] {
        &self.clients
    }

    /// The client of one host.
    ///
    /// # Errors
    ///
    /// Where there is none of this id.
    pub fn client(&self, id: u64) -> Result<&HostClient> {
        let position = self.hosts.iter().position(|host| host.id() == id);
        position.and_then(|position| self.clients.get(position)).ok_or_else(|| anyhow!("no host {id}"))
    }

    /// The folder that holds everything.
    ///
    /// # Errors
    ///
    /// Never, before the cluster is dropped.
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(self.folder.as_ref().ok_or_else(|| anyhow!("the cluster is gone"))?.path().to_owned())
    }

    /// What one host says of the default machine.
    ///
    /// # Errors
    ///
    /// Where it does not answer or has no machine.
    pub async fn machine(&self, id: u64) -> Result<MachineStatus> {
        let status =
            self.client(id)?.status(false).await.with_context(|| format!("asking host {id} for its status"))?;
        machine_of(status)
    }

    /// What the live hosts say of the default machine.
    ///
    /// # Errors
    ///
    /// Where one of them does not answer.
    pub async fn machines(&mut self) -> Result<BTreeMap<u64, MachineStatus>> {
        let mut all = BTreeMap::new();
        for id in self.live() {
            all.insert(id, self.machine(id).await?);
        }
        Ok(all)
    }

    /// Waits until one live host leads, and a majority of the cluster follows it in its term.
    ///
    /// # Errors
    ///
    /// Where it takes too long, with what the hosts said last.
    pub async fn wait_for_leader(&mut self) -> Result<Leader> {
        self.wait_for_leader_within(PATIENCE).await
    }

    /// [`Cluster::wait_for_leader`] with a bound of its own.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn wait_for_leader_within(&mut self, within: Duration) -> Result<Leader> {
        let size = self.hosts.len();
        until("a leader that a majority follows", within, async || {
            let mut seen = BTreeMap::new();
            for id in self.live() {
                if let Ok(machine) = self.machine(id).await {
                    seen.insert(id, machine);
                }
            }
            leader_of(&seen, size).ok_or_else(|| anyhow!("{}", describe(&seen)))
        })
        .await
    }

    /// Waits until all live hosts have applied everything the leader has in its log.
    ///
    /// # Errors
    ///
    /// Where it takes too long.
    pub async fn wait_until_applied(&mut self) -> Result<u64> {
        until("all live hosts at the leader's last index", PATIENCE, async || {
            let machines = self.machines().await?;
            let newest = machines.values().map(|machine| machine.last_index).max().unwrap_or_default();
            let level = machines.values().all(|machine| machine.applied_index == newest);
            ensure!(newest > 0 && level, "{}", describe(&machines));
            Ok(newest)
        })
        .await
    }

    /// Waits until all live hosts have applied the same entries, and asks each for a digest of its state.
    ///
    /// # Errors
    ///
    /// Where they do not come level, or their states differ: that is never to be, so it is not waited for.
    pub async fn wait_for_agreement(&mut self) -> Result<Agreement> {
        let found = until("digests of one index", PATIENCE, async || {
            let index = self.wait_until_applied().await?;
            let mut digests = BTreeMap::new();
            for id in self.live() {
                let machine = machine_of(self.client(id)?.status(true).await?)?;
                ensure!(machine.applied_index == index, "host {id} has moved on");
                digests.insert(id, machine.digest);
            }
            Ok((index, digests))
        });
        let (index, digests) = found.await?;
        let digest = digests.values().next().cloned().unwrap_or_default();
        ensure!(digest.len() == 64, "a digest has 64 digits, and this is {digest:?}");
        ensure!(digests.values().all(|one| *one == digest), "states differ at index {index}: {digests:?}");
        Ok(Agreement { index, digest })
    }

    /// Uploads a module through host `id`, and tries again while nobody leads.
    ///
    /// # Errors
    ///
    /// The host's refusal.
    pub async fn upload(&self, id: u64, bytes: &[u8]) -> Result<UploadedModule, Status> {
        let client = self.client(id).map_err(|error| Status::not_found(error.to_string()))?;
        again(async || upload_once(client, "", bytes).await).await
    }

    /// Activates a module through host `id`, and tries again while nobody leads. Where an attempt whose outcome was not known
    /// has been carried out, that is the activation: another one would be an entry of its own in the machine's past.
    ///
    /// # Errors
    ///
    /// The host's refusal.
    pub async fn activate(&self, id: u64, digest: &str) -> Result<ActivatedModule, Status> {
        let client = self.client(id).map_err(|error| Status::not_found(error.to_string()))?;
        let order = ActivateModule { machine: String::new(), digest: digest.to_owned(), reuse: false };
        let before = self.activations().await.into_iter().map(|module| module.activated_index).max().unwrap_or(0);
        let mut tried = false;
        again(async || {
            if tried {
                let mut since = self.activations().await.into_iter().filter(|module| module.activated_index > before);
                if let Some(module) = since.find(|module| module.digest.starts_with(digest)) {
                    return Ok(ActivatedModule { index: module.activated_index, module: Some(module) });
                }
            }
            tried = true;
            client.modules().activate(order.clone()).await.map(tonic::Response::into_inner)
        })
        .await
    }

    /// The modules that any host that answers has ever had active.
    async fn activations(&self) -> Vec<ModuleInfo> {
        let mut found = Vec::new();
        for client in &self.clients {
            let list = async { client.modules().list(ListModules::default()).await };
            if let Ok(Ok(list)) = tokio::time::timeout(Duration::from_secs(1), list).await {
                found.extend(list.into_inner().modules.into_iter().filter(|module| module.activated_index > 0));
            }
        }
        found
    }

    /// Uploads and activates, and waits until every live host serves the module.
    ///
    /// # Errors
    ///
    /// A refusal, or a host that does not come to it.
    pub async fn install(&mut self, bytes: &[u8]) -> Result<ActivatedModule> {
        let through = self.live().first().copied().ok_or_else(|| anyhow!("no host runs"))?;
        let uploaded = self.upload(through, bytes).await.context("uploading a module")?;
        let activated = self.activate(through, &uploaded.digest).await.context("activating a module")?;
        self.wait_for_module(&uploaded.digest).await?;
        Ok(activated)
    }

    /// Waits until every live host serves the module of this digest.
    ///
    /// # Errors
    ///
    /// Where one does not come to it.
    pub async fn wait_for_module(&mut self, digest: &str) -> Result<()> {
        until("the module active on all live hosts", PATIENCE, async || {
            for (id, machine) in self.machines().await? {
                let active = machine.module.map(|module| module.digest).unwrap_or_default();
                ensure!(active == digest, "host {id} serves {active:?}, not {digest}");
            }
            Ok(())
        })
        .await
    }

    /// Ends a test that has gone well: no host may have panicked, and then nothing is kept.
    ///
    /// # Errors
    ///
    /// Where a host has panicked at any time, or ended without being told to.
    pub fn passed(mut self) -> Result<()> {
        for host in &mut self.hosts {
            if let Some(status) = host.ended() {
                bail!("host {} has ended by itself: {status}", host.id());
            }
            if host.log_file().exists() {
                let output = host.output()?;
                // A guest's panic is its own affair, and stands in the host's log as a line of the guest.
                let panics = |line: &&str| line.contains("panicked at") && !line.contains(" telegraft::guest: ");
                let panic = output.lines().find(panics);
                ensure!(panic.is_none(), "host {} has panicked: {}", host.id(), panic.unwrap_or_default());
            }
        }
        let folder = self.folder.take();
        // The hosts must be gone before their folder goes.
        self.hosts.clear();
        drop(folder);
        Ok(())
    }

    /// From now on, dropping the cluster is no failure: nothing is printed or kept.
    pub fn discard_when_dropped(&mut self) {
        self.discard = true;
    }

    /// Something has gone wrong after all: dropping the cluster keeps the files, and prints where they are.
    pub fn keep(&mut self) {
        self.discard = false;
    }

    async fn wait_until_it_answers(&mut self, id: u64) -> Result<()> {
        until(&format!("an answer of host {id}"), PATIENCE, async || {
            // No use to wait for one that has ended: say at once why.
            if let Some(status) = self.host_mut(id)?.ended() {
                return Ok(Err(anyhow!("host {id} has ended ({status}):\n{}", self.host(id)?.tail(30))));
            }
            self.machine(id).await.map(|_| Ok(()))
        })
        .await?
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        if self.discard {
            // The hosts must be gone before their folder goes.
            self.hosts.clear();
            return;
        }
        let mut report = String::new();
        for host in &self.hosts {
            let _ = write!(report, "\n  last lines of host {}:\n{}", host.id(), host.tail(25));
        }
        // Into the test's own output, where the failure stands.
        println!("the cluster's files are kept in {}{report}", folder.keep().display());
    }
}

/// The default machine of a status.
///
/// # Errors
///
/// Where the host has none.
pub fn machine_of(status: HostStatus) -> Result<MachineStatus> {
    let HostStatus { host_id, machines, .. } = status;
    machines.into_iter().next().ok_or_else(|| anyhow!("host {host_id} has no machine"))
}

/// Uploads a module in chunks, once.
///
/// # Errors
///
/// The host's refusal.
pub async fn upload_once(client: &HostClient, machine: &str, bytes: &[u8]) -> Result<UploadedModule, Status> {
    let mut messages: Vec<UploadModule> = bytes
        .chunks(UPLOAD_CHUNK_BYTES)
        .map(|chunk| UploadModule { machine: String::new(), data: chunk.to_vec().into() })
        .collect();
    if messages.is_empty() {
        messages.push(UploadModule::default());
    }
    if let Some(first) = messages.first_mut() {
        machine.clone_into(&mut first.machine);
    }
    client.modules().upload(tokio_stream::iter(messages)).await.map(tonic::Response::into_inner)
}

/// Tries again while another attempt may fare better.
async fn again<T>(mut attempt: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let begun = std::time::Instant::now();
    loop {
        let late = |_| Err(Status::deadline_exceeded(format!("the host has not answered within {PATIENCE:?}")));
        match tokio::time::timeout(PATIENCE, attempt()).await.unwrap_or_else(late) {
            Err(status) if may_try_again(&status) && begun.elapsed() < PATIENCE => tokio::time::sleep(INTERVAL).await,
            answer => return answer,
        }
    }
}

/// The leader of the newest term, if it knows itself as one and a majority of `size` hosts agrees.
fn leader_of(seen: &BTreeMap<u64, MachineStatus>, size: usize) -> Option<Leader> {
    let term = seen.values().map(|machine| machine.term).max()?;
    let (id, _) = seen.iter().find(|(_, machine)| machine.term == term && machine.role() == Role::Leader)?;
    let followers = seen.values().filter(|machine| machine.term == term && machine.leader_id == *id).count();
    (followers > size / 2).then_some(Leader { id: *id, term })
}

/// One line for a failure's message.
fn describe(machines: &BTreeMap<u64, MachineStatus>) -> String {
    let mut text = String::new();
    for (id, machine) in machines {
        let (role, leader) = (machine.role().as_str_name(), machine.leader_id);
        let (last, commit, applied) = (machine.last_index, machine.commit_index, machine.applied_index);
        let _ = write!(
            text,
            "[host {id}: {role}, term {}, follows {leader}, last {last}, committed {commit}, applied {applied}] ",
            machine.term
        );
    }
    if text.is_empty() { "no host answers".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(hosts: &[(u64, Role, u64, u64)]) -> BTreeMap<u64, MachineStatus> {
        let status =
            |role: Role, term, leader_id| MachineStatus { role: role.into(), term, leader_id, ..Default::default() };
        hosts.iter().map(|(id, role, term, leader)| (*id, status(*role, *term, *leader))).collect()
    }

    #[test]
    fn a_leader_needs_a_majority_in_the_newest_term() {
        use Role::{Follower, Leader as Leads};
        let leader = |hosts: &[_]| leader_of(&seen(hosts), 3);
        assert_eq!(leader(&[(1, Leads, 2, 1), (2, Follower, 2, 1)]), Some(Leader { id: 1, term: 2 }));
        assert_eq!(leader(&[(1, Leads, 2, 1)]), None, "alone");
        assert_eq!(leader(&[(1, Leads, 2, 1), (2, Follower, 2, 1), (3, Follower, 3, 0)]), None, "an older term");
        assert_eq!(leader(&[(1, Follower, 2, 2), (3, Follower, 2, 2)]), None, "the leader is silent");
    }
}
