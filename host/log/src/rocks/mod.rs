//! The log in RocksDB: reading and writing. What is stored how stands in `codec.rs`, what a write may do in `plan.rs`,
//! opening and its checks in `open.rs`.
//!
//! Every batch of writes is one RocksDB write batch, synced once if any of the writes asks for it. The newest entries and
//! everything small are held in memory, so that in the steady state nothing is read back.
//!
//! A reader sees a write once it has returned: entries beyond the published last index are invisible, so a plain append
//! needs no more than a short lock at the end. A write that removes or replaces entries (truncation, snapshot,
//! compaction) keeps readers off the database until the result is published: else they could meet new entries under an
//! old view.

mod open;
mod options;
mod wal;

use std::fs::File;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rocksdb::{ColumnFamily, DB, ReadOptions, WriteBatch, WriteOptions};
use telegraft_node::ports::{LogFault, LogReader, LogWrite, LogWriter};
use telegraft_raft::{ConfState, Entry, HardState, Index, Snapshot, Storage, StorageError, Term};

pub use self::open::open;
pub use self::options::Options;
use crate::LogStats;
use crate::codec::{self, StateRecord};
use crate::plan::{Budget, LogMeta, Plan, Position, check_compaction, check_range, refuse_if, snapshot_of, within};
use crate::tail::Tail;

/// The reading half of a log in RocksDB; clones share it.
#[derive(Clone)]
pub struct RocksReader {
    shared: Arc<Shared>,
}

/// The writing half of a log in RocksDB. There is one; the database is closed when it and all readers are gone.
pub struct RocksWriter {
    shared: Arc<Shared>,
    /// The state after the newest write. Equal to the published one, without a lock.
    meta: LogMeta,
    /// The first failure.
    poison: Option<LogFault>,
    /// Something was written since the last sync.
    unsynced: bool,
    /// An encoded value, kept for its capacity.
    value: Vec<u8>,
}

struct Shared {
    db: DB,
    group: u64,
    view: RwLock<View>,
    /// Held for reading while entries are read from the database, for writing while any are removed or replaced. Taken
    /// before `view`.
    rewriting: RwLock<()>,
    /// Says to other processes that the log is open. Released last.
    _lock: File,
}

/// What readers see.
struct View {
    meta: LogMeta,
    tail: Tail,
}

impl Shared {
    // Nothing panics while it holds these locks halfway through a change, so a poisoned one still guards a whole value.
    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_family(&self) -> Result<&ColumnFamily, LogFault> {
        self.db.cf_handle(codec::STATE_FAMILY).ok_or_else(|| LogFault("the column family 'state' is gone".into()))
    }

    /// Reads one stored entry, which must be there.
    fn stored_entry(&self, index: Index) -> Result<Entry, String> {
        let key = codec::entry_key(self.group, index);
        let value = self.db.get_pinned(key).map_err(|error| format!("entry {index} cannot be read: {error}"))?;
        let value = value.ok_or_else(|| format!("entry {index} is missing"))?;
        codec::decode_entry(&key, index, &value).map_err(|what| format!("entry {index} is damaged: {what}"))
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        {
            let view = self.view();
            if let Some(term) = term_in_memory(&view, index)? {
                return Ok(term);
            }
        }
        let _undisturbed = self.rewriting.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(term) = term_in_memory(&self.view(), index)? {
            return Ok(term);
        }
        self.stored_entry(index).map(|entry| entry.term).map_err(read_error)
    }
}

/// Hands stored entries from `low` on, in order, to `take`, until it returns false. All up to before `high` (`None`: all
/// that there are) must be consecutive and sound; the error says which entry is not.
fn scan(
    db: &DB,
    group: u64,
    low: Index,
    high: Option<Index>,
    mut take: impl FnMut(Entry) -> bool,
) -> Result<(), String> {
    let mut read_options = ReadOptions::default();
    // A long run that is read once would only push out what is read often.
    read_options.fill_cache(false);
    read_options.set_iterate_upper_bound(codec::entries_end_key(group));
    let mut items = db.raw_iterator_opt(read_options);
    items.seek(codec::entry_key(group, low));
    let mut expected = low;
    while high.is_none_or(|high| expected < high) {
        let Some((key, value)) = items.item() else {
            items.status().map_err(|error| format!("entry {expected} cannot be read: {error}"))?;
            return if high.is_none() { Ok(()) } else { Err(format!("entry {expected} is missing")) };
        };
        match codec::index_of_key(group, key) {
            Some(index) if index == expected => {}
            Some(index) => return Err(format!("entry {expected} is missing: the next one there is {index}")),
            None => return Err(format!("the key where entry {expected} should be is damaged")),
        }
        let entry =
            codec::decode_entry(key, expected, value).map_err(|what| format!("entry {expected} is damaged: {what}"))?;
        if !take(entry) {
            return Ok(());
        }
        expected = expected.checked_add(1).ok_or("the log reaches the end of all indices")?;
        items.next();
    }
    Ok(())
}

fn term_in_memory(view: &View, index: Index) -> Result<Option<Term>, StorageError> {
    let LogMeta { start, last, .. } = &view.meta;
    if index < start.index {
        return Err(StorageError::Compacted);
    }
    if index > last.index {
        return Err(StorageError::Unavailable);
    }
    if index == start.index {
        return Ok(Some(start.term));
    }
    if index == last.index {
        return Ok(Some(last.term));
    }
    Ok(view.tail.get(index).map(|entry| entry.term))
}

fn read_error(what: String) -> StorageError {
    tracing::error!(%what, "the log cannot be read");
    StorageError::Other(what)
}

impl RocksReader {
    /// The log's size, for metrics. Cheap: nothing is read from disk.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let view = self.shared.view();
        let property = |name: &str| self.shared.db.property_int_value(name).ok().flatten().unwrap_or(0);
        LogStats {
            entries: view.meta.last.index - view.meta.start.index,
            cached_entries: view.tail.len() as u64,
            cached_bytes: view.tail.bytes() as u64,
            stored_bytes: property("rocksdb.total-sst-files-size") + property("rocksdb.cur-size-all-mem-tables"),
        }
    }
}

impl Storage for RocksReader {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        let view = self.shared.view();
        Ok((view.meta.hard_state, view.meta.conf.conf_state.clone()))
    }

    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        {
            let view = self.shared.view();
            check_range(&view.meta, low, high)?;
            if let Some(entries) = view.tail.range(low, high) {
                return Ok(within(entries.cloned(), max_bytes));
            }
        }
        let _undisturbed = self.shared.rewriting.read().unwrap_or_else(PoisonError::into_inner);
        check_range(&self.shared.view().meta, low, high)?;
        let (mut entries, mut budget) = (Vec::new(), Budget::new(max_bytes));
        scan(&self.shared.db, self.shared.group, low, Some(high), |entry| {
            let fits = budget.admits(&entry);
            if fits {
                entries.push(entry);
            }
            fits
        })
        .map_err(read_error)?;
        Ok(entries)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.shared.term(index)
    }

    fn first_index(&self) -> Index {
        self.shared.view().meta.start.index + 1
    }

    fn last_index(&self) -> Index {
        self.shared.view().meta.last.index
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        snapshot_of(&self.shared.view().meta)
    }
}

impl LogReader for RocksReader {
    fn conf_index(&self) -> Index {
        self.shared.view().meta.conf.index
    }
}

impl RocksWriter {
    fn try_write(&mut self, writes: &[LogWrite]) -> Result<(), LogFault> {
        let plan = Plan::of(&self.meta, writes, |index| {
            self.shared.term(index).map_err(|error| LogFault(format!("the term at {index} cannot be read: {error}")))
        })?;
        if plan.entries.is_empty() && !plan.cleared && plan.meta == self.meta {
            return if plan.must_sync { self.sync_what_is_pending() } else { Ok(()) };
        }
        let rewrites = plan.rewrites(&self.meta);
        let batch = self.batch_of(&plan)?;
        let shared = Arc::clone(&self.shared);
        let _readers_off = rewrites.then(|| shared.rewriting.write().unwrap_or_else(PoisonError::into_inner));
        self.commit(batch, plan.must_sync).map_err(|error| {
            let span = match (plan.entries.first(), plan.entries.last()) {
                (Some(first), Some(last)) => format!("entries {} to {}", first.index, last.index),
                _ => "the hard state".to_owned(),
            };
            LogFault(format!("{span} could not be made durable: {error}"))
        })?;
        let mut view = shared.view_mut();
        if plan.cleared {
            view.tail.clear();
        }
        view.tail.replace_from(plan.entries);
        view.meta.clone_from(&plan.meta);
        drop(view);
        self.meta = plan.meta;
        Ok(())
    }

    fn batch_of(&mut self, plan: &Plan) -> Result<WriteBatch, LogFault> {
        let group = self.shared.group;
        let state = self.shared.state_family()?;
        let data_bytes: usize = plan.entries.iter().map(|entry| entry.data.len() + 64).sum();
        let mut batch = WriteBatch::with_capacity_bytes(data_bytes + 256);
        if plan.cleared {
            batch.delete_range(codec::entry_key(group, 0).as_slice(), codec::entries_end_key(group).as_slice());
        } else if let Some(first) = plan.entries.first().filter(|_| plan.rewrites(&self.meta)) {
            batch.delete_range(
                codec::entry_key(group, first.index).as_slice(),
                codec::entries_end_key(group).as_slice(),
            );
        }
        for entry in &plan.entries {
            let key = codec::entry_key(group, entry.index);
            codec::encode_entry(&key, entry, &mut self.value);
            batch.put(key, &self.value);
        }
        let (old, new) = (&self.meta, &plan.meta);
        if new.hard_state != old.hard_state {
            let key = StateRecord::HardState.key(group);
            batch.put_cf(state, key, codec::encode_hard_state(&key, &new.hard_state));
        }
        if new.conf != old.conf {
            let key = StateRecord::ConfState.key(group);
            batch.put_cf(state, key, codec::encode_conf_state(&key, &new.conf));
        }
        if new.start != old.start {
            let key = StateRecord::Start.key(group);
            batch.put_cf(state, key, codec::encode_position(&key, new.start));
        }
        if let Some(snapshot) = new.snapshot.as_ref().filter(|_| new.snapshot != old.snapshot) {
            let key = StateRecord::Snapshot.key(group);
            batch.put_cf(state, key, codec::encode_snapshot(&key, snapshot));
        }
        Ok(batch)
    }

    fn commit(&mut self, batch: WriteBatch, sync: bool) -> Result<(), rocksdb::Error> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.shared.db.write_opt(batch, &options)?;
        // RocksDB syncs the whole write-ahead log, so what was written before is on the disk now as well.
        self.unsynced = !sync;
        Ok(())
    }

    /// A write that changes nothing may still follow ones that were not synced, and whose effect it repeats.
    fn sync_what_is_pending(&mut self) -> Result<(), LogFault> {
        if self.unsynced {
            self.shared
                .db
                .flush_wal(true)
                .map_err(|error| LogFault(format!("earlier writes could not be made durable: {error}")))?;
            self.unsynced = false;
        }
        Ok(())
    }

    fn try_compact(&mut self, through: Index) -> Result<(), LogFault> {
        if !check_compaction(&self.meta, through)? {
            return Ok(());
        }
        let term = self
            .shared
            .term(through)
            .map_err(|error| LogFault(format!("the term at {through} cannot be read: {error}")))?;
        let (group, shared) = (self.shared.group, Arc::clone(&self.shared));
        let first = codec::entry_key(group, self.meta.start.index.saturating_add(1));
        let after = codec::entry_key(group, through.saturating_add(1));
        let start = Position { index: through, term };
        let mut batch = WriteBatch::default();
        batch.delete_range(first.as_slice(), after.as_slice());
        let key = StateRecord::Start.key(group);
        batch.put_cf(shared.state_family()?, key, codec::encode_position(&key, start));

        let _readers_off = shared.rewriting.write().unwrap_or_else(PoisonError::into_inner);
        // Synced, because files are removed next: the log must never begin in one that is gone.
        self.commit(batch, true)
            .map_err(|error| LogFault(format!("the compaction up to {through} could not be made durable: {error}")))?;
        let mut view = shared.view_mut();
        view.tail.drop_through(through);
        view.meta.start = start;
        self.meta.start = start;
        drop(view);
        // Gives the space back at once where whole files are obsolete (both ends count as within); the rest goes when
        // RocksDB compacts.
        if let Err(error) = shared.db.delete_file_in_range(first, codec::entry_key(group, through)) {
            tracing::warn!(%error, through, "files of compacted entries could not be removed yet");
        }
        Ok(())
    }

    /// Runs `attempt` unless an earlier one failed; remembers if it fails.
    fn guarded(&mut self, attempt: impl FnOnce(&mut Self) -> Result<(), LogFault>) -> Result<(), LogFault> {
        refuse_if(self.poison.as_ref())?;
        attempt(self).inspect_err(|fault| {
            tracing::error!(%fault, group = self.shared.group, "the log stops");
            self.poison = Some(fault.clone());
        })
    }
}

impl LogWriter for RocksWriter {
    fn write(&mut self, writes: &[LogWrite]) -> Result<(), LogFault> {
        self.guarded(|writer| writer.try_write(writes))
    }

    fn compact(&mut self, through: Index) -> Result<(), LogFault> {
        self.guarded(|writer| writer.try_compact(through))
    }
}
