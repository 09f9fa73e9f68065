//! The network: which links carry, how long a message takes, and what becomes of it. Owns the cuts and the weather.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use telegraft_raft::NodeId;

use crate::settings::Micros;

/// What a message is up against on every link.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Lost, of a hundred.
    pub loss_percent: u8,
    /// Delivered twice, of a hundred.
    pub repeat_percent: u8,
    /// Most that a message takes.
    pub delay_max: Micros,
}

/// Fair weather: half a millisecond to three.
pub const FAIR: Weather = Weather { loss_percent: 0, repeat_percent: 0, delay_max: 3_000 };

/// Least that a message takes.
const DELAY_MIN: Micros = 300;

/// Links by (from, to).
type Links = BTreeSet<(NodeId, NodeId)>;

/// State of all links.
pub struct Network {
    cuts: BTreeMap<usize, Links>,
    weather: BTreeMap<usize, Weather>,
    rng: Rng,
}

impl Network {
    /// A network in fair weather.
    pub fn new(seed: u64) -> Self {
        Network { cuts: BTreeMap::new(), weather: BTreeMap::new(), rng: Rng::with_seed(seed ^ 0x4e7) }
    }

    /// Cuts links until [`Network::mend`] with the same key.
    pub fn cut(&mut self, key: usize, links: Links) {
        self.cuts.insert(key, links);
    }

    /// The weather until [`Network::mend`] with the same key.
    pub fn turn_bad(&mut self, key: usize, weather: Weather) {
        self.weather.insert(key, weather);
    }

    /// Undoes what was done under a key.
    pub fn mend(&mut self, key: usize) {
        self.cuts.remove(&key);
        self.weather.remove(&key);
    }

    /// Undoes everything.
    pub fn mend_all(&mut self) {
        self.cuts.clear();
        self.weather.clear();
    }

    /// Whether messages from one node to another get through at all.
    pub fn carries(&self, from: NodeId, to: NodeId) -> bool {
        !self.cuts.values().any(|links| links.contains(&(from, to)))
    }

    /// How long each copy of a message takes that is sent now: none where it is lost.
    pub fn send(&mut self, from: NodeId, to: NodeId) -> Vec<Micros> {
        if !self.carries(from, to) {
            return Vec::new();
        }
        let copies = self.copies();
        (0..copies).map(|_| self.delay()).collect()
    }

    /// As [`Network::send`], between a client and a node: a network of its own, in the same weather.
    pub fn send_client(&mut self) -> Option<Micros> {
        (self.copies() > 0).then(|| self.delay())
    }

    fn copies(&mut self) -> usize {
        let Weather { loss_percent, repeat_percent, .. } = self.now();
        if self.rng.u8(..100) < loss_percent {
            0
        } else if self.rng.u8(..100) < repeat_percent {
            2
        } else {
            1
        }
    }

    fn delay(&mut self) -> Micros {
        let max = self.now().delay_max;
        // Mostly short, sometimes as long as it gets: messages overtake each other.
        let span = if self.rng.u8(..8) == 0 { max } else { max / 4 };
        self.rng.u64(DELAY_MIN..=DELAY_MIN + span)
    }

    fn now(&self) -> Weather {
        self.weather.values().next_back().copied().unwrap_or(FAIR)
    }
}
