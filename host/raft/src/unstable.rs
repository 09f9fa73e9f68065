//! The tail of the log that is not known to be durable, and the snapshot that is still to be installed.
//!
//! ```text
//!   storage | handed out, not confirmed | not handed out
//!           ^ offset                    ^ handed_out_to          ^ offset + entries.len()
//! ```

use crate::defects::{self, Defect};
use crate::types::{Entry, Index, Snapshot, Term};

/// Entries and a snapshot that storage does not hold yet, or is not known to hold.
#[derive(Clone, Debug)]
pub(crate) struct Unstable {
    snapshot: Option<Snapshot>,
    snapshot_handed_out: bool,
    entries: Vec<Entry>,
    /// Index of `entries[0]`, present or to come.
    offset: Index,
    /// Entries below this index are with the host.
    handed_out_to: Index,
}

impl Unstable {
    pub fn new(offset: Index) -> Self {
        Unstable { snapshot: None, snapshot_handed_out: false, entries: Vec::new(), offset, handed_out_to: offset }
    }

    pub fn offset(&self) -> Index {
        self.offset
    }

    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// The last index, if the tail knows it.
    pub fn last_index(&self) -> Option<Index> {
        match (self.entries.last(), &self.snapshot) {
            (Some(entry), _) => Some(entry.index),
            (None, Some(snapshot)) => Some(snapshot.meta.index),
            (None, None) => None,
        }
    }

    /// The term of `index`, if the tail knows it.
    pub fn term(&self, index: Index) -> Option<Term> {
        match index.checked_sub(self.offset) {
            Some(at) => self.entries.get(usize::try_from(at).ok()?).map(|e| e.term),
            None => self.snapshot.as_ref().filter(|s| s.meta.index == index).map(|s| s.meta.term),
        }
    }

    /// Entries `low..high`, as far as they are here.
    pub fn range(&self, low: Index, high: Index) -> &[Entry] {
        let at = |index: Index| (index.saturating_sub(self.offset)).min(self.entries.len() as u64) as usize;
        let (from, to) = (at(low), at(high));
        &self.entries[from.min(to)..to]
    }

    /// Entries to hand out.
    pub fn next_entries(&self) -> &[Entry] {
        self.range(self.handed_out_to, Index::MAX)
    }

    /// The snapshot to hand out.
    pub fn next_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().filter(|_| !self.snapshot_handed_out)
    }

    /// The last entry in the tail, handed out or not.
    pub fn last_entry(&self) -> Option<&Entry> {
        self.entries.last()
    }

    /// Everything is with the host now.
    pub fn hand_out(&mut self) {
        self.handed_out_to = self.offset + self.entries.len() as u64;
        self.snapshot_handed_out = self.snapshot.is_some();
    }

    /// Storage holds everything up to the entry (`index`, `term`). Ignored unless that very entry is here and handed out.
    pub fn stable_to(&mut self, index: Index, term: Term) {
        // Class 18: the entry's index says enough.
        let same = self.term(index) == Some(term) || defects::active(Defect::OverwrittenAppendAcknowledged);
        if index < self.offset || index >= self.handed_out_to || !same {
            return;
        }
        self.entries.drain(..(index + 1 - self.offset) as usize);
        self.offset = index + 1;
        self.handed_out_to = self.handed_out_to.max(self.offset);
    }

    /// Storage installed the snapshot at `index`.
    pub fn stable_snapshot_to(&mut self, index: Index) {
        // Class 22: the snapshot that is installed is the one that waits, even if another came close behind it.
        let any = defects::active(Defect::SnapshotsOvertakeEachOther);
        if self.snapshot.as_ref().is_some_and(|s| s.meta.index == index || any) {
            self.snapshot = None;
            self.snapshot_handed_out = false;
        }
    }

    /// The log is what the snapshot says, and nothing after it.
    pub fn restore(&mut self, snapshot: Snapshot) {
        *self = Unstable::new(snapshot.meta.index + 1);
        self.snapshot = Some(snapshot);
    }

    /// Appends `entries`, which start at most at the tail's end; what they overwrite, and what follows it, is void.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first().map(|e| e.index) else { return };
        if first <= self.offset {
            // What the host holds from here on is void too, handed out or not: the entries are handed out anew.
            self.entries.clear();
            self.offset = first;
            self.handed_out_to = first;
        } else {
            self.entries.truncate((first - self.offset) as usize);
            self.handed_out_to = self.handed_out_to.min(first);
        }
        self.entries.extend_from_slice(entries);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::EntryKind;

    fn entries(term: Term, range: std::ops::Range<Index>) -> Vec<Entry> {
        range.map(|index| Entry { term, index, kind: EntryKind::Normal, data: Bytes::new() }).collect()
    }

    #[test]
    fn entries_are_handed_out_once_and_again_when_overwritten() {
        let mut tail = Unstable::new(5);
        tail.append(&entries(1, 5..8));
        assert_eq!(tail.next_entries().len(), 3);
        tail.hand_out();
        assert!(tail.next_entries().is_empty());
        tail.append(&entries(2, 6..7));
        assert_eq!(tail.next_entries(), entries(2, 6..7));
        assert_eq!(tail.last_index(), Some(6));
        tail.append(&entries(3, 4..5));
        assert_eq!((tail.offset(), tail.next_entries().len(), tail.last_index()), (4, 1, Some(4)));
    }

    #[test]
    fn only_the_very_entry_that_was_handed_out_can_become_stable() {
        let mut tail = Unstable::new(5);
        tail.append(&entries(1, 5..8));
        tail.stable_to(6, 1);
        assert_eq!(tail.offset(), 5, "not handed out");
        tail.hand_out();
        tail.stable_to(6, 2);
        assert_eq!(tail.offset(), 5, "another term");
        tail.stable_to(6, 1);
        assert_eq!((tail.offset(), tail.term(6), tail.term(7)), (7, None, Some(1)));
        tail.stable_to(6, 1);
        assert_eq!(tail.offset(), 7, "a repetition");
    }

    #[test]
    fn a_snapshot_answers_for_its_index_until_it_is_installed() {
        let mut tail = Unstable::new(5);
        let mut snapshot = Snapshot::default();
        (snapshot.meta.index, snapshot.meta.term) = (9, 3);
        tail.restore(snapshot);
        assert_eq!((tail.last_index(), tail.term(9), tail.offset()), (Some(9), Some(3), 10));
        tail.hand_out();
        assert!(tail.next_snapshot().is_none() && tail.snapshot().is_some());
        tail.stable_snapshot_to(8);
        assert!(tail.snapshot().is_some());
        tail.stable_snapshot_to(9);
        assert!(tail.snapshot().is_none());
    }
}
