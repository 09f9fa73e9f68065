//! The settings of one host: what there is to set, the defaults, and what each key means. Owns no reading or checking:
//! `keys` lists every key once (file key, flag and variable are made from that list), `load` puts the sources together,
//! `check` says what a whole configuration must fulfil, `units` reads and prints durations and sizes.
//!
//! A setting comes from, strongest first: a flag of `telegraft serve`, a `TELEGRAFT_…` variable, the TOML file, the default.

mod check;
mod keys;
mod load;
mod units;

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Serialize;
use telegraft_sandbox::Limits;

pub use keys::{KEYS, Key};
pub use load::{Loaded, Mistake, Mistakes, Origin, Sources, load};
pub use units::{format_duration, format_size, parse_duration, parse_size};

/// Everything that one host is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Name of the cluster; a host refuses peers of another cluster.
    pub cluster: String,
    /// This host's id, greater than 0 and one of `hosts`.
    pub host_id: u64,
    /// Folder of the log, the machines' databases and the module cache. Relative to the working directory.
    pub data_dir: PathBuf,
    /// Which log keeps the entries.
    pub log: LogKind,
    /// Where the client API listens.
    pub client_listen: SocketAddr,
    /// Where the peers' streams come in.
    pub peer_listen: SocketAddr,
    /// Where metrics and health are served over HTTP.
    pub http_listen: SocketAddr,
    /// How often consensus looks at time, and how much it may have under way.
    pub raft: RaftSettings,
    /// What a client may ask for.
    pub requests: RequestSettings,
    /// Budgets that travel with an activation, and bounds of the machine's own.
    pub machine: MachineSettings,
    /// What the host says about itself.
    pub telemetry: TelemetrySettings,
    /// Every host of the cluster, this one too; the same list on all of them.
    pub hosts: Vec<HostAddress>,
}

/// One host of the cluster, by the addresses that others use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostAddress {
    /// Greater than 0.
    pub id: u64,
    /// `name:port` of the client API.
    pub client: String,
    /// `name:port` for the other hosts.
    pub peer: String,
}

/// Which log keeps the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// Durable.
    Rocksdb,
    /// Forgets everything at the end of the process: for tests.
    Memory,
}

impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rocksdb => "rocksdb",
            Self::Memory => "memory",
        })
    }
}

/// How a leader makes sure that it still leads before a linearizable read is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadKind {
    /// It asks a majority, each time. Sound whatever the clocks do.
    ReadIndex,
    /// It trusts an answer of a majority for [`RaftSettings::lease`]. Sound as long as of any two hosts' clocks the slower
    /// is slower by no more than [`CLOCK_DRIFT_PERCENT_MAX`], and none stands still while others go on.
    Lease,
}

/// What a lease allows the rates of two hosts' clocks to differ by. Quartz drifts by 0.01 %, and NTP slews by 0.05 %: this
/// is a wide margin, since the price of a shorter lease is small (one round of messages at its end).
pub const CLOCK_DRIFT_PERCENT_MAX: u32 = 10;

/// Ticks by which a voter's patience may fall short of its election timeout: after a pause two come at once, and the third
/// half a tick later (see `server/turn.rs`).
const PATIENCE_SHORT_TICKS: u32 = 3;

/// Consensus: its times (whole numbers of `tick`) and its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaftSettings {
    /// Length of one tick of the consensus core.
    #[serde(serialize_with = "units::serialize_duration")]
    pub tick: Duration,
    /// How often a leader speaks to its followers at least.
    #[serde(serialize_with = "units::serialize_duration")]
    pub heartbeat: Duration,
    /// Shortest silence after which a follower campaigns.
    #[serde(serialize_with = "units::serialize_duration")]
    pub election_min: Duration,
    /// Longest such silence; twice `election_min`, since the core draws from `[min, 2 min)`.
    #[serde(serialize_with = "units::serialize_duration")]
    pub election_max: Duration,
    /// Ask for votes without raising the term first (Ongaro, section 9.6).
    pub pre_vote: bool,
    /// A leader that hears no majority for an election timeout steps down (Ongaro, section 6.2).
    pub check_quorum: bool,
    /// What a leader does before a linearizable read. The same on all hosts.
    pub read: ReadKind,
    /// Bytes of entries in one message to a peer; a single larger entry still goes, alone.
    #[serde(serialize_with = "units::serialize_size")]
    pub message_bytes_max: u64,
    /// Append messages under way to one follower.
    pub inflight_messages_max: usize,
    /// Bytes of append messages under way to one follower.
    #[serde(serialize_with = "units::serialize_size")]
    pub inflight_bytes_max: u64,
    /// Bytes of proposals that the leader holds uncommitted; more are refused.
    #[serde(serialize_with = "units::serialize_size")]
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries handed to the machine at once.
    #[serde(serialize_with = "units::serialize_size")]
    pub apply_bytes_max: u64,
}

impl RaftSettings {
    /// `heartbeat` in ticks. Checked settings have whole ticks.
    pub fn heartbeat_ticks(&self) -> u32 {
        ticks(self.heartbeat, self.tick)
    }

    /// `election_min` in ticks. Checked settings have whole ticks.
    pub fn election_ticks(&self) -> u32 {
        ticks(self.election_min, self.tick)
    }

    /// How long a leader trusts a majority's answer, from when it asked; none where it asks each time.
    ///
    /// Each voter of that majority heard from the leader after it had asked, and refuses its vote to others for
    /// `election_min` less three ticks at least, by its own clock. The lease ends before, whosever clock is the faster.
    pub fn lease(&self) -> Option<Duration> {
        let patience = self.tick * self.election_ticks().saturating_sub(PATIENCE_SHORT_TICKS);
        (self.read == ReadKind::Lease).then(|| patience * (100 - CLOCK_DRIFT_PERCENT_MAX) / 100)
    }
}

/// How many whole times `tick` goes into `time`.
fn ticks(time: Duration, tick: Duration) -> u32 {
    u32::try_from(time.as_nanos() / tick.as_nanos().max(1)).unwrap_or(u32::MAX)
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestSettings {
    /// How long a call may take when the client brings no deadline.
    #[serde(serialize_with = "units::serialize_duration")]
    pub timeout: Duration,
    /// Longer deadlines are cut to this.
    #[serde(serialize_with = "units::serialize_duration")]
    pub timeout_max: Duration,
    /// Bytes of one request's payload.
    #[serde(serialize_with = "units::serialize_size")]
    pub payload_bytes_max: u64,
    /// Writes that may wait in this host, and as many linearizable reads; more are refused with RESOURCE_EXHAUSTED.
    pub pending_max: usize,
}

/// The budgets that a machine begins with: its first activation carries those of the host that proposes it, and after that
/// they are changed through the log alone (`telegraft machine limits --set`), for they decide results. And what each host
/// decides for itself: `module_bytes_max` at upload, `digest_interval` where it leads, `query_threads` and
/// `query_time_max`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineSettings {
    /// Wasm fuel of one call.
    pub fuel: u64,
    /// Linear memory of one instance.
    #[serde(serialize_with = "units::serialize_size")]
    pub memory_bytes: u64,
    /// SQLite virtual machine steps of one call.
    pub sql_steps: u64,
    /// Rows of one query result.
    pub rows: u64,
    /// Bytes of one query result.
    #[serde(serialize_with = "units::serialize_size")]
    pub result_bytes: u64,
    /// Bytes of one reply.
    #[serde(serialize_with = "units::serialize_size")]
    pub reply_bytes: u64,
    /// Bytes of one value in a statement, a parameter or a row.
    #[serde(serialize_with = "units::serialize_size")]
    pub value_bytes: u64,
    /// Bytes of all rows of all the module's tables, counted logically.
    #[serde(serialize_with = "units::serialize_size")]
    pub database_bytes: u64,
    /// Bytes of one module: larger ones are refused at upload, before the machine's own budget is asked.
    #[serde(serialize_with = "units::serialize_size")]
    pub module_bytes_max: u64,
    /// While something happens, how often the leader has the replicas compare what they did. Zero: never.
    #[serde(serialize_with = "units::serialize_duration")]
    pub digest_interval: Duration,
    /// Threads that answer reads.
    pub query_threads: usize,
    /// How long one read may run, whatever its client's deadline. Zero: until that.
    #[serde(serialize_with = "units::serialize_duration")]
    pub query_time_max: Duration,
}

impl MachineSettings {
    /// The part that travels with an activation, and counts in a machine's first. The budget of modules' bytes is left at its
    /// default: at first this host's own bound decides.
    pub fn limits(&self) -> telegraft_proto::internal::Limits {
        telegraft_proto::internal::Limits {
            fuel: self.fuel,
            memory_bytes: self.memory_bytes,
            sql_steps: self.sql_steps,
            rows: self.rows,
            result_bytes: self.result_bytes,
            reply_bytes: self.reply_bytes,
            value_bytes: self.value_bytes,
            database_bytes: self.database_bytes,
            module_bytes: 0,
        }
    }
}

/// What the host says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TelemetrySettings {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`; also `target=level`, several with commas.
    pub log_level: String,
    /// How a line of the log looks.
    pub log_format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            cluster: "telegraft".into(),
            host_id: 1,
            data_dir: "data".into(),
            log: LogKind::Rocksdb,
            client_listen: loopback(7400),
            peer_listen: loopback(7401),
            http_listen: loopback(7402),
            raft: RaftSettings {
                tick: Duration::from_millis(10),
                heartbeat: Duration::from_millis(50),
                election_min: Duration::from_millis(150),
                election_max: Duration::from_millis(300),
                pre_vote: true,
                check_quorum: true,
                read: ReadKind::ReadIndex,
                message_bytes_max: MIB,
                inflight_messages_max: 256,
                inflight_bytes_max: 16 * MIB,
                uncommitted_bytes_max: 64 * MIB,
                apply_bytes_max: 4 * MIB,
            },
            requests: RequestSettings {
                timeout: Duration::from_secs(5),
                timeout_max: Duration::from_secs(60),
                payload_bytes_max: MIB,
                pending_max: 16_384,
            },
            machine: MachineSettings {
                fuel: Limits::DEFAULT.fuel,
                memory_bytes: Limits::DEFAULT.memory_bytes,
                sql_steps: Limits::DEFAULT.sql_steps,
                rows: Limits::DEFAULT.rows,
                result_bytes: Limits::DEFAULT.result_bytes,
                reply_bytes: Limits::DEFAULT.reply_bytes,
                value_bytes: Limits::DEFAULT.value_bytes,
                database_bytes: Limits::DEFAULT.database_bytes,
                module_bytes_max: 32 * MIB,
                digest_interval: Duration::from_secs(10),
                query_threads: 2,
                query_time_max: Duration::from_secs(60),
            },
            telemetry: TelemetrySettings { log_level: "info".into(), log_format: LogFormat::Text },
            hosts: vec![HostAddress { id: 1, client: "127.0.0.1:7400".into(), peer: "127.0.0.1:7401".into() }],
        }
    }
}
