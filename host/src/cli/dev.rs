//! `dev`: a whole cluster on this machine until Ctrl-C.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use comfy_table::Cell;
use serde_json::json;
use telegraft_proto::v1::ModuleInfo;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    cluster::{LocalCluster, Ports},
    connect::Connection,
    descriptors::Service,
    failure::Failure,
    module::info_json,
    output::{Output, counted, number, quoted, short_digest},
    watch::{Source, Watcher, active, bring_in, everywhere, may_be_mended},
};

/// Distance between the ports of two hosts.
const PORTS_PER_HOST: u16 = 10;
/// How long the hosts may take to find a leader: generous, for a busy machine that starts from cold.
const LEADER_LIMIT: Duration = Duration::from_secs(60);
/// How long a host may take to stop cleanly.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often we look after the children.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// The default of `--host`, which need not be repeated in the examples.
const DEFAULT_BASE_PORT: u16 = 7400;

/// `telegraft dev`
#[derive(Args, Debug)]
#[command(after_help = "\
Settings that all hosts share are taken from TELEGRAFT_… variables, as TELEGRAFT_RAFT_HEARTBEAT=20ms telegraft dev.
The data stay in the folder; the next start goes on with them.")]
pub struct DevArgs {
    /// Hosts of the cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    hosts: u16,
    /// Component to upload and activate, or the folder of a project (`telegraft module new`), which is built first
    #[arg(long, value_name = "FILE|DIR")]
    module: Option<PathBuf>,
    /// Build and swap the module whenever its file or a source of its project changes; the data are kept
    #[arg(long, requires = "module")]
    watch: bool,
    /// Folder for data and logs
    #[arg(long, value_name = "DIR", default_value = "telegraft-dev")]
    data: PathBuf,
    /// The first host's client port; its peers' and HTTP ports follow, the next host's are 10 higher
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_BASE_PORT, value_parser = clap::value_parser!(u16).range(1..=65_400))]
    base_port: u16,
    /// Activate the module with reuse: one guest instance for many entries. Only for modules that keep nothing in memory
    /// between calls; one that is found to do so loses it
    #[arg(long, requires = "module")]
    activate_reuse: bool,
}

/// Runs the cluster until a signal.
pub async fn run(args: &DevArgs, timeout: Duration, output: Output) -> Result<(), Failure> {
    // Before the first child, so that a signal at any moment stops them all.
    let mut stop = StopSignals::new()?;
    let source = args.module.as_deref().map(Source::of);
    let ports: Vec<Ports> = (0..args.hosts)
        .map(|host| args.base_port + host * PORTS_PER_HOST)
        .map(|port| Ports { client: port, peer: port + 1, http: port + 2 })
        .collect();
    let addresses: Vec<String> = ports.iter().map(|ports| format!("127.0.0.1:{}", ports.client)).collect();
    let watched = source.clone().filter(|_| args.watch);
    let mut watcher = watched
        .map(|source| Watcher::new(source, args.data.clone(), addresses.clone(), timeout, args.activate_reuse, output));
    let module = match &source {
        Some(source) => tokio::select! {
            module = source.bytes(output) => go_on_if_watched(module, args.watch, output)?,
            () = stop.wait() => return Ok(()),
        },
        None => None,
    };
    let mut cluster = LocalCluster::prepare(&args.data, &ports)?;
    cluster.start()?;

    let until_stopped = async {
        let leader = cluster.wait_for_leader(LEADER_LIMIT).await?;
        let address = cluster.hosts.iter().find(|host| host.id == leader).map(|host| host.client()).unwrap_or_default();
        let connection = Connection::to_any(&[address], timeout).await?;
        if let Some(bytes) = module {
            let brought = bring_in(&connection, bytes, args.activate_reuse, output).await;
            if let Some(module) = go_on_if_watched(brought, args.watch, output)? {
                everywhere(&addresses, &module.digest).await;
            }
        }
        let module = active(&connection).await?;
        introduce(&cluster, args, leader, module.as_ref(), &connection, output).await?;
        let swap = async {
            match &mut watcher {
                Some(watcher) => watcher.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = watch(&mut cluster, output) => result,
            () = swap => Ok(()),
        }
    };
    let result = tokio::select! {
        result = until_stopped => result,
        () = stop.wait() => {
            if !output.json {
                eprintln!("\nstopping");
            }
            Ok(())
        }
    };
    for id in cluster.stop(STOP_GRACE).await {
        eprintln!("host {id} did not stop within {} s and was killed", STOP_GRACE.as_secs());
    }
    result
}

/// Ctrl-C, a request to end, or the terminal's end.
pub struct StopSignals([Signal; 3]);

impl StopSignals {
    /// From now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|error| Failure::refused(format!("signals cannot be awaited: {error}")));
        Ok(Self([on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?]))
    }

    /// Returns at the first of them.
    pub async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// With `--watch` the next change may mend what failed: it is said, and `None`.
fn go_on_if_watched<T>(result: Result<T, Failure>, watch: bool, output: Output) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if watch && may_be_mended(&failure) => {
            failure.report(output.json);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Says what runs where, and what to try.
async fn introduce(
    cluster: &LocalCluster,
    args: &DevArgs,
    leader: u64,
    module: Option<&ModuleInfo>,
    connection: &Connection,
    output: Output,
) -> Result<(), Failure> {
    let data = std::path::absolute(&args.data).unwrap_or_else(|_| args.data.clone());
    if output.json {
        let hosts: Vec<_> = cluster
            .hosts
            .iter()
            .map(|host| {
                json!({
                    "id": host.id, "client": host.client(), "peer": host.settings.peer_listen.to_string(),
                    "http": host.settings.http_listen.to_string(), "pid": host.pid(), "config": host.config, "log": host.log,
                })
            })
            .collect();
        return output
            .json(&json!({ "data": data, "leader": leader, "module": module.map(info_json), "hosts": hosts }));
    }
    output.line(&format!(
        "a cluster of {}, its data in {}\n",
        counted(cluster.hosts.len() as u64, "host"),
        data.display()
    ));
    let mut table = output.table(&["host", "client API", "peers", "http", "process", "log"]);
    for host in &cluster.hosts {
        let log = host.log.strip_prefix(&data).unwrap_or(&host.log);
        table.add_row(vec![
            if host.id == leader { output.good(format!("{} (leader)", host.id)) } else { Cell::new(host.id) },
            Cell::new(host.client()),
            Cell::new(host.settings.peer_listen),
            Cell::new(host.settings.http_listen),
            number(host.pid().unwrap_or_default()),
            Cell::new(log.display()),
        ]);
    }
    output.print_table(&table);
    output.line("");
    match module {
        Some(module) => {
            output.line(&format!("module {} {} ({})", module.name, module.version, short_digest(&module.digest)))
        }
        None => output.line("no module is active"),
    }
    output.line("\ntry:");
    for line in suggestions(cluster, module.is_some(), connection).await {
        output.line(&format!("  {line}"));
    }
    if let Some(module) = args.module.as_deref().filter(|_| args.watch) {
        output.line(&format!("\nwatching {}: what changes is swapped, the data are kept", module.display()));
    }
    output.line("\nstop with Ctrl-C");
    Ok(())
}

async fn suggestions(cluster: &LocalCluster, has_module: bool, connection: &Connection) -> Vec<String> {
    let address = |position: usize| {
        cluster.hosts.get(position % cluster.hosts.len().max(1)).map(|host| host.client()).unwrap_or_default()
    };
    let first = address(0);
    let host =
        if first.ends_with(&format!(":{DEFAULT_BASE_PORT}")) { String::new() } else { format!(" --host {first}") };
    let mut lines = vec![format!("telegraft status{host}"), format!("telegraft module list{host}")];
    if !has_module {
        lines.push(format!("telegraft module activate FILE{host}"));
        return lines;
    }
    let service = Service::active(connection).await.ok().flatten();
    if let Some(method) = service.as_ref().and_then(|service| service.methods().find(|method| !method.query)) {
        let example = method.example();
        lines.push(format!("telegraft call {} '{example}'{host}", method.name));
        lines.push(format!("grpcurl -plaintext -d '{example}' {} {}", address(1), method.name));
    }
    lines
}

/// Says which children die; ends when none is left.
async fn watch(cluster: &mut LocalCluster, output: Output) -> Result<(), Failure> {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        for death in cluster.deaths() {
            if output.json {
                eprintln!("{}", json!({ "died": death.id, "report": death.report }));
            } else {
                eprintln!("\n{}", death.report);
                eprintln!("start it again with: telegraft serve --config {}", quoted(&death.config));
            }
        }
        if cluster.hosts.iter().all(|host| host.pid().is_none()) {
            return Err(Failure::refused("no host is left"));
        }
    }
}
