//! The log in memory: the same port and the same rules as the one in RocksDB, and nothing survives the process.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use telegraft_node::ports::{LogFault, LogReader, LogWrite, LogWriter};
use telegraft_raft::{ConfState, Entry, HardState, Index, Snapshot, Storage, StorageError, Term};

use crate::LogStats;
use crate::plan::{LogMeta, Plan, Position, check_compaction, check_range, refuse_if, snapshot_of, within};

/// The reading half of a log in memory; clones share it.
#[derive(Clone)]
pub struct MemoryReader {
    shared: Arc<RwLock<Contents>>,
}

/// The writing half of a log in memory.
pub struct MemoryWriter {
    shared: Arc<RwLock<Contents>>,
    /// The first failure.
    poison: Option<LogFault>,
}

#[derive(Default)]
struct Contents {
    meta: LogMeta,
    /// The entries after `meta.start`.
    entries: VecDeque<Entry>,
}

/// A new log in memory: zero hard state, empty configuration, no entries.
#[must_use]
pub fn memory() -> (MemoryReader, MemoryWriter) {
    let shared = Arc::new(RwLock::new(Contents::default()));
    (MemoryReader { shared: Arc::clone(&shared) }, MemoryWriter { shared, poison: None })
}

impl Contents {
    /// Where the entry at `index` stands in `entries`, if it is after the start.
    fn offset(&self, index: Index) -> Option<usize> {
        usize::try_from(index.checked_sub(self.meta.start.index)?.checked_sub(1)?).ok()
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index == self.meta.start.index {
            return Ok(self.meta.start.term);
        }
        let offset = self.offset(index).ok_or(StorageError::Compacted)?;
        self.entries.get(offset).map(|entry| entry.term).ok_or(StorageError::Unavailable)
    }
}

impl MemoryReader {
    fn contents(&self) -> RwLockReadGuard<'_, Contents> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log's size, for metrics.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let contents = self.contents();
        let bytes: usize = contents.entries.iter().map(|entry| size_of::<Entry>() + entry.data.len()).sum();
        let entries = contents.entries.len() as u64;
        LogStats { entries, cached_entries: entries, cached_bytes: bytes as u64, stored_bytes: 0 }
    }
}

impl Storage for MemoryReader {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        let contents = self.contents();
        Ok((contents.meta.hard_state, contents.meta.conf.conf_state.clone()))
    }

    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        let contents = self.contents();
        check_range(&contents.meta, low, high)?;
        let (Some(from), Some(to)) = (contents.offset(low), contents.offset(high)) else {
            return Err(StorageError::Compacted);
        };
        Ok(within(contents.entries.range(from..to).cloned(), max_bytes))
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.contents().term(index)
    }

    fn first_index(&self) -> Index {
        self.contents().meta.start.index + 1
    }

    fn last_index(&self) -> Index {
        self.contents().meta.last.index
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        snapshot_of(&self.contents().meta)
    }
}

impl LogReader for MemoryReader {
    fn conf_index(&self) -> Index {
        self.contents().meta.conf.index
    }
}

impl MemoryWriter {
    fn guarded(&mut self, attempt: impl FnOnce(&mut Contents) -> Result<(), LogFault>) -> Result<(), LogFault> {
        refuse_if(self.poison.as_ref())?;
        let mut contents = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        attempt(&mut contents).inspect_err(|fault| self.poison = Some(fault.clone()))
    }
}

impl LogWriter for MemoryWriter {
    fn write(&mut self, writes: &[LogWrite]) -> Result<(), LogFault> {
        self.guarded(|contents| {
            let plan = Plan::of(&contents.meta, writes, |index| {
                contents.term(index).map_err(|error| LogFault(format!("the term at {index} cannot be read: {error}")))
            })?;
            if plan.cleared {
                contents.entries.clear();
            } else if let Some(keep) = plan.entries.first().and_then(|first| contents.offset(first.index)) {
                contents.entries.truncate(keep);
            }
            contents.entries.extend(plan.entries);
            contents.meta = plan.meta;
            Ok(())
        })
    }

    fn compact(&mut self, through: Index) -> Result<(), LogFault> {
        self.guarded(|contents| {
            if !check_compaction(&contents.meta, through)? {
                return Ok(());
            }
            let term = contents
                .term(through)
                .map_err(|error| LogFault(format!("the term at {through} cannot be read: {error}")))?;
            let count = contents.offset(through).map_or(0, |offset| offset + 1);
            contents.entries.drain(..count.min(contents.entries.len()));
            contents.meta.start = Position { index: through, term };
            Ok(())
        })
    }
}
