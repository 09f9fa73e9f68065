//! A running host: log, machine, node, and the servers around them, put together and taken down again. This folder is the
//! only room that knows sockets and tokio.
//!
//! | file | owns |
//! |---|---|
//! | `shared` | what the parts share: leadership, positions |
//! | `start` | what is made of the folders and settings before a node can run |
//! | `threads`, `turn`, `inbox` | turn, log and apply threads, and the channels between them |
//! | `peers`, `wire`, `peer_api` | Raft messages between hosts |
//! | `submit`, `forward` | the way of a write to the leader and back |
//! | `reads` | the way of a read |
//! | `transfer` | handing leadership over |
//! | `trial` | trying modules on copies of the state |
//! | `verify` | comparing the replicas while they run |
//! | `client_api`, `native`, `modules_api`, `machines_api`, `cluster_api`, `reflection` | the gRPC services |
//! | `http` | metrics and health |
//! | `errors` | what clients see when something fails |

mod client_api;
mod cluster_api;
mod errors;
mod forward;
mod http;
mod inbox;
mod machines_api;
mod modules_api;
mod native;
mod peer_api;
mod peers;
mod readiness;
mod reads;
mod reflection;
mod shared;
mod start;
mod submit;
mod threads;
mod transfer;
mod trial;
mod turn;
mod verify;
mod wire;

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use telegraft_node::{
    Node,
    ports::{LogReader, LogWriter, Machine as _},
};
use telegraft_proto::{
    internal::peer_server::PeerServer,
    v1::{
        cluster_server::ClusterServer, machines_server::MachinesServer, modules_server::ModulesServer,
        telegraft_server::TelegraftServer,
    },
};
use telegraft_raft::Raft;
use telegraft_sandbox::{MachineReader, Sandbox, SandboxOptions};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

use self::{
    client_api::Calls, cluster_api::ClusterService, forward::Forward, machines_api::MachinesService,
    modules_api::ModulesService, native::NativeService, peer_api::PeerService, readiness::Readiness, reads::Reads,
    reflection::Reflection, shared::Shared, submit::Writes, threads::Threads, transfer::Transfers, trial::Trials,
};
use crate::settings::{LogKind, Settings};

/// How long calls under way may take to end when the host is told to stop, once leadership is handed over.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How often a host that stops looks whether it has answered everything.
const STOP_INTERVAL: Duration = Duration::from_millis(5);
/// How often a silent client's connection is asked whether it lives, and how long the answer may take.
const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How often the health service looks again.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Largest message that hosts take from each other: an append of the largest size, and what protobuf adds.
const PEER_MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Runs a host until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
///
/// When the host cannot start, or a fault (of the disk, of the machine) forced it to stop.
pub fn serve(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).min(4))
        .thread_name("tg-io")
        .enable_all()
        .build()
        .context("cannot start the I/O threads")?;
    let result = runtime.block_on(run(settings));
    runtime.shutdown_timeout(STOP_GRACE);
    result
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    // Sockets first: a host that cannot be reached should not touch its data.
    let client_listener = bind(settings.client_listen, "client_listen").await?;
    let peer_listener = bind(settings.peer_listen, "peer_listen").await?;
    let http_listener = bind(settings.http_listen, "http_listen").await?;

    fs::create_dir_all(&settings.data_dir)
        .with_context(|| format!("cannot make the data folder {} (data_dir)", settings.data_dir.display()))?;
    let (faults, mut fault_inbox) = mpsc::unbounded_channel();
    let host = match settings.log {
        LogKind::Rocksdb => {
            let path = settings.data_dir.join("log");
            let (reader, writer) = telegraft_log::open(&path, shared::GROUP, telegraft_log::Options::default())
                .with_context(|| format!("cannot open the log in {}", path.display()))?;
            Host::start(settings, reader, Box::new(writer), faults).await?
        }
        LogKind::Memory => {
            // A machine must not remember what its log forgot.
            let path = settings.data_dir.join("machine");
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("cannot empty {}", path.display()))?;
            }
            let (reader, writer) = telegraft_log::memory();
            Host::start(settings, reader, Box::new(writer), faults).await?
        }
    };

    let (stop, stopped) = watch::channel(());
    let peer_server = tokio::spawn(host.peer_server(peer_listener));
    let servers = [
        tokio::spawn(host.client_server(client_listener, stopped.clone())),
        tokio::spawn(host.http_server(http_listener, stopped)),
    ];
    tracing::info!(
        host = host.shared.id(),
        cluster = host.shared.settings.cluster,
        client = %host.shared.settings.client_listen,
        peer = %host.shared.settings.peer_listen,
        http = %host.shared.settings.http_listen,
        "this host is up"
    );

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let fault = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        fault = fault_inbox.recv() => fault,
    };
    match &fault {
        None => tracing::info!("stopping"),
        Some(fault) => tracing::error!(fault, "a fault stops this host"),
    }
    // Everything is served as ever until another host leads.
    let led = fault.is_none() && host.transfers.before_stop().await;
    // Calls under way may end; they need the peers for that, whose streams never end by themselves.
    drop(stop);
    let ended = async {
        futures::future::join_all(servers).await;
        if led {
            host.answer_forwarded().await;
        }
    };
    let _ = tokio::time::timeout(STOP_GRACE, ended).await;
    peer_server.abort();
    tokio::task::spawn_blocking(move || host.threads.stop()).await?;
    // One may have come while the host was stopping.
    match fault.or_else(|| fault_inbox.try_recv().ok()) {
        None => Ok(()),
        Some(fault) => bail!("{fault}"),
    }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({key}): is another process there?"))
}

struct Host {
    shared: Arc<Shared>,
    calls: Calls,
    sandbox: Sandbox,
    machine: MachineReader,
    trials: Trials,
    peer_service: PeerService,
    transfers: Transfers,
    readiness: Readiness,
    threads: Threads,
    faults: mpsc::UnboundedSender<String>,
}

impl Host {
    async fn start<S: LogReader>(
        settings: Settings,
        reader: S,
        mut writer: Box<dyn LogWriter>,
        faults: mpsc::UnboundedSender<String>,
    ) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(SandboxOptions {
            temporary_dir: Some(settings.data_dir.clone()),
            module_bytes_max: settings.machine.module_bytes_max,
            ..SandboxOptions::new(settings.data_dir.join("modules"))
        })?;
        let (machine, machine_reader) = start::open_machine(&sandbox, &settings.data_dir.join("machine"))?;
        start::prepare_log(&settings, &reader, writer.as_mut(), machine.applied_index(), machine.restored_from())?;

        let conf_index = reader.conf_index();
        // Reading the log disturbs neither the turn nor the log thread: a reader sees only what is written.
        let log_reader = reader.clone();
        let raft = Raft::new(start::raft_config(&settings, machine.applied_index()), reader)?;
        let node = Node::new(raft, conf_index, start::node_config(&settings));
        let shared = Shared::new(settings, machine.applied_index());
        shared.set_halted(machine.halted());

        let mut outboxes = Vec::new();
        let mut outbound = Vec::new();
        for peer in &shared.peers {
            let id = peer.address.id;
            let (outbox, messages) = mpsc::channel(peers::OUTBOX_MAX);
            outboxes.push((id, outbox));
            outbound.push((id, messages, peers::channel(&peer.address.peer).map_err(anyhow::Error::msg)?));
        }
        let (proposals, proposed) = mpsc::channel(verify::PROPOSALS_MAX);
        let (threads, node) =
            Threads::start(node, writer, Box::new(machine), outboxes, shared.clone(), proposals, faults.clone())?;

        let mut channels = Vec::new();
        for (id, messages, channel) in outbound {
            let carry = peers::run_outbound(shared.clone(), node.clone(), id, channel, messages);
            threads::spawn_task("peer", faults.clone(), carry);
            // A channel of its own: a burst of appends must not hold forwarded writes back.
            let address = &shared.peer(id).map(|peer| peer.address.peer.clone()).unwrap_or_default();
            channels.push((id, peers::channel(address).map_err(anyhow::Error::msg)?));
        }
        let forward = Forward::start(&shared, &channels, &faults);
        let writes = Writes::new(shared.clone(), node.clone(), forward);
        let reads = Reads::start(shared.clone(), node.clone(), Arc::new(machine_reader.clone()), &faults)?;
        let calls = Calls { shared: shared.clone(), writes: writes.clone(), reads };
        let trials = Trials::start(shared.clone(), sandbox.clone(), machine_reader.clone(), Arc::new(log_reader))?;
        let transfers = Transfers::new(shared.clone(), node.clone(), &channels);
        let checkpoints = verify::propose_checkpoints(shared.clone(), writes.clone());
        threads::spawn_task("checkpoint", faults.clone(), checkpoints);
        let carry = verify::carry_proposals(shared.clone(), writes.clone(), proposed);
        threads::spawn_task("proposals", faults.clone(), carry);
        threads::spawn_task("halted", faults.clone(), transfers.clone().pass_on_while_halted());
        let readiness = Readiness::new(shared.clone(), &channels, sandbox.clone());
        let peer_service = PeerService {
            shared: shared.clone(),
            node,
            writes,
            transfers: transfers.clone(),
            sandbox: sandbox.clone(),
        };
        Ok(Self {
            shared,
            calls,
            sandbox,
            machine: machine_reader,
            trials,
            peer_service,
            transfers,
            readiness,
            threads,
            faults,
        })
    }

    /// Returns when all writes that other hosts forwarded here have been answered, and none has come for the time in which
    /// those hosts hear from the new leader.
    async fn answer_forwarded(&self) {
        let positions = &self.shared.positions;
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < self.shared.settings.raft.heartbeat {
            if positions.forwarded.load(Relaxed) > 0 || positions.pending.load(Relaxed) > 0 {
                quiet_since = Instant::now();
            }
            tokio::time::sleep(STOP_INTERVAL).await;
        }
    }

    fn client_server(
        &self,
        listener: TcpListener,
        stopped: watch::Receiver<()>,
    ) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let report = report_health(health, self.shared.clone(), self.machine.clone());
        threads::spawn_task("health", self.faults.clone(), report);
        let payload_max = usize::try_from(self.shared.settings.requests.payload_bytes_max).unwrap_or(usize::MAX);
        // The payload's limit is checked, and explained, behind this one.
        let message_max = payload_max.saturating_mul(2).saturating_add(64 << 10);
        let modules = ModulesService {
            calls: self.calls.clone(),
            sandbox: self.sandbox.clone(),
            machine: self.machine.clone(),
            trials: self.trials.clone(),
            readiness: self.readiness.clone(),
        };
        let machines = MachinesService { calls: self.calls.clone(), machine: self.machine.clone() };
        let cluster = ClusterService {
            shared: self.shared.clone(),
            machine: self.machine.clone(),
            transfers: self.transfers.clone(),
        };
        let native = NativeService { calls: self.calls.clone(), machine: self.machine.clone() };
        let own = Routes::new(
            TelegraftServer::new(self.calls.clone())
                .max_decoding_message_size(message_max)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(ModulesServer::new(modules))
        .add_service(MachinesServer::new(machines))
        .add_service(ClusterServer::new(cluster))
        .add_service(health_service)
        .add_service(Reflection::<false>::new(self.machine.clone()))
        .add_service(Reflection::<true>::new(self.machine.clone()));
        let router = own.into_axum_router().fallback_service(native);
        let routes = Routes::from(router.layer(axum::middleware::map_response(explain_oversize))).prepare();
        async move {
            Server::builder()
                // A client that vanished without a word must not hold its connection for ever.
                .http2_keepalive_interval(Some(CLIENT_KEEP_ALIVE))
                .http2_keepalive_timeout(Some(CLIENT_KEEP_ALIVE))
                .add_routes(routes)
                .serve_with_incoming_shutdown(incoming(listener), until(stopped))
                .await
                .context("the client API failed")
        }
    }

    fn peer_server(&self, listener: TcpListener) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let service = PeerServer::new(self.peer_service.clone())
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        async move {
            Server::builder()
                .initial_stream_window_size(peers::STREAM_WINDOW_BYTES)
                .initial_connection_window_size(peers::CONNECTION_WINDOW_BYTES)
                .http2_keepalive_interval(Some(Duration::from_secs(2)))
                .http2_keepalive_timeout(Some(Duration::from_secs(4)))
                .add_service(service)
                .serve_with_incoming(incoming(listener))
                .await
                .context("the peers' server failed")
        }
    }

    fn http_server(
        &self,
        listener: TcpListener,
        stopped: watch::Receiver<()>,
    ) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let router = http::router(self.shared.clone(), self.machine.clone());
        async move {
            axum::serve(listener, router).with_graceful_shutdown(until(stopped)).await.context("the HTTP server failed")
        }
    }
}

/// A message so large that it was not even read gets OUT_OF_RANGE from the transport; our clients know INVALID_ARGUMENT.
async fn explain_oversize(response: axum::response::Response) -> axum::response::Response {
    let says = |key, what: &str| {
        response.headers().get(key).and_then(|value| value.to_str().ok()).is_some_and(|text| text.contains(what))
    };
    if !(says("grpc-status", "11") && says("grpc-message", "decoded%20message%20length%20too%20large")) {
        return response;
    }
    errors::bad_call(
        "the message is far larger than this host takes (requests.payload_bytes_max); nothing was read of it",
    )
    .into_http()
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

async fn until(mut stopped: watch::Receiver<()>) {
    // Ends, with an error, when the sender is dropped.
    while stopped.changed().await.is_ok() {}
}

/// Keeps `grpc.health.v1` true: for the host as a whole, its services, and the active module's.
async fn report_health(mut health: tonic_health::server::HealthReporter, shared: Arc<Shared>, machine: MachineReader) {
    use tonic_health::ServingStatus;
    let mut named: Vec<String> = Vec::new();
    let mut published = None;
    loop {
        let serving =
            if http::not_ready(&shared).is_none() { ServingStatus::Serving } else { ServingStatus::NotServing };
        let mut names = vec![String::new(), "telegraft.v1.Telegraft".to_owned()];
        if let Some(active) = machine.active() {
            names.extend(active.descriptors.services().map(|service| service.full_name().to_owned()));
        }
        if published != Some(serving as i32) || names != named {
            for gone in named.iter().filter(|name| !names.contains(name)) {
                health.clear_service_status(gone).await;
            }
            for name in &names {
                health.set_service_status(name, serving).await;
            }
            named = names;
            published = Some(serving as i32);
        }
        let (mut leadership, mut halted) = (shared.leadership.subscribe(), shared.halted.subscribe());
        let changed = async {
            tokio::select! { _ = leadership.changed() => {}, _ = halted.changed() => {} }
        };
        let _ = tokio::time::timeout(HEALTH_INTERVAL, changed).await;
    }
}
