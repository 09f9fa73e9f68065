//! `bench`: closed-loop load on a cluster, its own or another. Owns the course of a run; `load` is the clients, `report` the
//! figures, `processes` what the kernel says of the hosts' use of CPU and of the disk.
//!
//! Closed loop: each client sends its next request when the last is answered, so the figures are of a given number of
//! clients, not of a given rate; a slow answer delays that client's further requests, which then are not counted as late.

mod load;
mod processes;
mod report;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use telegraft_proto::v1::ModuleInfo;

use crate::cli::{
    Connection, Failure, LocalCluster, Output, Service, activate, counted, digest_of, free_ports, grouped, list, read,
    upload,
};
use load::Plan;

/// The service that is put under load.
const SERVICE_METHOD: &str = "chat.v1.Chat/SendMessage";
/// Hosts of a cluster of our own.
const OWN_HOSTS: usize = 3;
/// How long our own hosts may take to find a leader.
const LEADER_LIMIT: Duration = Duration::from_secs(60);
/// How long the hosts may take until all have applied the module's activation.
const MODULE_LIMIT: Duration = Duration::from_secs(60);
/// How long a host may take to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// What a cluster does just after it has started is not idleness.
const SETTLE: Duration = Duration::from_secs(2);

/// `telegraft bench`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  telegraft bench --own-cluster --module chat.wasm                     a cluster of its own for the time of the run
  telegraft bench --hosts 127.0.0.1:7400,127.0.0.1:7410 --clients 256  clients spread over these hosts
  telegraft bench --own-cluster --module chat.wasm --kill-leader       how long writes stand still
  telegraft bench --own-cluster --module chat.wasm --stop-leader       the same for a leader that is stopped as planned
  telegraft bench --own-cluster --module chat.wasm --idle 10           what an idle host costs

One JSON line goes to stdout, a summary for people to stderr.")]
pub struct BenchArgs {
    /// Hosts to put under load, with commas [default: --host]
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',', conflicts_with = "own_cluster")]
    hosts: Vec<String>,
    /// Start a cluster of three hosts for the run, in a temporary folder, and remove it afterwards
    #[arg(long, requires = "module")]
    own_cluster: bool,
    /// Where to make that folder (made too where there is none): the disk under it is measured
    #[arg(long, value_name = "DIR", default_value = ".", requires = "own_cluster")]
    data: PathBuf,
    /// Chat component to upload and activate where none is active
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Activate it with reuse: one guest instance for many entries
    #[arg(long, requires = "module")]
    reuse: bool,
    /// Clients, each with one request under way
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Clients that share one HTTP/2 connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients_per_connection: u32,
    /// Chats that the clients share [default: one for each client]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chats: Option<u32>,
    /// Measured time
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Load before the measured time
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warmup: u64,
    /// Bytes of a message's content
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    payload: u32,
    /// Percent of GetMessages among the requests
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// Give every write a session, as a client does that retries
    #[arg(long)]
    sessions: bool,
    /// Kill the leader (SIGKILL) in the middle; clients retry, and the longest time without a write is reported
    #[arg(long, requires = "own_cluster")]
    kill_leader: bool,
    /// Stop the leader (SIGTERM) in the middle, as for a planned restart; the rest as with --kill-leader
    #[arg(long, requires = "own_cluster", conflicts_with = "kill_leader")]
    stop_leader: bool,
    /// Put no load, but measure for so long what each host uses of a core
    #[arg(long, value_name = "SECONDS", requires = "own_cluster", conflicts_with_all = ["kill_leader", "stop_leader"],
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle: Option<u64>,
    /// Threads for the clients
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
}

impl BenchArgs {
    /// Whether the leader goes in the middle.
    fn loses_leader(&self) -> bool {
        self.kill_leader || self.stop_leader
    }
}

/// A leader that went in the middle.
pub(crate) struct Gone {
    id: u64,
    /// What was done to it.
    how: &'static str,
}

/// Runs the load and prints the figures.
pub fn run(args: &BenchArgs, hosts: &[String], timeout: Duration, output: Output) -> Result<(), Failure> {
    let mut builder = if args.threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(usize::from(args.threads));
        builder
    };
    let runtime = builder.enable_all().build().map_err(|error| Failure::refused(format!("no runtime: {error}")))?;
    // On this thread, as children must be started (they end with the thread that started them).
    let result = runtime.block_on(async {
        let mut stop = crate::cli::StopSignals::new()?;
        tokio::select! {
            result = measure(args, hosts, timeout) => result.map(Some),
            () = stop.wait() => Ok(None),
        }
    });
    runtime.shutdown_background();
    match result? {
        // One line even on a terminal: scripts read it.
        Some(figures) => output.line(&figures.to_string()),
        None => return Err(Failure::refused("stopped by a signal before the end")),
    }
    Ok(())
}

async fn measure(args: &BenchArgs, hosts: &[String], timeout: Duration) -> Result<Value, Failure> {
    let module = args.module.as_deref().map(read).transpose()?;
    if !args.own_cluster {
        let hosts = if args.hosts.is_empty() { hosts } else { &args.hosts };
        return on_hosts(args, hosts, module, timeout, None).await;
    }
    let folder = std::fs::create_dir_all(&args.data)
        .and_then(|()| tempfile::Builder::new().prefix("telegraft-bench-").tempdir_in(&args.data))
        .map_err(|error| Failure::usage(format!("no folder can be made in {}: {error}", args.data.display())))?;
    let disk = processes::file_system(folder.path());
    if disk.as_deref().is_some_and(|disk| matches!(disk, "tmpfs" | "ramfs")) {
        eprintln!(
            "warning: {} is in memory, so fsync costs nothing there; choose a disk with --data",
            folder.path().display()
        );
    }
    let mut cluster = LocalCluster::prepare(folder.path(), &free_ports(OWN_HOSTS)?)?;
    cluster.start()?;
    cluster.wait_for_leader(LEADER_LIMIT).await?;
    let addresses: Vec<String> = cluster.hosts.iter().map(|host| host.client()).collect();
    let figures = match args.idle {
        Some(seconds) => idle(&cluster, &addresses, module, args.reuse, timeout, seconds).await,
        None => on_hosts(args, &addresses, module, timeout, Some(&mut cluster)).await,
    };
    let deaths = cluster.deaths();
    cluster.stop(STOP_GRACE).await;
    if let Some(death) = deaths.into_iter().next() {
        return Err(Failure::refused(death.report));
    }
    let mut figures = figures?;
    figures["file_system"] = json!(disk);
    Ok(figures)
}

/// What the hosts use of a core while nobody asks anything.
async fn idle(
    cluster: &LocalCluster,
    addresses: &[String],
    module: Option<bytes::Bytes>,
    reuse: bool,
    timeout: Duration,
    seconds: u64,
) -> Result<Value, Failure> {
    let connection = Connection::to_any(addresses, timeout).await?;
    let module = chat_module(&connection, module, reuse).await?;
    wait_for_module(addresses, &module.digest, timeout).await?;
    drop(connection);
    tokio::time::sleep(SETTLE).await;
    let pids: Vec<u32> = cluster.hosts.iter().filter_map(|host| host.pid()).collect();
    let before = processes::cpu_times(&pids)?;
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let percents = processes::percent_of_a_core(&before, &processes::cpu_times(&pids)?, begin.elapsed());
    for (host, percent) in cluster.hosts.iter().zip(&percents) {
        eprintln!("host {} used {percent:.2} % of a core while idle", host.id);
    }
    let most = percents.iter().copied().fold(0.0, f64::max);
    Ok(json!({ "idle_cpu_percent": percents, "idle_cpu_percent_max": most, "seconds": seconds }))
}

async fn on_hosts(
    args: &BenchArgs,
    hosts: &[String],
    module: Option<bytes::Bytes>,
    timeout: Duration,
    mut own: Option<&mut LocalCluster>,
) -> Result<Value, Failure> {
    let connection = Connection::to_any(hosts, timeout).await?;
    let module = chat_module(&connection, module, args.reuse).await?;
    wait_for_module(hosts, &module.digest, timeout).await?;

    let plan = Plan {
        hosts: hosts.to_vec(),
        clients: args.clients as usize,
        clients_per_connection: args.clients_per_connection as usize,
        chats: args.chats.unwrap_or(args.clients).min(args.clients) as usize,
        payload_bytes: args.payload as usize,
        reads_percent: args.reads,
        sessions: args.sessions || args.loses_leader(),
        retry: args.loses_leader(),
        warmup: Duration::from_secs(args.warmup),
        measured: Duration::from_secs(args.seconds),
        timeout,
    };
    eprintln!(
        "setting up {} with {} on {}",
        counted(plan.clients as u64, "client"),
        counted(plan.chats as u64, "chat"),
        counted(hosts.len() as u64, "host")
    );
    let mut run = load::set_up(&plan).await?.start();
    let bar = progress(&plan);
    let mut before = None;
    let mut gone = None;
    let pids: Vec<u32> = own.iter().flat_map(|cluster| cluster.hosts.iter().filter_map(|host| host.pid())).collect();
    let begin = Instant::now();
    let middle = plan.warmup + plan.measured / 2;
    loop {
        let elapsed = begin.elapsed();
        if elapsed >= plan.warmup + plan.measured {
            break;
        }
        bar.set_position(elapsed.as_secs());
        bar.set_message(format!("{} answered", grouped(run.answered())));
        if before.is_none() && elapsed >= plan.warmup {
            before = Some((processes::cpu_times(&pids)?, Instant::now()));
        }
        let its_time = args.loses_leader() && gone.is_none() && elapsed >= middle;
        if let Some(cluster) = own.as_deref_mut().filter(|_| its_time) {
            let leader = cluster.leader().await.ok_or_else(|| Failure::refused("there is no leader to lose"))?;
            let how = if args.kill_leader {
                cluster.kill(leader.id)?;
                "killed"
            } else {
                cluster.stop_host(leader.id, STOP_GRACE).await?;
                "stopped"
            };
            bar.println(format!("{how} host {}, the leader", leader.id));
            gone = Some(Gone { id: leader.id, how });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let cpu = match &before {
        // A process that is gone has no times any more.
        Some((before, since)) if gone.is_none() => {
            Some(processes::percent_of_a_core(before, &processes::cpu_times(&pids)?, since.elapsed()))
        }
        _ => None,
    };
    let tally = run.finish().await;
    bar.finish_and_clear();
    let mut figures = report::figures(&plan, &tally);
    figures["module"] =
        json!({ "name": module.name, "version": module.version, "digest": module.digest, "reuse": module.reuse });
    if own.is_some() {
        figures["host_cpu_percent"] = json!(cpu);
    }
    if let Some(Gone { id, how }) = &gone {
        figures[format!("{how}_host").as_str()] = json!(id);
        figures["leader_gap_ms"] = json!(report::milliseconds(tally.gap_us));
    }
    eprint!("{}", report::summary(&plan, &tally, gone.as_ref()));
    Ok(figures)
}

/// The chat module that is active, after bringing it in where none is.
async fn chat_module(
    connection: &Connection,
    module: Option<bytes::Bytes>,
    reuse: bool,
) -> Result<ModuleInfo, Failure> {
    let active = list(connection).await?.into_iter().find(|module| module.active);
    let active = match (active, module) {
        (Some(active), given) => {
            if given.is_some_and(|bytes| digest_of(&bytes) != active.digest || reuse != active.reuse) {
                eprintln!(
                    "warning: {} {} ({}) is active already and stays",
                    active.name, active.version, active.digest
                );
            }
            active
        }
        (None, Some(bytes)) => {
            let uploaded = upload(connection, bytes, false).await?;
            let activated = activate(connection, &uploaded.digest, reuse).await?;
            activated.module.ok_or_else(|| Failure::refused("the host did not say what it has activated"))?
        }
        (None, None) => return Err(Failure::usage("no module is active: name the chat component with --module FILE")),
    };
    let service = Service::active(connection).await?;
    if service.is_none_or(|service| service.method(SERVICE_METHOD).is_err()) {
        return Err(Failure::refused(format!(
            "the active module {} has no method {SERVICE_METHOD}, which the load needs",
            active.name
        )));
    }
    Ok(active)
}

/// Every host must know the service before clients call it there.
async fn wait_for_module(hosts: &[String], digest: &str, timeout: Duration) -> Result<(), Failure> {
    let begin = Instant::now();
    for host in hosts {
        loop {
            let connection = Connection::to_any(std::slice::from_ref(host), timeout).await?;
            if list(&connection).await?.iter().any(|module| module.active && module.digest == digest) {
                break;
            }
            if begin.elapsed() > MODULE_LIMIT {
                return Err(Failure::refused(format!(
                    "{host} has not activated the module within {} s",
                    MODULE_LIMIT.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn progress(plan: &Plan) -> ProgressBar {
    let bar = ProgressBar::new((plan.warmup + plan.measured).as_secs());
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} s {wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar
}
