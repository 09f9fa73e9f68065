//! A node's log on a model disk that behaves as badly as a real one can: what was not synced may be lost when the power
//! goes, whole or in part; a sync may fail, and take the dirty pages with it; the disk may be full; bits may flip. Owns the
//! file's bytes, the difference between written and durable, and the recovery when a process starts on it.

mod record;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use telegraft_node::ports::{ConfAt, LogFault, LogWrite};
use telegraft_raft::{
    ConfState, Entry, HardState, Index, MemStorage, Snapshot, SnapshotMeta, Storage, StorageError, Term,
    defects::{self, Defect},
};

use record::{End, Record};

/// How the next operation on a disk goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// The write or its sync fails; the pages that were dirty are lost.
    Failed,
    /// No space is left in the middle of a write.
    Full,
}

/// Why a process cannot start on a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Something that was whole once is not any more.
    #[error("the log is damaged after byte {at}")]
    Damaged {
        /// Bytes that are intact.
        at: usize,
    },
    /// The records contradict each other.
    #[error("the log contradicts itself: {0}")]
    Contradiction(String),
}

/// What the running process reads: all that was reported as durable to it.
#[derive(Debug, Default)]
struct View {
    log: MemStorage,
    conf: ConfAt,
}

#[derive(Debug)]
struct Disk {
    file: Vec<u8>,
    /// Bytes of `file` that survive a power loss.
    synced: usize,
    /// Written, and not reported yet.
    pending: Vec<LogWrite>,
    view: View,
    /// The snapshot offered to others: a file of its own, replaced atomically.
    offered: Option<Snapshot>,
    /// A snapshot was asked for, and there was none.
    wanted: Cell<bool>,
    next_error: Option<IoError>,
    full: bool,
    poisoned: bool,
    /// For the checkers: how often anything was synced.
    syncs: u64,
}

/// The log's disk of one node. Clones share it: the reading half, and the world's hand on it.
#[derive(Clone, Debug)]
pub struct LogDisk(Rc<RefCell<Disk>>);

impl LogDisk {
    /// A new disk, with the group's first configuration on it.
    pub fn new(conf_state: ConfState) -> Self {
        let disk = LogDisk(Rc::new(RefCell::new(Disk {
            file: Vec::new(),
            synced: 0,
            pending: Vec::new(),
            view: View::default(),
            offered: None,
            wanted: Cell::new(false),
            next_error: None,
            full: false,
            poisoned: false,
            syncs: 0,
        })));
        let conf_state = Some(ConfAt { index: 0, conf_state });
        let first = LogWrite { conf_state, must_sync: true, ..LogWrite::default() };
        // A new disk has room and no faults.
        let _ = disk.write(&[first]).and_then(|()| disk.sync());
        disk
    }

    /// A process starts: reads the file, cuts a torn end off, and makes sure that what it saw stays.
    ///
    /// # Errors
    /// When the log is damaged. Nothing is changed then.
    pub fn open(&self) -> Result<(), OpenError> {
        let mut disk = self.0.borrow_mut();
        let mut view = View::default();
        let mut problem = None;
        let (intact, end) = record::read(&disk.file, |record| {
            if problem.is_none() {
                problem = view.take(&record).err();
            }
        });
        if let Some(problem) = problem {
            return Err(OpenError::Contradiction(problem));
        }
        if end == End::Damaged && !defects::active(Defect::CorruptionTakenForTornTail) {
            return Err(OpenError::Damaged { at: intact });
        }
        if end == End::Torn && defects::active(Defect::TornWriteAccepted) {
            let _ = record::read_leniently(&disk.file[intact..]).map(|record| view.take(&record));
        }
        disk.file.truncate(intact);
        // What a dead process wrote and never synced would otherwise be believed now and lost later.
        disk.synced = intact;
        disk.pending.clear();
        disk.poisoned = false;
        disk.next_error = None;
        disk.view = view;
        Ok(())
    }

    /// Puts bytes in the file. They are durable, and seen by the reader, after [`LogDisk::sync`].
    ///
    /// # Errors
    /// When the disk fails; then every later call fails too.
    pub fn write(&self, writes: &[LogWrite]) -> Result<(), LogFault> {
        let disk = &mut *self.0.borrow_mut();
        disk.refuse_if_poisoned()?;
        let before = disk.file.len();
        for write in writes {
            record::append(&mut disk.file, &Record { base: None, write: write.clone() });
            disk.pending.push(write.clone());
        }
        if disk.full || disk.next_error == Some(IoError::Full) {
            disk.next_error = None;
            let half = before + (disk.file.len() - before) / 2;
            disk.file.truncate(half);
            if defects::active(Defect::FullDiskIgnored) {
                disk.file.truncate(before);
                return Ok(());
            }
            disk.poisoned = true;
            return Err(LogFault("no space left on the disk".into()));
        }
        Ok(())
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// When the disk fails; then every later call fails too, and what was not durable is gone.
    pub fn sync(&self) -> Result<(), LogFault> {
        let disk = &mut *self.0.borrow_mut();
        disk.refuse_if_poisoned()?;
        if disk.next_error.take() == Some(IoError::Failed) {
            disk.file.truncate(disk.synced);
            if !defects::active(Defect::SyncRetried) {
                disk.poisoned = true;
                return Err(LogFault("the sync failed".into()));
            }
        }
        if !defects::active(Defect::AcknowledgedBeforeSync) {
            disk.synced = disk.file.len();
        }
        disk.syncs += 1;
        for write in std::mem::take(&mut disk.pending) {
            disk.view.write(&write).map_err(LogFault)?;
        }
        Ok(())
    }

    /// The process is gone, the machine it ran on is not: what was written stays.
    pub fn process_died(&self) {
        self.0.borrow_mut().pending.clear();
    }

    /// The power is gone: of what was not synced, some prefix may have arrived, and some of its end as zeros.
    pub fn lose_power(&self, rng: &mut fastrand::Rng) {
        let disk = &mut *self.0.borrow_mut();
        disk.pending.clear();
        let kept = rng.usize(disk.synced..=disk.file.len());
        let whole = disk.file.len();
        disk.file.truncate(kept);
        if rng.u8(..4) == 0 && kept < whole {
            let longer = rng.usize(kept..=whole);
            disk.file.resize(longer, 0);
        }
    }

    /// A bit of what was durable flips. `false`: there is nothing that could.
    pub fn flip_bit(&self, rng: &mut fastrand::Rng) -> bool {
        let disk = &mut *self.0.borrow_mut();
        if disk.synced == 0 {
            return false;
        }
        let bit = rng.usize(..disk.synced * 8);
        disk.file[bit / 8] ^= 1 << (bit % 8);
        true
    }

    /// The next operation fails so.
    pub fn fail_next(&self, error: IoError) {
        self.0.borrow_mut().next_error = Some(error);
    }

    /// Whether there is room for more.
    pub fn set_full(&self, full: bool) {
        let mut disk = self.0.borrow_mut();
        disk.full = full;
        if !full {
            disk.next_error = None;
        }
    }

    /// Whether a fault is due.
    pub fn will_fail(&self) -> bool {
        self.0.borrow().next_error.is_some()
    }

    /// Whether writes wait for their sync.
    pub fn is_busy(&self) -> bool {
        !self.0.borrow().pending.is_empty()
    }

    /// Keeps a snapshot, durably, to offer it to others.
    pub fn offer(&self, snapshot: Snapshot) {
        self.0.borrow_mut().offered = Some(snapshot);
    }

    /// Whether a snapshot was asked for in vain since this was last asked.
    pub fn take_wanted(&self) -> bool {
        self.0.borrow().wanted.take()
    }

    /// The newest snapshot kept.
    pub fn offered(&self) -> Option<SnapshotMeta> {
        self.0.borrow().offered.as_ref().map(|snapshot| snapshot.meta.clone())
    }

    /// Drops entries up to and including `through`, by writing the file anew, durably. Not while writes are pending.
    ///
    /// # Errors
    /// Words for what is wrong with `through`.
    pub fn compact(&self, through: Index) -> Result<(), String> {
        let disk = &mut *self.0.borrow_mut();
        if disk.poisoned || disk.full || through < disk.view.log.first_index() {
            return Ok(());
        }
        disk.view.log.compact(through).map_err(|e| format!("compaction through {through}: {e}"))?;
        let mut hard_state = disk.view.log.hard_state();
        hard_state.commit = hard_state.commit.max(through);
        disk.view.log.set_hard_state(hard_state);
        let term = disk.view.log.term(through).map_err(|e| e.to_string())?;
        disk.file.clear();
        let write = LogWrite {
            hard_state: Some(hard_state),
            entries: disk.view.log.all_entries().to_vec(),
            snapshot: None,
            conf_state: Some(disk.view.conf.clone()),
            must_sync: true,
        };
        record::append(&mut disk.file, &Record { base: Some((through, term)), write });
        disk.synced = disk.file.len();
        Ok(())
    }

    /// The index of the stored configuration.
    pub fn conf_index(&self) -> Index {
        self.0.borrow().view.conf.index
    }

    /// For the checkers: whether the running process was told that the entry of this index and term is durable, or has
    /// compacted it away.
    pub fn holds(&self, index: Index, term: Term) -> bool {
        let disk = self.0.borrow();
        index < disk.view.log.first_index() || disk.view.log.term(index) == Ok(term)
    }

    /// For the checkers: hard state as the running process was told.
    pub fn hard_state(&self) -> HardState {
        self.0.borrow().view.log.hard_state()
    }

    /// How often anything was synced.
    pub fn syncs(&self) -> u64 {
        self.0.borrow().syncs
    }

    /// Bytes on the disk, of which the second number is durable.
    pub fn size(&self) -> (usize, usize) {
        let disk = self.0.borrow();
        (disk.file.len(), disk.synced)
    }
}

impl Disk {
    fn refuse_if_poisoned(&self) -> Result<(), LogFault> {
        if self.poisoned { Err(LogFault("it failed before and accepts nothing more".into())) } else { Ok(()) }
    }
}

impl View {
    fn take(&mut self, record: &Record) -> Result<(), String> {
        if let Some((index, term)) = record.base {
            let meta = SnapshotMeta { index, term, conf_state: ConfState::default() };
            self.log = MemStorage::with_snapshot(Snapshot { meta, ..Snapshot::default() });
        }
        self.write(&record.write)
    }

    fn write(&mut self, write: &LogWrite) -> Result<(), String> {
        if let Some(meta) = &write.snapshot {
            self.log.apply_snapshot(Snapshot { meta: meta.clone(), ..Snapshot::default() });
            self.conf = ConfAt { index: meta.index, conf_state: meta.conf_state.clone() };
            let hard_state = self.log.hard_state();
            self.log.set_hard_state(HardState { commit: hard_state.commit.max(meta.index), ..hard_state });
        }
        self.log.append(&write.entries).map_err(|e| format!("entries do not join on: {e}"))?;
        if let Some(hard_state) = write.hard_state {
            let commit = hard_state.commit.max(self.log.hard_state().commit);
            self.log.set_hard_state(HardState { commit, ..hard_state });
        }
        if let Some(conf) = &write.conf_state {
            self.conf = conf.clone();
        }
        self.log.set_conf_state(self.conf.conf_state.clone());
        Ok(())
    }
}

impl Storage for LogDisk {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.0.borrow().view.log.initial_state()
    }

    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        self.0.borrow().view.log.entries(low, high, max_bytes)
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.0.borrow().view.log.term(index)
    }

    fn first_index(&self) -> Index {
        self.0.borrow().view.log.first_index()
    }

    fn last_index(&self) -> Index {
        self.0.borrow().view.log.last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        let disk = self.0.borrow();
        let compacted = disk.view.log.first_index() - 1;
        match &disk.offered {
            Some(snapshot) if snapshot.meta.index >= compacted => Ok(snapshot.clone()),
            _ => {
                disk.wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable)
            }
        }
    }
}

/// All entries a reader sees, by index, for tests and traces.
pub fn terms(disk: &LogDisk) -> BTreeMap<Index, Term> {
    let (low, high) = (disk.first_index(), disk.last_index());
    (low..=high).filter_map(|index| Some((index, disk.term(index).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use telegraft_raft::EntryKind;

    use super::*;

    fn append(index: Index, term: Term) -> LogWrite {
        let data = Bytes::from(vec![b'x'; 40]);
        let entries = vec![Entry { term, index, kind: EntryKind::Normal, data }];
        let hard_state = Some(HardState { term, vote: 1, commit: index - 1 });
        LogWrite { hard_state, entries, must_sync: true, ..LogWrite::default() }
    }

    fn disk() -> LogDisk {
        LogDisk::new(ConfState { voters: vec![1], ..ConfState::default() })
    }

    #[test]
    fn the_reader_sees_what_is_synced_and_a_power_loss_leaves_at_least_that() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let disk = disk();
            disk.write(&[append(1, 1)]).unwrap();
            assert_eq!(disk.last_index(), 0);
            disk.sync().unwrap();
            assert_eq!(disk.last_index(), 1);
            disk.write(&[append(2, 1), append(3, 1)]).unwrap();
            disk.lose_power(&mut rng);
            disk.open().unwrap();
            let survived = disk.last_index();
            assert!((1..=3).contains(&survived));
            // What was seen once stays.
            disk.lose_power(&mut rng);
            disk.open().unwrap();
            assert_eq!(disk.last_index(), survived);
        }
    }

    #[test]
    fn a_killed_process_loses_nothing_that_it_wrote() {
        let disk = disk();
        disk.write(&[append(1, 1)]).unwrap();
        disk.process_died();
        disk.open().unwrap();
        assert_eq!(disk.last_index(), 1);
    }

    #[test]
    fn a_failed_sync_is_never_made_good() {
        let disk = disk();
        disk.write(&[append(1, 1)]).unwrap();
        disk.fail_next(IoError::Failed);
        assert!(disk.sync().is_err() && disk.sync().is_err() && disk.write(&[append(1, 1)]).is_err());
        disk.open().unwrap();
        assert_eq!(disk.last_index(), 0);
        disk.write(&[append(1, 1)]).unwrap();
        disk.sync().unwrap();
        assert_eq!(disk.last_index(), 1);
    }

    #[test]
    fn a_full_disk_leaves_a_torn_write_that_the_next_start_cuts_off() {
        let disk = disk();
        disk.set_full(true);
        assert!(disk.write(&[append(1, 1)]).is_err());
        disk.process_died();
        disk.open().unwrap();
        assert_eq!(disk.last_index(), 0);
    }

    #[test]
    fn any_flipped_bit_keeps_the_process_from_starting() {
        for seed in 0..300 {
            let disk = disk();
            disk.write(&[append(1, 1), append(2, 1)]).unwrap();
            disk.sync().unwrap();
            assert!(disk.flip_bit(&mut fastrand::Rng::with_seed(seed)));
            assert!(matches!(disk.open(), Err(OpenError::Damaged { .. })), "seed {seed}");
        }
    }

    #[test]
    fn compaction_keeps_the_rest_and_the_term_before_it() {
        let disk = disk();
        disk.write(&[append(1, 1), append(2, 2), append(3, 2)]).unwrap();
        disk.sync().unwrap();
        disk.compact(2).unwrap();
        disk.open().unwrap();
        assert_eq!((disk.first_index(), disk.last_index(), disk.term(2)), (3, 3, Ok(2)));
        assert_eq!(disk.initial_state().unwrap().1.voters, [1]);
        assert_eq!(disk.initial_state().unwrap().0, HardState { term: 2, vote: 1, commit: 2 });
        assert_eq!(terms(&disk), BTreeMap::from([(3, 2)]));
    }
}
