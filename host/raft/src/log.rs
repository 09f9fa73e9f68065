//! The log as one: storage, the unstable tail on top, and how far it is committed and applied.
//!
//! `applied <= applying <= committed <= last_index` at all times.

use std::collections::VecDeque;
use std::sync::OnceLock;

use crate::defects::{self, Defect};
use crate::storage::{Storage, StorageError};
use crate::types::{Entry, EntryKind, Index, Snapshot, Term, entries_size, payloads_size, prefix_within};
use crate::unstable::Unstable;

/// Bytes read at a time where a range of the log is searched.
const SCAN_BYTES: u64 = 1 << 20;

/// Committed entries handed out in one piece and not yet applied.
#[derive(Clone, Debug)]
struct HandedOut {
    last: Index,
    bytes: u64,
    payload_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Log<S> {
    storage: S,
    pub unstable: Unstable,
    committed: Index,
    applying: Index,
    applied: Index,
    handed_out: VecDeque<HandedOut>,
    handed_out_bytes: u64,
    handed_out_bytes_max: u64,
    /// Set while more cannot be handed out: the limit is reached, or the last batch was cut short by it.
    handing_out_paused: bool,
    fault: OnceLock<StorageError>,
}

impl<S: Storage> Log<S> {
    pub fn new(storage: S, committed: Index, applied: Index, handed_out_bytes_max: u64) -> Self {
        let unstable = Unstable::new(storage.last_index() + 1);
        let at_least = storage.first_index().saturating_sub(1);
        let committed = committed.max(at_least);
        let applied = applied.max(at_least);
        Log {
            storage,
            unstable,
            committed,
            applying: applied,
            applied,
            handed_out: VecDeque::new(),
            handed_out_bytes: 0,
            handed_out_bytes_max,
            handing_out_paused: false,
            fault: OnceLock::new(),
        }
    }

    pub fn storage(&self) -> &S {
        &self.storage
    }

    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }

    pub fn committed(&self) -> Index {
        self.committed
    }

    pub fn applied(&self) -> Index {
        self.applied
    }

    pub fn fault(&self) -> Option<&StorageError> {
        self.fault.get()
    }

    /// Remembers the first failure that means more than "that index is not here".
    fn note(&self, error: StorageError) -> StorageError {
        if let StorageError::Other(_) = error {
            let _ = self.fault.set(error.clone());
        }
        error
    }

    /// As `note`, where the index must be here: then every failure is a fault.
    fn must<T>(&self, result: Result<T, StorageError>) -> Option<T> {
        result
            .map_err(|error| {
                let _ = self.fault.set(error);
            })
            .ok()
    }

    pub fn first_index(&self) -> Index {
        match self.unstable.snapshot() {
            Some(snapshot) => snapshot.meta.index + 1,
            None => self.storage.first_index(),
        }
    }

    pub fn last_index(&self) -> Index {
        // Without entries and snapshot the tail starts right after storage; its offset is what the log is known to hold,
        // even while storage has not caught up with its own promise.
        self.unstable.last_index().unwrap_or(self.unstable.offset() - 1)
    }

    pub fn term(&self, index: Index) -> Result<Term, StorageError> {
        if let Some(term) = self.unstable.term(index) {
            return Ok(term);
        }
        if index.saturating_add(1) < self.first_index() {
            return Err(StorageError::Compacted);
        }
        if index > self.last_index() || index >= self.unstable.offset() {
            return Err(StorageError::Unavailable);
        }
        self.storage.term(index).map_err(|e| self.note(e))
    }

    /// The term of the last entry; 0 for an empty log or where it cannot be read.
    pub fn last_term(&self) -> Term {
        let last = self.last_index();
        // Class 24: a log without entries has no last term.
        if defects::active(Defect::LastTermZeroWhenCompacted) && last < self.first_index() {
            return 0;
        }
        self.must(self.term(last)).unwrap_or(0)
    }

    pub fn matches(&self, index: Index, term: Term) -> bool {
        self.term(index) == Ok(term)
    }

    /// Whether a log that ends in (`index`, `term`) holds all that this one can have committed (Raft §5.4.1).
    pub fn is_up_to_date(&self, index: Index, term: Term) -> bool {
        let last_term = self.last_term();
        term > last_term || (term == last_term && index >= self.last_index())
    }

    /// Entries `low..high` within `max_bytes`, at least one if any.
    pub fn slice(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        let high = high.min(self.last_index() + 1);
        if low < self.first_index() {
            return Err(StorageError::Compacted);
        }
        if low >= high {
            return Ok(Vec::new());
        }
        let offset = self.unstable.offset();
        let mut entries = Vec::new();
        if low < offset {
            let stored_to = high.min(offset);
            entries = self.storage.entries(low, stored_to, max_bytes).map_err(|e| self.note(e))?;
            if (entries.len() as u64) < stored_to - low {
                return Ok(entries);
            }
        }
        let size = entries_size(&entries);
        if high > offset && (size < max_bytes || entries.is_empty()) {
            let tail = self.unstable.range(low.max(offset), high);
            let room = max_bytes.saturating_sub(size);
            let take = prefix_within(tail, room);
            // The promise of at least one entry is for the whole answer: do not overshoot for the tail's first.
            if entries.is_empty() || entries_size(&tail[..take]) <= room {
                entries.extend_from_slice(&tail[..take]);
            }
        }
        Ok(entries)
    }

    /// Entries from `low` on, within `max_bytes`.
    pub fn entries_from(&self, low: Index, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        self.slice(low, Index::MAX, max_bytes)
    }

    /// From `index` downwards, the first whose term is at most `term`, with its term (0 where it is not known). All
    /// before it may match a log whose entry at `index` has term `term`; all after cannot (the back-off of Raft §5.3).
    pub fn last_index_within_term(&self, index: Index, term: Term) -> (Index, Term) {
        let mut index = index;
        while index > 0 {
            match self.term(index) {
                Ok(ours) if ours <= term => return (index, ours),
                Ok(_) => index -= 1,
                Err(_) => return (index, 0),
            }
        }
        (0, 0)
    }

    /// The first of `entries` that the log does not hold with the same term.
    pub fn first_difference(&self, entries: &[Entry]) -> Option<Index> {
        entries.iter().find(|e| !self.matches(e.index, e.term)).map(|e| e.index)
    }

    /// Appends entries that start after the commit index.
    pub fn append(&mut self, entries: &[Entry]) {
        debug_assert!(entries.first().is_none_or(|e| e.index > self.committed && e.index <= self.last_index() + 1));
        self.unstable.append(entries);
    }

    /// Moves the commit index forward to `index`, no further than the log reaches.
    pub fn commit_to(&mut self, index: Index) -> bool {
        // Class 10: what is committed must be here, so nobody looks.
        let trusted = defects::active(Defect::HeartbeatCommitUnbounded);
        let index = if trusted { index } else { index.min(self.last_index()) };
        let moved = index > self.committed;
        self.committed = self.committed.max(index);
        moved
    }

    /// Storage confirmed everything up to (`index`, `term`).
    pub fn stable_to(&mut self, index: Index, term: Term) {
        self.unstable.stable_to(index, term);
    }

    pub fn restore(&mut self, snapshot: Snapshot) {
        self.committed = snapshot.meta.index;
        self.unstable.restore(snapshot);
    }

    pub fn snapshot(&self) -> Result<Snapshot, StorageError> {
        match self.unstable.snapshot() {
            Some(snapshot) => Ok(snapshot.clone()),
            None => self.storage.snapshot().map_err(|e| self.note(e)),
        }
    }

    /// The last index that may be handed out for applying.
    fn appliable(&self, unstable_too: bool) -> Index {
        // Class 5: what is committed is handed out, durable here or not.
        let unstable_too = unstable_too || defects::active(Defect::AloneCommitsBeforeSync);
        if unstable_too { self.committed } else { self.committed.min(self.unstable.offset() - 1) }
    }

    pub fn has_committed_entries(&self, unstable_too: bool) -> bool {
        !self.handing_out_paused && self.unstable.snapshot().is_none() && self.applying < self.appliable(unstable_too)
    }

    /// Takes the committed entries to apply next.
    pub fn take_committed_entries(&mut self, unstable_too: bool) -> Vec<Entry> {
        if !self.has_committed_entries(unstable_too) {
            return Vec::new();
        }
        let appliable = self.appliable(unstable_too);
        let room = self.handed_out_bytes_max.saturating_sub(self.handed_out_bytes);
        let Some(entries) = self.must(self.slice(self.applying + 1, appliable + 1, room)) else { return Vec::new() };
        let Some(last) = entries.last().map(|e| e.index) else { return entries };
        let bytes = entries_size(&entries);
        self.handed_out.push_back(HandedOut { last, bytes, payload_bytes: payloads_size(&entries) });
        self.handed_out_bytes = self.handed_out_bytes.saturating_add(bytes);
        self.applying = last;
        self.handing_out_paused = self.handed_out_bytes >= self.handed_out_bytes_max || last < appliable;
        entries
    }

    /// Entries up to `index` are applied. Returns the payload bytes of the batches that this completes.
    pub fn applied_to(&mut self, index: Index) -> u64 {
        self.applied = self.applied.max(index.min(self.committed));
        self.applying = self.applying.max(self.applied);
        let mut payload_bytes = 0u64;
        while let Some(batch) = self.handed_out.front() {
            if batch.last > self.applied {
                break;
            }
            self.handed_out_bytes = self.handed_out_bytes.saturating_sub(batch.bytes);
            payload_bytes = payload_bytes.saturating_add(batch.payload_bytes);
            self.handed_out.pop_front();
        }
        self.handing_out_paused = self.handed_out_bytes >= self.handed_out_bytes_max;
        payload_bytes
    }

    /// Whether a configuration change is committed that is not applied yet. Where it cannot be read: yes, to be safe.
    pub fn has_unapplied_conf_change(&self) -> bool {
        let mut low = self.applied + 1;
        while low <= self.committed {
            let Some(entries) = self.must(self.slice(low, self.committed + 1, SCAN_BYTES)) else { return true };
            if entries.iter().any(|e| e.kind != EntryKind::Normal) {
                return true;
            }
            match entries.last() {
                Some(last) => low = last.index + 1,
                None => return false,
            }
        }
        false
    }
}
