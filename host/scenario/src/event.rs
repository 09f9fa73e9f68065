//! What happens to a cluster besides calls: events that a test asks for, and those that chance brings.

use std::time::Duration;

use fastrand::Rng;

/// How long a host is down that is only to start anew.
pub const RESTART: Duration = Duration::from_millis(1);

/// One of a cluster's hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Whichever leads when it is looked for.
    Leader,
    /// One that does not, as chance has it.
    Follower,
    /// This one; hosts are numbered from 1.
    Number(u64),
}

/// Something that happens to the cluster at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A host's process is killed, and starts again on what its disks hold.
    Kill {
        /// Which; all of them where there is none.
        host: Option<Host>,
        /// For how long it is down.
        lasting: Duration,
        /// The power goes with it: what was not synced may be lost.
        power: bool,
    },
    /// A host stands still, as a process does that gets no processor.
    Pause {
        /// Which.
        host: Host,
        /// For how long.
        lasting: Duration,
    },
    /// These hosts and the others no longer hear each other. Clients reach both sides.
    Partition {
        /// One side.
        hosts: Vec<Host>,
        /// Until when; else until it is healed.
        lasting: Option<Duration>,
    },
    /// The network between hosts, and to the clients, loses, repeats and delays messages.
    BadNetwork {
        /// Lost and repeated, of a hundred.
        percent: u8,
        /// Until when; else until it is healed.
        lasting: Option<Duration>,
    },
    /// Everything above ends: all hosts run, hear each other, and answer.
    Heal,
    /// A host makes a snapshot and drops its log up to there. Whoever lags behind is brought up to date by the snapshot.
    Snapshot {
        /// Which; all of them where there is none.
        host: Option<Host>,
    },
    /// The leader is asked to hand leadership over.
    TransferLeader {
        /// To whom.
        to: Host,
    },
    /// Replies to clients get lost; clients do not know whether a write was applied, and send it again.
    LoseReplies {
        /// Of a hundred.
        percent: u8,
        /// Until when; else until it is healed.
        lasting: Option<Duration>,
    },
    /// Requests of clients, and replies to them, arrive twice.
    DuplicateReplies {
        /// Of a hundred.
        percent: u8,
        /// Until when; else until it is healed.
        lasting: Option<Duration>,
    },
}

impl Event {
    /// Its name in a scenario file.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Kill { power: true, .. } => "lose-power",
            Event::Kill { lasting, .. } if *lasting == RESTART => "restart",
            Event::Kill { host: Some(Host::Leader), .. } => "kill-leader",
            Event::Kill { .. } => "kill",
            Event::Pause { .. } => "pause",
            Event::Partition { .. } => "partition",
            Event::BadNetwork { .. } => "bad-network",
            Event::Heal => "heal",
            Event::Snapshot { .. } => "snapshot",
            Event::TransferLeader { .. } => "transfer-leader",
            Event::LoseReplies { .. } => "lose-replies",
            Event::DuplicateReplies { .. } => "duplicate-replies",
        }
    }
}

/// Events that chance brings: for each kind, how likely one comes while a call is under way (0 to 1); of replies, the share
/// that is lost or repeated. Each seed leaves some kinds out, so that every kind is also seen without the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chaos {
    /// [`Event::Kill`] of any host.
    pub kill: f64,
    /// The same with the power lost.
    pub lose_power: f64,
    /// [`Event::Pause`].
    pub pause: f64,
    /// [`Event::Partition`] of one host.
    pub partition: f64,
    /// [`Event::BadNetwork`].
    pub bad_network: f64,
    /// [`Event::Snapshot`] of any host.
    pub snapshot: f64,
    /// [`Event::TransferLeader`].
    pub transfer_leader: f64,
    /// [`Event::LoseReplies`], all the time.
    pub lose_replies: f64,
    /// [`Event::DuplicateReplies`], all the time.
    pub duplicate_replies: f64,
}

impl Default for Chaos {
    /// A bad day: every tenth call or so meets something.
    fn default() -> Self {
        Chaos {
            kill: 0.03,
            lose_power: 0.02,
            pause: 0.02,
            partition: 0.03,
            bad_network: 0.02,
            snapshot: 0.05,
            transfer_leader: 0.03,
            lose_replies: 0.1,
            duplicate_replies: 0.1,
        }
    }
}

impl Chaos {
    /// Nothing at all.
    pub const NONE: Chaos = Chaos {
        kill: 0.0,
        lose_power: 0.0,
        pause: 0.0,
        partition: 0.0,
        bad_network: 0.0,
        snapshot: 0.0,
        transfer_leader: 0.0,
        lose_replies: 0.0,
        duplicate_replies: 0.0,
    };

    /// The kinds that this seed has.
    pub(crate) fn for_seed(mut self, seed: u64) -> Chaos {
        let mut rng = Rng::with_seed(seed ^ 0x00c4_a05e);
        for rate in [
            &mut self.kill,
            &mut self.lose_power,
            &mut self.pause,
            &mut self.partition,
            &mut self.bad_network,
            &mut self.snapshot,
            &mut self.transfer_leader,
            &mut self.lose_replies,
            &mut self.duplicate_replies,
        ] {
            if rng.u8(..3) == 0 {
                *rate = 0.0;
            }
        }
        self
    }

    /// What comes while one call is under way.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Vec<Event> {
        let span = |rng: &mut Rng, from: u64, to: u64| Duration::from_millis(rng.u64(from..to));
        let any = |rng: &mut Rng| if rng.bool() { Host::Leader } else { Host::Follower };
        let mut events = Vec::new();
        if rng.f64() < self.kill {
            let host = any(rng);
            events.push(Event::Kill { host: Some(host), lasting: span(rng, 20, 2_000), power: false });
        }
        if rng.f64() < self.lose_power {
            let host = any(rng);
            events.push(Event::Kill { host: Some(host), lasting: span(rng, 20, 2_000), power: true });
        }
        if rng.f64() < self.pause {
            let host = any(rng);
            events.push(Event::Pause { host, lasting: span(rng, 20, 1_500) });
        }
        if rng.f64() < self.partition {
            let hosts = vec![any(rng)];
            events.push(Event::Partition { hosts, lasting: Some(span(rng, 100, 2_500)) });
        }
        if rng.f64() < self.bad_network {
            let percent = rng.u8(2..40);
            events.push(Event::BadNetwork { percent, lasting: Some(span(rng, 100, 2_000)) });
        }
        if rng.f64() < self.snapshot {
            let host = Some(any(rng));
            events.push(Event::Snapshot { host });
        }
        if rng.f64() < self.transfer_leader {
            events.push(Event::TransferLeader { to: Host::Follower });
        }
        events
    }
}
