//! The window of append messages to one follower that are not acknowledged yet, bounded in number and bytes.

use std::collections::VecDeque;

use crate::types::Index;

/// Append messages under way to one follower.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inflights {
    /// Last index and bytes of each message, in the order they were sent.
    sent: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Inflights {
    /// Notes a message whose last entry is `last`.
    pub fn add(&mut self, last: Index, bytes: u64) {
        self.sent.push_back((last, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Forgets every message up to and including `index`: the follower holds them.
    pub fn free_to(&mut self, index: Index) {
        while let Some((last, bytes)) = self.sent.front().copied() {
            if last > index {
                break;
            }
            self.sent.pop_front();
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.sent.clear();
        self.bytes = 0;
    }

    /// Messages under way.
    pub fn count(&self) -> usize {
        self.sent.len()
    }

    /// Whether the window allows no further message. The byte limit (0: none) may be overshot by one message.
    pub fn is_full(&self, limits: &InflightLimits) -> bool {
        self.sent.len() >= limits.messages || (limits.bytes != 0 && self.bytes >= limits.bytes)
    }
}

/// Bounds of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InflightLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes; 0 for no limit.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_fills_by_count_or_bytes_and_is_freed_by_index() {
        let mut window = Inflights::default();
        let by_count = InflightLimits { messages: 2, bytes: 0 };
        let by_bytes = InflightLimits { messages: 9, bytes: 100 };
        window.add(5, 60);
        assert!(!window.is_full(&by_count) && !window.is_full(&by_bytes));
        window.add(9, 60);
        assert!(window.is_full(&by_count) && window.is_full(&by_bytes));
        window.free_to(4);
        assert_eq!(window.count(), 2);
        window.free_to(8);
        assert_eq!(window.count(), 1);
        assert!(!window.is_full(&by_count) && !window.is_full(&by_bytes));
        window.free_to(100);
        assert_eq!(window, Inflights::default());
    }
}
