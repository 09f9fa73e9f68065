//! What the core reads of the durable log: the [`Storage`] trait, and [`MemStorage`], a log in memory for tests.
//!
//! The core only reads. Writing is the host's part: it takes what [`Ready`](crate::Ready) hands out.

use crate::types::{ConfState, Entry, HardState, Index, Snapshot, Term, prefix_within};

/// Why a read of the log failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The index lies at or below the compaction point.
    #[error("the requested index is compacted away")]
    Compacted,
    /// The index lies beyond the log.
    #[error("the requested index is not in the log")]
    Unavailable,
    /// A snapshot is being made; ask again later.
    #[error("the snapshot is not available at the moment")]
    SnapshotTemporarilyUnavailable,
    /// Anything else: the node stops, see [`Raft::fault`](crate::Raft::fault).
    #[error("the log cannot be read: {0}")]
    Other(String),
}

/// The durable log as the core sees it. Calls are cheap or cached; they are made while a message is handled.
pub trait Storage {
    /// Hard state and membership at start.
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError>;

    /// Entries `low..high`, cut after the first that exceeds `max_bytes` (see [`Entry::size`]), but at least one if any.
    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, StorageError>;

    /// Term of the entry at `index`; answered for `first_index() - 1` too (the compaction point; 0 for index 0).
    fn term(&self, index: Index) -> Result<Term, StorageError>;

    /// The index after the compaction point; 1 for a new log.
    fn first_index(&self) -> Index;

    /// The last index; `first_index() - 1` where the log is empty.
    fn last_index(&self) -> Index;

    /// The newest snapshot.
    fn snapshot(&self) -> Result<Snapshot, StorageError>;
}

/// A log in memory, for tests and simulation.
#[derive(Clone, Debug, Default)]
pub struct MemStorage {
    hard_state: HardState,
    conf_state: ConfState,
    snapshot: Snapshot,
    /// Index and term of the compaction point: the entry before the first of `entries`.
    compacted: (Index, Term),
    entries: Vec<Entry>,
}

impl MemStorage {
    /// An empty log of a group that has no members yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty log with a membership, as if every node had started from the same empty snapshot.
    pub fn with_conf_state(conf_state: ConfState) -> Self {
        MemStorage { conf_state, ..Default::default() }
    }

    /// A log that starts with `snapshot`.
    pub fn with_snapshot(snapshot: Snapshot) -> Self {
        let meta = &snapshot.meta;
        let hard_state = HardState { term: meta.term, vote: 0, commit: meta.index };
        let compacted = (meta.index, meta.term);
        let conf_state = meta.conf_state.clone();
        MemStorage { hard_state, conf_state, snapshot, compacted, entries: Vec::new() }
    }

    /// Replaces the hard state.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The stored hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Replaces the membership that a start begins with: the one as of the last applied entry.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Replaces the snapshot that is offered to followers, without touching the log.
    pub fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
    }

    /// Appends `entries`, dropping what they overwrite and whatever follows it. Entries already compacted are skipped.
    ///
    /// # Errors
    /// `Unavailable` if the entries would leave a gap after the log's end.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let first = self.first_index();
        let skip = entries.iter().take_while(|e| e.index < first).count();
        let entries = &entries[skip..];
        let Some(head) = entries.first() else { return Ok(()) };
        let keep = (head.index - first) as usize;
        if keep > self.entries.len() {
            return Err(StorageError::Unavailable);
        }
        self.entries.truncate(keep);
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    /// Installs a snapshot received from a leader: the log is empty afterwards. An older snapshot is ignored.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) {
        let meta = &snapshot.meta;
        if meta.index < self.first_index() {
            return;
        }
        self.compacted = (meta.index, meta.term);
        self.conf_state = meta.conf_state.clone();
        self.entries.clear();
        self.snapshot = snapshot;
    }

    /// Drops entries up to and including `index`.
    ///
    /// # Errors
    /// `Compacted` if they are gone already, `Unavailable` if the log does not reach that far.
    pub fn compact(&mut self, index: Index) -> Result<(), StorageError> {
        if index < self.first_index() {
            return Err(StorageError::Compacted);
        }
        let term = self.term(index)?;
        let count = (index - self.compacted.0) as usize;
        self.entries.drain(..count);
        self.compacted = (index, term);
        Ok(())
    }

    /// All entries in memory.
    pub fn all_entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Storage for MemStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.hard_state, self.conf_state.clone()))
    }

    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        if low < self.first_index() {
            return Err(StorageError::Compacted);
        }
        if high > self.last_index().saturating_add(1) || low > high {
            return Err(StorageError::Unavailable);
        }
        let first = self.first_index();
        let range = &self.entries[(low - first) as usize..(high - first) as usize];
        Ok(range[..prefix_within(range, max_bytes)].to_vec())
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index < self.compacted.0 {
            return Err(StorageError::Compacted);
        }
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        let at = (index - self.compacted.0 - 1) as usize;
        self.entries.get(at).map(|e| e.term).ok_or(StorageError::Unavailable)
    }

    fn first_index(&self) -> Index {
        self.compacted.0 + 1
    }

    fn last_index(&self) -> Index {
        self.compacted.0 + self.entries.len() as u64
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{EntryKind, SnapshotMeta};

    fn entry(term: Term, index: Index) -> Entry {
        Entry { term, index, kind: EntryKind::Normal, data: Bytes::new() }
    }

    #[test]
    fn append_overwrites_a_diverged_tail_and_refuses_a_gap() {
        let mut log = MemStorage::new();
        log.append(&[entry(1, 1), entry(1, 2), entry(1, 3)]).unwrap();
        log.append(&[entry(2, 2)]).unwrap();
        assert_eq!(log.last_index(), 2);
        assert_eq!(log.term(2), Ok(2));
        assert_eq!(log.append(&[entry(2, 4)]), Err(StorageError::Unavailable));
    }

    #[test]
    fn the_compaction_point_keeps_its_term() {
        let mut log = MemStorage::new();
        log.append(&[entry(1, 1), entry(2, 2), entry(3, 3)]).unwrap();
        log.compact(2).unwrap();
        assert_eq!(log.term(2), Ok(2));
        assert_eq!(log.term(1), Err(StorageError::Compacted));
        assert_eq!(log.first_index(), 3);
        assert_eq!(log.entries(2, 4, u64::MAX), Err(StorageError::Compacted));
        assert_eq!(log.entries(3, 5, u64::MAX), Err(StorageError::Unavailable));
        assert_eq!(log.compact(2), Err(StorageError::Compacted));
        log.compact(3).unwrap();
        assert_eq!((log.first_index(), log.last_index(), log.term(3)), (4, 3, Ok(3)));
    }

    #[test]
    fn an_older_snapshot_does_not_replace_a_newer_one() {
        let meta = |index| SnapshotMeta { index, term: 1, conf_state: ConfState::default() };
        let mut log = MemStorage::with_snapshot(Snapshot { meta: meta(5), data: Bytes::new() });
        log.apply_snapshot(Snapshot { meta: meta(4), data: Bytes::new() });
        assert_eq!(log.last_index(), 5);
        log.apply_snapshot(Snapshot { meta: meta(9), data: Bytes::new() });
        assert_eq!((log.first_index(), log.last_index()), (10, 9));
    }
}
