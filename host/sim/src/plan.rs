//! What will go wrong, and when: a list drawn from the seed before the world begins, so that a failing run can be tried
//! again with fewer of its faults.

use std::fmt;

use fastrand::Rng;
use telegraft_raft::NodeId;

use crate::settings::{Micros, Settings};

/// Whom a fault strikes; resolved when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The node that leads in the highest term, or any.
    Leader,
    /// Some node that does not.
    Follower(u64),
    /// This node.
    Node(NodeId),
}

/// Which links are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One node from all others.
    Isolate(Target),
    /// The nodes of odd and even place in a shuffled order, or any other split: a bit each.
    Split(u64),
    /// From one node to all others, or (`inbound`) from all others to it.
    OneWay(Target, bool),
    /// Two halves that only see each other through one node.
    Bridge(Target),
    /// From one node to one other, that direction only.
    Link(Target, NodeId),
    /// The leader and all who joined later from the first voters.
    Newcomers,
}

/// A change of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a spare or removed node as a learner.
    AddLearner,
    /// Make a learner a voter.
    Promote,
    /// Add a spare or removed node as a voter at once.
    AddVoter,
    /// Remove a voter, sometimes the leader.
    Remove(Target),
    /// Make a voter a learner.
    Demote(Target),
    /// Replace a voter by another node, through a joint configuration.
    Replace(Target, Leave),
    /// Leave a joint configuration.
    Leave,
}

/// How a joint configuration is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// As the core sees fit.
    Auto,
    /// By the leader, at once.
    Implicit,
    /// By a [`Change::Leave`].
    Explicit,
}

/// A point that a process passes between two steps that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// It leads, since this turn, and its first messages have left.
    Leads,
    /// Messages have left, nothing of the turn is written yet.
    Sent,
    /// Written, not synced.
    Written,
    /// Synced, and the node has not heard of it.
    Synced,
    /// The machine has applied, and the node has not heard of it.
    Applied,
    /// The machine is restored from a snapshot, and the log knows nothing of it.
    Restored,
}

/// One thing that goes wrong, or that an operator does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Fault {
    Kill { target: Target, down_for: Micros },
    LosePower { target: Target, down_for: Micros },
    LoseAllPower { down_for: Micros },
    CrashAt { point: Point, power: bool, down_for: Micros },
    Pause { target: Target, lasting: Micros },
    Cut { cut: Cut, lasting: Micros },
    Weather { loss_percent: u8, repeat_percent: u8, delay_max: Micros, lasting: Micros },
    SlowDisk { target: Target, delay_max: Micros, lasting: Micros },
    SlowMachine { target: Target, delay_max: Micros, lasting: Micros },
    FailDisk { target: Target, down_for: Micros },
    FillDisk { target: Target, lasting: Micros },
    FlipBit { target: Target },
    ChangeMembers(Change),
    Transfer { to: Target, lost: bool },
    Snapshot { target: Target, compact_behind: u64 },
    MakeDurable { target: Target },
    SwapModule,
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When.
    pub at: Micros,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.6} s  {:?}", self.at as f64 / 1e6, self.fault)
    }
}

/// Faults that do their worst together, a few milliseconds apart.
fn combine(settings: &Settings, plan: &mut Vec<Planned>) {
    let mut rng = Rng::with_seed(settings.seed ^ 0xc0_3b1e);
    let rate = u64::from(settings.rates.combined) * settings.faults_for / 10_000_000;
    let count = if settings.rates.combined == 0 { 0 } else { rng.u64(..=2 * rate.max(1)) };
    for _ in 0..count {
        let at = rng.u64(300_000..settings.faults_for);
        let lasting = rng.u64(400_000..3_000_000);
        let mut add = |after: Micros, fault| plan.push(Planned { at: at + after, fault });
        let isolated = Fault::Cut { cut: Cut::Isolate(Target::Leader), lasting };
        match rng.u8(..3) {
            0 => {
                add(0, Fault::Transfer { to: Target::Follower(rng.u64(..)), lost: false });
                add(rng.u64(500..4_000), isolated);
            }
            1 => {
                add(0, isolated);
                add(rng.u64(1..50_000), Fault::Pause { target: Target::Leader, lasting: rng.u64(300_000..1_500_000) });
            }
            _ if settings.rates.membership > 0 => {
                add(0, Fault::ChangeMembers(Change::AddVoter));
                add(rng.u64(1..20_000), Fault::ChangeMembers(Change::AddVoter));
                add(rng.u64(4_000..60_000), Fault::Cut { cut: Cut::Newcomers, lasting });
            }
            _ => {}
        }
    }
}

/// The faults of a world, in order of time.
pub fn draw(settings: &Settings) -> Vec<Planned> {
    let mut plan = Vec::new();
    let rates = &settings.rates;
    let mut add = |salt: u64, rate: u32, make: &dyn Fn(&mut Rng) -> Fault| {
        // A stream of its own for each kind: changing one leaves the others as they were.
        let mut rng = Rng::with_seed(settings.seed ^ (salt << 56) ^ 0xfa17);
        let mean = u64::from(rate) * settings.faults_for / 10_000_000;
        let count = if rate == 0 { 0 } else { rng.u64(..=2 * mean.max(1)) };
        for _ in 0..count {
            let at = rng.u64(200_000..settings.faults_for);
            plan.push(Planned { at, fault: make(&mut rng) });
        }
    };
    let ids = settings.voters + settings.spares;
    let target = move |rng: &mut Rng| match rng.u8(..5) {
        0 | 1 => Target::Leader,
        2 => Target::Follower(rng.u64(..)),
        _ => Target::Node(rng.u64(1..=ids)),
    };
    let short = |rng: &mut Rng| rng.u64(50_000..1_500_000);
    let long = |rng: &mut Rng| rng.u64(300_000..4_000_000);
    let down = move |rng: &mut Rng| if rng.bool() { rng.u64(1_000..200_000) } else { long(rng) };

    add(1, rates.crashes, &|rng| match rng.u8(..10) {
        0..3 => Fault::Kill { target: target(rng), down_for: down(rng) },
        3..6 => Fault::LosePower { target: target(rng), down_for: down(rng) },
        6..9 => {
            use Point::{Applied, Restored, Sent, Synced, Written};
            let point = [Sent, Written, Synced, Applied, Restored, Restored][rng.usize(..6)];
            Fault::CrashAt { point, power: rng.u8(..4) > 0, down_for: down(rng) }
        }
        _ => Fault::LoseAllPower { down_for: short(rng) },
    });
    add(2, rates.pauses, &|rng| Fault::Pause {
        target: target(rng),
        lasting: if rng.bool() { short(rng) } else { long(rng) },
    });
    add(3, rates.partitions, &|rng| {
        let cut = match rng.u8(..8) {
            0 | 1 => Cut::Isolate(target(rng)),
            2 | 3 => Cut::Split(rng.u64(..)),
            4 => Cut::OneWay(target(rng), rng.bool()),
            5 => Cut::Bridge(target(rng)),
            _ => Cut::Link(target(rng), rng.u64(1..=ids)),
        };
        Fault::Cut { cut, lasting: long(rng) }
    });
    add(4, rates.weather, &|rng| Fault::Weather {
        loss_percent: [0, 2, 10, 30, 50][rng.usize(..5)],
        repeat_percent: [0, 5, 30][rng.usize(..3)],
        delay_max: [2_000, 20_000, 200_000, 900_000][rng.usize(..4)],
        lasting: long(rng),
    });
    add(5, rates.slowness, &|rng| {
        let (target, delay_max, lasting) = (target(rng), [10_000, 100_000, 1_000_000][rng.usize(..3)], long(rng));
        if rng.bool() {
            Fault::SlowDisk { target, delay_max, lasting }
        } else {
            Fault::SlowMachine { target, delay_max, lasting }
        }
    });
    add(6, rates.disk_errors, &|rng| {
        if rng.bool() {
            Fault::FailDisk { target: target(rng), down_for: down(rng) }
        } else {
            Fault::FillDisk { target: target(rng), lasting: long(rng) }
        }
    });
    add(7, rates.flips, &|rng| Fault::FlipBit { target: target(rng) });
    add(8, rates.membership, &|rng| {
        let leave = [Leave::Auto, Leave::Auto, Leave::Implicit, Leave::Explicit][rng.usize(..4)];
        Fault::ChangeMembers(match rng.u8(..12) {
            0..=2 => Change::AddLearner,
            3 | 4 => Change::Promote,
            5 | 6 => Change::AddVoter,
            7 => Change::Remove(target(rng)),
            8 => Change::Demote(target(rng)),
            9 | 10 => Change::Replace(target(rng), leave),
            _ => Change::Leave,
        })
    });
    add(9, rates.transfers, &|rng| Fault::Transfer { to: target(rng), lost: rng.u8(..3) == 0 });
    add(10, rates.snapshots, &|rng| match rng.u8(..4) {
        0 => Fault::MakeDurable { target: target(rng) },
        _ => Fault::Snapshot { target: target(rng), compact_behind: [0, 0, 1, 5, 20][rng.usize(..5)] },
    });
    add(11, rates.swaps, &|_| Fault::SwapModule);
    add(12, rates.churn, &|rng| Fault::CrashAt {
        point: Point::Leads,
        power: rng.bool(),
        down_for: rng.u64(1_000..900_000),
    });
    combine(settings, &mut plan);
    plan.sort_by_key(|planned| planned.at);
    plan
}
