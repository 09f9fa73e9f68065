//! What happened in a cluster: in numbers, and in lines for those who want to read it.

use std::{collections::BTreeMap, fmt::Write as _};

use telegraft_sim::settings::Micros;

/// What happened, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Simulated microseconds.
    pub simulated_us: u64,
    /// Calls and reads.
    pub calls: u64,
    /// Times that one was sent again.
    pub retries: u64,
    /// Writes that reached the log more than once.
    pub duplicates: u64,
    /// Entries committed.
    pub entries: u64,
    /// Times that another host came to lead.
    pub leaders: u64,
    /// Events by their names.
    pub events: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds another's numbers.
    pub fn add(&mut self, other: &Tally) {
        self.simulated_us += other.simulated_us;
        self.calls += other.calls;
        self.retries += other.retries;
        self.duplicates += other.duplicates;
        self.entries += other.entries;
        self.leaders += other.leaders;
        for (name, count) in &other.events {
            *self.events.entry(name).or_default() += count;
        }
    }
}

/// What happened, in lines, where someone wants to read it.
#[derive(Debug, Default)]
pub(crate) struct Story(pub(crate) Option<Vec<String>>);

impl Story {
    pub fn tell(&mut self, at: Micros, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = write!(text, "{:>10.6}  {}", at as f64 / 1e6, line());
            lines.push(text);
        }
    }
}
