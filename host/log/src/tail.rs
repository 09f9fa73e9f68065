//! The newest entries of a log, in memory, so that replication and apply seldom read the disk. Owns the bound on their
//! bytes.

use std::collections::VecDeque;

use telegraft_raft::{Entry, Index};

/// What an entry takes besides its data: its fields, and the allocation that holds the data.
const ENTRY_OVERHEAD_BYTES: usize = size_of::<Entry>() + 32;

/// A run of consecutive entries that ends at the log's end (empty only if the log is, or if the bound is tiny).
#[derive(Debug)]
pub(crate) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Puts consecutive entries at the end, in the place of whatever is there from the first one's index on.
    pub(crate) fn replace_from(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let mut entries = entries.into_iter().peekable();
        let Some(first) = entries.peek().map(|entry| entry.index) else { return };
        while self.entries.back().is_some_and(|entry| entry.index >= first) {
            self.drop_newest();
        }
        if self.entries.back().is_some_and(|entry| entry.index + 1 != first) {
            self.clear();
        }
        for entry in entries {
            self.bytes += bytes_of(&entry);
            self.entries.push_back(entry);
            while self.bytes > self.bytes_max {
                self.drop_oldest();
            }
        }
    }

    /// Forgets entries up to and including `through`.
    pub(crate) fn drop_through(&mut self, through: Index) {
        while self.entries.front().is_some_and(|entry| entry.index <= through) {
            self.drop_oldest();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// The entry at `index`, if it is held here.
    pub(crate) fn get(&self, index: Index) -> Option<&Entry> {
        let first = self.entries.front()?.index;
        self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// The entries from `low` to before `high`, if all of them are held here.
    pub(crate) fn range(&self, low: Index, high: Index) -> Option<impl Iterator<Item = &Entry>> {
        let first = self.entries.front()?.index;
        let from = usize::try_from(low.checked_sub(first)?).ok()?;
        let to = usize::try_from(high.checked_sub(first)?).ok()?;
        (from <= to && to <= self.entries.len()).then(|| self.entries.range(from..to))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn drop_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= bytes_of(&entry);
        }
    }

    fn drop_newest(&mut self) {
        if let Some(entry) = self.entries.pop_back() {
            self.bytes -= bytes_of(&entry);
        }
    }
}

fn bytes_of(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use telegraft_raft::EntryKind;

    use super::*;

    fn entry(index: Index, term: u64) -> Entry {
        Entry { term, index, kind: EntryKind::Normal, data: Bytes::from(vec![b'x'; 100]) }
    }

    fn held(tail: &Tail) -> Vec<(Index, u64)> {
        tail.entries.iter().map(|entry| (entry.index, entry.term)).collect()
    }

    #[test]
    fn oldest_entries_leave_when_the_bound_is_reached() {
        let mut tail = Tail::new(3 * bytes_of(&entry(1, 1)));
        tail.replace_from((1..=5).map(|index| entry(index, 1)));
        assert_eq!(held(&tail), [(3, 1), (4, 1), (5, 1)]);
        assert_eq!(tail.bytes(), 3 * bytes_of(&entry(1, 1)));
        assert!(tail.range(2, 4).is_none());
        assert_eq!(tail.range(3, 5).map(Iterator::count), Some(2));
        assert!(tail.range(3, 7).is_none());
        assert!(tail.get(2).is_none());
        assert_eq!(tail.get(5).map(|entry| entry.index), Some(5));
        assert!(tail.get(6).is_none());
    }

    #[test]
    fn a_diverged_end_is_replaced() {
        let mut tail = Tail::new(usize::MAX);
        tail.replace_from((1..=5).map(|index| entry(index, 1)));
        tail.replace_from([entry(3, 2)]);
        assert_eq!(held(&tail), [(1, 1), (2, 1), (3, 2)]);
        assert_eq!(tail.bytes(), 3 * bytes_of(&entry(1, 1)));
    }

    #[test]
    fn entries_that_do_not_join_on_replace_all() {
        let mut tail = Tail::new(usize::MAX);
        tail.replace_from((1..=5).map(|index| entry(index, 1)));
        tail.replace_from([entry(9, 2)]);
        assert_eq!(held(&tail), [(9, 2)]);
        tail.drop_through(9);
        assert_eq!((tail.len(), tail.bytes()), (0, 0));
    }

    #[test]
    fn an_entry_larger_than_the_bound_is_not_held() {
        let mut tail = Tail::new(10);
        tail.replace_from([entry(1, 1)]);
        assert_eq!((tail.len(), tail.bytes()), (0, 0));
        tail.replace_from([entry(2, 1)]);
        assert!(tail.range(2, 3).is_none());
    }
}
