//! What a batch of writes does to a log: the rules both twins obey, and the resulting change. Owns no storage.
//!
//! A log is a run of entries with consecutive indices and non-decreasing terms, that begins after a *start* (the position
//! up to which it was compacted, or that of an installed snapshot; index 0, term 0 for a new log) and ends at its *last*
//! position. Always: start <= commit <= last, except that a log nobody ever committed to has all three at 0.
//!
//! The rules beyond the port's words, each a bug class that real systems shipped: a write never replaces an entry at or
//! below the commit index, never leaves a gap, never lets term or commit go back or a vote change within its term, and
//! never leaves an entry of a newer term than the hard state's.

use bytes::Bytes;
use telegraft_node::ports::{ConfAt, LogFault, LogWrite};
use telegraft_raft::{Entry, HardState, Index, Snapshot, SnapshotMeta, StorageError, Term};

/// Index and term of an entry, possibly of one that is no longer there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: Index,
    pub(crate) term: Term,
}

/// Everything about a log but its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogMeta {
    pub(crate) hard_state: HardState,
    pub(crate) conf: ConfAt,
    /// Entries begin after this.
    pub(crate) start: Position,
    /// The newest entry, or `start` if there is none.
    pub(crate) last: Position,
    /// The snapshot last installed.
    pub(crate) snapshot: Option<SnapshotMeta>,
}

/// The change that a batch of writes makes.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The log's state after it.
    pub(crate) meta: LogMeta,
    /// All stored entries go.
    pub(crate) cleared: bool,
    /// Consecutive entries to store; they replace everything from the first one's index on.
    pub(crate) entries: Vec<Entry>,
    /// Someone's answer waits for this.
    pub(crate) must_sync: bool,
}

impl Plan {
    /// Judges `writes` in order against a log in state `old`; `stored_term` gives the term of a stored entry.
    pub(crate) fn of(
        old: &LogMeta,
        writes: &[LogWrite],
        stored_term: impl Fn(Index) -> Result<Term, LogFault>,
    ) -> Result<Self, LogFault> {
        let mut plan = Self { meta: old.clone(), cleared: false, entries: Vec::new(), must_sync: false };
        for write in writes {
            if let Some(snapshot) = &write.snapshot {
                plan.install(snapshot)?;
            }
            if !write.entries.is_empty() {
                plan.append(&write.entries, &stored_term)?;
            }
            if let Some(hard_state) = &write.hard_state {
                plan.set_hard_state(hard_state)?;
            }
            if let Some(conf) = &write.conf_state {
                plan.configure(conf)?;
            }
            plan.check()?;
            plan.must_sync |= write.must_sync;
        }
        Ok(plan)
    }

    /// Whether stored entries are removed or replaced, rather than only added to.
    pub(crate) fn rewrites(&self, old: &LogMeta) -> bool {
        self.cleared || self.entries.first().is_some_and(|first| first.index <= old.last.index)
    }

    fn install(&mut self, meta: &SnapshotMeta) -> Result<(), LogFault> {
        let commit = self.meta.hard_state.commit;
        if meta.index == 0 {
            return Err(LogFault("a snapshot with index 0 was handed over: there is nothing to install".into()));
        }
        if meta.index < commit {
            return Err(LogFault(format!(
                "a snapshot at index {} would drop entries that are committed (commit index {commit})",
                meta.index
            )));
        }
        self.meta.start = Position { index: meta.index, term: meta.term };
        self.meta.last = self.meta.start;
        self.meta.conf = ConfAt { index: meta.index, conf_state: meta.conf_state.clone() };
        self.meta.snapshot = Some(meta.clone());
        // A snapshot is made of committed entries only; the hard state that says so may come with a later write.
        self.meta.hard_state.commit = meta.index;
        self.cleared = true;
        self.entries.clear();
        Ok(())
    }

    fn append(
        &mut self,
        entries: &[Entry],
        stored_term: &impl Fn(Index) -> Result<Term, LogFault>,
    ) -> Result<(), LogFault> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        let LogMeta { start, last: end, hard_state, .. } = &self.meta;
        if first.index <= start.index {
            return Err(LogFault(format!(
                "entry {} was handed over, but the log is compacted up to {}",
                first.index, start.index
            )));
        }
        if first.index <= hard_state.commit {
            return Err(LogFault(format!(
                "entry {} would replace a committed entry (commit index {})",
                first.index, hard_state.commit
            )));
        }
        if first.index > end.index.saturating_add(1) {
            return Err(LogFault(format!("entry {} would leave a gap: the log ends at {}", first.index, end.index)));
        }
        let before = first.index - 1;
        let pending_first = self.entries.first().map(|entry| entry.index);
        let mut previous = Position {
            index: before,
            term: if before == end.index {
                end.term
            } else if before == start.index {
                start.term
            } else if let Some(entry) = pending_first.and_then(|from| self.pending(before.checked_sub(from)?)) {
                entry.term
            } else {
                stored_term(before)?
            },
        };
        for entry in entries {
            if previous.index.checked_add(1) != Some(entry.index) {
                return Err(LogFault(format!(
                    "entries are not consecutive: {} is followed by {}",
                    previous.index, entry.index
                )));
            }
            if entry.term < previous.term {
                return Err(LogFault(format!(
                    "entry {} has term {}, but the entry before it has term {}: terms never go back",
                    entry.index, entry.term, previous.term
                )));
            }
            previous = Position { index: entry.index, term: entry.term };
        }
        match pending_first {
            Some(from) if from < first.index => {
                let keep = usize::try_from(first.index - from).unwrap_or(usize::MAX);
                self.entries.truncate(keep);
            }
            _ => self.entries.clear(),
        }
        self.entries.extend_from_slice(entries);
        self.meta.last = Position { index: last.index, term: last.term };
        Ok(())
    }

    fn configure(&mut self, conf: &ConfAt) -> Result<(), LogFault> {
        let before = self.meta.conf.index;
        if conf.index < before {
            return Err(LogFault(format!("the configuration would go back from entry {before} to {}", conf.index)));
        }
        self.meta.conf = conf.clone();
        Ok(())
    }

    fn pending(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset).ok()?)
    }

    fn set_hard_state(&mut self, new: &HardState) -> Result<(), LogFault> {
        let old = &self.meta.hard_state;
        if new.term < old.term {
            return Err(LogFault(format!("the term would go back from {} to {}", old.term, new.term)));
        }
        if new.term == old.term && old.vote != 0 && new.vote != old.vote {
            return Err(LogFault(format!(
                "the vote of term {} would change from {} to {}: a vote is given once",
                old.term, old.vote, new.vote
            )));
        }
        // Where a snapshot was installed just before, the core may not have known its index when it made the hard state.
        let raised = self.cleared && old.commit == self.meta.start.index;
        if new.commit < old.commit && !raised {
            return Err(LogFault(format!("the commit index would go back from {} to {}", old.commit, new.commit)));
        }
        self.meta.hard_state = HardState { commit: new.commit.max(old.commit), ..*new };
        Ok(())
    }

    fn check(&self) -> Result<(), LogFault> {
        let LogMeta { hard_state, last, .. } = &self.meta;
        if hard_state.commit > last.index {
            return Err(LogFault(format!(
                "commit index {} is beyond the log's last entry {}",
                hard_state.commit, last.index
            )));
        }
        if last.term > hard_state.term {
            return Err(LogFault(format!(
                "entry {} has term {}, newer than the hard state's term {}: the term must be written with or before it",
                last.index, last.term, hard_state.term
            )));
        }
        Ok(())
    }
}

/// Judges a compaction up to `through`. `false`: it is done already.
pub(crate) fn check_compaction(meta: &LogMeta, through: Index) -> Result<bool, LogFault> {
    if through > meta.hard_state.commit {
        return Err(LogFault(format!(
            "compaction up to {through} would drop entries that are not committed (commit index {})",
            meta.hard_state.commit
        )));
    }
    Ok(through > meta.start.index)
}

/// Judges a read of the entries from `low` to before `high`.
pub(crate) fn check_range(meta: &LogMeta, low: Index, high: Index) -> Result<(), StorageError> {
    if low <= meta.start.index {
        return Err(StorageError::Compacted);
    }
    if high > meta.last.index.saturating_add(1) || low > high {
        return Err(StorageError::Unavailable);
    }
    Ok(())
}

/// Counts the bytes of one read. The first entry always fits: a large one must not block the log.
pub(crate) struct Budget {
    left: u64,
    first: bool,
}

impl Budget {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self { left: max_bytes, first: true }
    }

    pub(crate) fn admits(&mut self, entry: &Entry) -> bool {
        let left = self.left.checked_sub(entry.size());
        let fits = left.is_some() || self.first;
        self.left = left.unwrap_or(0);
        self.first = false;
        fits
    }
}

/// As many of `entries` as fit.
pub(crate) fn within(entries: impl Iterator<Item = Entry>, max_bytes: u64) -> Vec<Entry> {
    let mut budget = Budget::new(max_bytes);
    entries.take_while(|entry| budget.admits(entry)).collect()
}

/// The snapshot a log can offer: the one last installed, while the log still begins right after it. Only its metadata;
/// the data is the machine's, and whoever sends it takes it from there.
pub(crate) fn snapshot_of(meta: &LogMeta) -> Result<Snapshot, StorageError> {
    match &meta.snapshot {
        Some(snapshot) if snapshot.index == meta.start.index => {
            Ok(Snapshot { meta: snapshot.clone(), data: Bytes::new() })
        }
        _ => Err(StorageError::SnapshotTemporarilyUnavailable),
    }
}

/// The answer of a poisoned log.
pub(crate) fn refuse_if(poison: Option<&LogFault>) -> Result<(), LogFault> {
    match poison {
        None => Ok(()),
        Some(LogFault(first)) => Err(LogFault(format!(
            "it failed before and accepts nothing more; remove the cause and restart the host. The first failure: {first}"
        ))),
    }
}
