//! What a world is like before anything happens in it: drawn from the seed. Every seed turns some dials up and others off
//! ("swarm testing", Groce et al., ISSTA 2012): a world with a little of everything hides what a world with much of one
//! thing shows.

use fastrand::Rng;
use telegraft_raft::NodeId;

/// Simulated time, in microseconds.
pub type Micros = u64;

/// One tick of the core.
pub const TICK: Micros = 50_000;
/// Ticks to an election.
pub const ELECTION_TICKS: u32 = 10;
/// How far the rates of two hosts' clocks may be apart, in parts of a million, where reads go by lease.
pub const LEASE_DRIFT_PPM: u64 = 50_000;

/// Which machine the nodes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineKind {
    /// The real one: a Wasm guest over SQLite.
    Wasm,
    /// A plain map in the simulator's own process, many times faster.
    Plain,
}

/// How one node is set up.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Ask before disturbing a term.
    pub pre_vote: bool,
    /// A leader without a quorum steps down.
    pub check_quorum: bool,
    /// Rate of the node's clock in parts of a million of the world's.
    pub clock_ppm: u64,
}

/// The dials of a world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The seed they are drawn from.
    pub seed: u64,
    /// Which machine the nodes have.
    pub machine: MachineKind,
    /// First voters: ids from 1.
    pub voters: u64,
    /// Further ids that may join.
    pub spares: u64,
    /// Each node's own, by id, spares included.
    pub nodes: Vec<NodeSettings>,
    /// Whether leaders answer reads by lease.
    pub lease: bool,
    /// Unanswered appends to one follower.
    pub inflight_messages_max: usize,
    /// Unanswered bytes to one follower; 0: no limit.
    pub inflight_bytes_max: u64,
    /// Bytes of entries in one append.
    pub message_bytes_max: u64,
    /// Bytes handed to the machine at once.
    pub committed_bytes_max: u64,
    /// Whether a leader that is removed steps down.
    pub step_down_on_removal: bool,
    /// How long faults happen.
    pub faults_for: Micros,
    /// Clients, and how long each of them pauses between two operations at most.
    pub clients: u64,
    /// See `clients`.
    pub think: Micros,
    /// Keys.
    pub keys: u64,
    /// Links that stay cut after the faults have ended, until the clients are satisfied all the same.
    pub scar: bool,
    /// A node that never comes back after the faults, until the operator has removed it.
    pub loss: bool,
    /// How often the plan has each kind of fault, in events per ten seconds; 0: never.
    pub rates: Rates,
}

/// See [`Settings::rates`].
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Processes killed, and power lost.
    pub crashes: u32,
    /// Processes paused.
    pub pauses: u32,
    /// Links cut.
    pub partitions: u32,
    /// Lossy, slow, repeating networks.
    pub weather: u32,
    /// Slow disks and machines.
    pub slowness: u32,
    /// Disks that fail or are full.
    pub disk_errors: u32,
    /// Flipped bits.
    pub flips: u32,
    /// Changes of the members.
    pub membership: u32,
    /// Transfers of leadership.
    pub transfers: u32,
    /// Snapshots and compactions.
    pub snapshots: u32,
    /// Modules swapped.
    pub swaps: u32,
    /// Leaders that crash as soon as they lead.
    pub churn: u32,
    /// Faults that come together: a transfer or two changes and a cut right behind, a pause behind a cut.
    pub combined: u32,
}

impl Settings {
    /// The dials that `seed` sets. `voters`: 0 lets the seed decide.
    pub fn draw(seed: u64, machine: MachineKind, voters: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5e77_1265);
        let drawn = [3, 3, 3, 3, 3, 3, 3, 5, 5, 1][rng.usize(..10)];
        let voters = if voters == 0 { drawn } else { voters };
        let spares = 2;
        let lease = rng.u8(..10) < 3;
        let uniform = rng.u8(..4) > 0;
        let common = (rng.u8(..10) < 8, rng.u8(..10) < 8);
        let nodes = (0..voters + spares)
            .map(|_| {
                let (pre_vote, check_quorum) = if uniform { common } else { (rng.bool(), rng.bool()) };
                let drift = if lease { LEASE_DRIFT_PPM / 2 } else { 100_000 };
                NodeSettings {
                    pre_vote,
                    check_quorum: check_quorum || lease,
                    clock_ppm: rng.u64(1_000_000 - drift..=1_000_000 + drift),
                }
            })
            .collect();
        let mut rate = |often: u32| if rng.bool() { 0 } else { rng.u32(1..=often) };
        let mut rates = Rates {
            crashes: rate(8),
            pauses: rate(6),
            partitions: rate(8),
            weather: rate(4),
            slowness: rate(4),
            disk_errors: rate(3),
            flips: if rate(8) == 1 { 1 } else { 0 },
            membership: rate(10),
            transfers: rate(6),
            snapshots: rate(12),
            swaps: if rate(3) == 1 { 1 } else { 0 },
            churn: if rate(2) == 1 { 30 } else { 0 },
            combined: rate(5),
        };
        // A damaged node never comes back, and a group that shrinks meanwhile could not do without it.
        if rates.flips > 0 {
            rates.membership = 0;
        }
        Settings {
            seed,
            machine,
            voters,
            spares,
            nodes,
            lease,
            inflight_messages_max: [256, 256, 1, 2, 4][rng.usize(..5)],
            inflight_bytes_max: [0, 0, 0, 600, 2_000][rng.usize(..5)],
            message_bytes_max: [1 << 20, 1 << 20, 300, 1][rng.usize(..4)],
            committed_bytes_max: [16 << 20, 16 << 20, 400, 1][rng.usize(..4)],
            step_down_on_removal: rng.u8(..5) > 0,
            faults_for: rng.u64(4_000_000..12_000_000),
            clients: rng.u64(2..=5),
            think: [60_000, 150_000, 300_000][rng.usize(..3)],
            keys: rng.u64(1..=6),
            // Only pre-vote and check-quorum together promise anything under partial connectivity.
            scar: uniform
                && (common.0 && (common.1 || lease))
                && rates.membership == 0
                && rates.flips == 0
                && rng.u8(..3) == 0,
            // A change that is under way when the node is lost might leave no majority.
            loss: rates.flips == 0 && rates.membership == 0 && rng.u8(..4) == 0,
            rates,
        }
        .consistent()
    }

    /// Keeps limits that depend on each other in order.
    fn consistent(mut self) -> Self {
        if self.inflight_bytes_max != 0 {
            self.message_bytes_max = self.message_bytes_max.min(self.inflight_bytes_max);
        }
        self
    }

    /// The settings of node `id`.
    pub fn node(&self, id: NodeId) -> &NodeSettings {
        let at = usize::try_from(id.saturating_sub(1)).unwrap_or(0).min(self.nodes.len() - 1);
        &self.nodes[at]
    }

    /// All ids there may ever be.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        1..=self.voters + self.spares
    }
}
