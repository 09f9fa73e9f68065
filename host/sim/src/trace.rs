//! What happened, twice: as a digest that must be the same for the same seed on every run, and, where someone wants to
//! read it, as lines of text.

use std::fmt::{self, Write};

use crate::settings::Micros;

/// Both records of one run.
pub struct Trace {
    digest: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// `keep`: whether lines are wanted.
    pub fn new(keep: bool) -> Self {
        // FNV-1a, 64 bits (RFC 9923): fast, and the same everywhere.
        Trace { digest: 0xcbf2_9ce4_8422_2325, events: 0, lines: keep.then(Vec::new) }
    }

    /// Notes an event by numbers that tell it from all others.
    pub fn event(&mut self, numbers: &[u64]) {
        self.events += 1;
        for number in numbers {
            for byte in number.to_le_bytes() {
                self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }

    /// Notes a line, if lines are wanted.
    pub fn line(&mut self, at: Micros, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = write!(text, "{:>10.6}  {}", at as f64 / 1e6, line());
            lines.push(text);
        }
    }

    /// The digest so far.
    pub fn digest(&self) -> Digest {
        Digest(self.digest)
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines, where they were wanted.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// Digest of all events of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A number for any bytes, for [`Trace::event`] and for comparing.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut trace = Trace::new(false);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        trace.event(&[u64::from_le_bytes(word), chunk.len() as u64]);
    }
    trace.digest
}
