//! A node's durable state as a script sees it: hard state, log, and the state machine's history.
//!
//! The state machine appends each applied entry's data to the state before it, and keeps every state it ever had: the
//! last one is what a snapshot is made from. The store belongs to the interpreter, apart from the core's own log in
//! memory, so that a mistake in one is not hidden by the same mistake in the other.

use bytes::Bytes;
use telegraft_raft::{ConfState, Entry, HardState, Index, Snapshot, SnapshotMeta, Storage, StorageError, Term};

/// Durable state of one node.
#[derive(Clone, Debug)]
pub struct Store {
    hard_state: HardState,
    /// Index and term just before the first entry of the log.
    start: (Index, Term),
    log: Vec<Entry>,
    /// Membership at the last start or snapshot installed; the core reads it at start only.
    conf_state: ConfState,
    /// States of the state machine, oldest first; never empty.
    history: Vec<Snapshot>,
    snapshot_ready: bool,
}

impl Store {
    /// A store that begins with a snapshot; the zero snapshot for an empty one.
    pub fn new(snapshot: Snapshot) -> Self {
        Store {
            hard_state: HardState::default(),
            start: (snapshot.meta.index, snapshot.meta.term),
            log: Vec::new(),
            conf_state: snapshot.meta.conf_state.clone(),
            history: vec![snapshot],
            snapshot_ready: true,
        }
    }

    /// The newest state of the state machine.
    pub fn state(&self) -> Snapshot {
        self.history.last().cloned().unwrap_or_default()
    }

    /// What a restarted node reads: the membership of the newest state of the state machine. Returns the index of that
    /// state, up to which nothing needs to be applied again.
    pub fn reopen(&mut self) -> Index {
        let state = self.state();
        self.conf_state = state.meta.conf_state;
        state.meta.index
    }

    /// Whether a snapshot can be had at once.
    pub fn set_snapshot_ready(&mut self, ready: bool) {
        self.snapshot_ready = ready;
    }

    /// Replaces the hard state.
    pub fn set_hard_state(&mut self, state: HardState) {
        self.hard_state = state;
    }

    /// Installs a snapshot: the log is empty after it, and the state machine continues from it.
    pub fn install(&mut self, snapshot: Snapshot) {
        self.start = (snapshot.meta.index, snapshot.meta.term);
        self.log.clear();
        self.conf_state = snapshot.meta.conf_state.clone();
        self.history.push(snapshot);
    }

    /// Appends entries, in place of whatever the log holds from the first of them on.
    ///
    /// # Errors
    ///
    /// The entries would leave a gap, or are not consecutive.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries.iter().filter(|entry| entry.index > self.start.0) {
            let at = self.position(entry.index).filter(|at| *at <= self.log.len());
            let at = at.ok_or_else(|| {
                format!("entry {}/{} leaves a gap after index {}", entry.term, entry.index, self.last_index())
            })?;
            self.log.truncate(at);
            self.log.push(entry.clone());
        }
        Ok(())
    }

    /// Applies one entry: `data` joins the state, `membership` replaces that of the state before where it changed.
    pub fn apply(&mut self, entry: &Entry, data: &[u8], membership: Option<ConfState>) {
        let before = self.state();
        let conf_state = membership.unwrap_or(before.meta.conf_state);
        let data = Bytes::from([before.data.as_ref(), data].concat());
        let meta = SnapshotMeta { conf_state, index: entry.index, term: entry.term };
        self.history.push(Snapshot { meta, data });
    }

    /// Drops the log up to and including `index`.
    ///
    /// # Errors
    ///
    /// The index is compacted already, or not in the log.
    pub fn compact(&mut self, index: Index) -> Result<(), StorageError> {
        if index <= self.start.0 {
            return Err(StorageError::Compacted);
        }
        let term = self.term(index)?;
        self.log.retain(|entry| entry.index > index);
        self.start = (index, term);
        Ok(())
    }

    /// The whole log.
    pub fn log(&self) -> &[Entry] {
        &self.log
    }

    /// Position of an index above the start in `log`.
    fn position(&self, index: Index) -> Option<usize> {
        usize::try_from(index.checked_sub(self.start.0 + 1)?).ok()
    }
}

impl Storage for Store {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.hard_state, self.conf_state.clone()))
    }

    fn entries(&self, low: Index, high: Index, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        let low = self.position(low).ok_or(StorageError::Compacted)?;
        let high = self.position(high).ok_or(StorageError::Compacted)?;
        let range = self.log.get(low..high).ok_or(StorageError::Unavailable)?;
        let mut bytes = 0_u64;
        let taken = range.iter().take_while(|entry| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(entry.size().max(1));
            first || bytes <= max_bytes
        });
        Ok(taken.cloned().collect())
    }

    fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index == self.start.0 {
            return Ok(self.start.1);
        }
        let at = self.position(index).ok_or(StorageError::Compacted)?;
        self.log.get(at).map(|entry| entry.term).ok_or(StorageError::Unavailable)
    }

    fn first_index(&self) -> Index {
        self.start.0 + 1
    }

    fn last_index(&self) -> Index {
        self.start.0 + self.log.len() as u64
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        if self.snapshot_ready { Ok(self.state()) } else { Err(StorageError::SnapshotTemporarilyUnavailable) }
    }
}
