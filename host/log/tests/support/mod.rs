//! Short ways to make entries and writes, shared by the log's tests.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::Path;

use bytes::Bytes;
use telegraft_log::{Options, RocksReader, RocksWriter};
use telegraft_node::ports::{ConfAt, LogWrite};
use telegraft_raft::{ConfState, Entry, EntryKind, HardState, Index, SnapshotMeta, Storage, Term};

pub const GROUP: u64 = 1;

pub fn entry(index: Index, term: Term) -> Entry {
    entry_of(index, term, 20)
}

/// An entry whose data says which it is.
pub fn entry_of(index: Index, term: Term, bytes: usize) -> Entry {
    let mut data = format!("{index}/{term} ").into_bytes();
    data.resize(bytes.max(data.len()), b'.');
    Entry { term, index, kind: EntryKind::Normal, data: Bytes::from(data) }
}

pub fn entries(span: std::ops::RangeInclusive<Index>, term: Term) -> Vec<Entry> {
    span.map(|index| entry(index, term)).collect()
}

pub fn hard(term: Term, vote: u64, commit: Index) -> HardState {
    HardState { term, vote, commit }
}

/// A synced write of entries and hard state.
pub fn write(entries: Vec<Entry>, hard_state: HardState) -> LogWrite {
    LogWrite { entries, hard_state: Some(hard_state), must_sync: true, ..LogWrite::default() }
}

pub fn voters(ids: &[u64]) -> ConfState {
    ConfState { voters: ids.to_vec(), ..ConfState::default() }
}

/// A configuration that an entry brought into force.
pub fn conf(index: Index, ids: &[u64]) -> ConfAt {
    ConfAt { index, conf_state: voters(ids) }
}

pub fn snapshot(index: Index, term: Term, conf_state: ConfState) -> SnapshotMeta {
    SnapshotMeta { conf_state, index, term }
}

/// Index and term of all entries, read through the port.
pub fn all(reader: &impl Storage) -> Vec<Entry> {
    reader.entries(reader.first_index(), reader.last_index() + 1, u64::MAX).expect("the log's own range")
}

pub fn small() -> Options {
    Options { memtable_bytes: 64 << 10, ..Options::default() }
}

pub fn open(path: &Path) -> (RocksReader, RocksWriter) {
    telegraft_log::open(path, GROUP, small()).expect("the log opens")
}
