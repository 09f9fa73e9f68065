//! One suite for every log behind the port: in memory, in RocksDB, and in RocksDB with so small a cache that everything
//! is read from the database.

mod support;

use support::*;
use telegraft_log::Options;
use telegraft_node::ports::{LogReader, LogWrite, LogWriter};
use telegraft_raft::{Entry, EntryKind, StorageError};

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod in_memory {
            $(#[test] fn $case() { let (reader, writer) = telegraft_log::memory(); super::$case(reader, writer); })*
        }
        mod in_rocksdb {
            $(#[test] fn $case() { super::with_rocksdb(super::small(), |reader, writer| super::$case(reader, writer)); })*
        }
        mod in_rocksdb_uncached {
            $(#[test] fn $case() {
                let options = super::Options { tail_cache_bytes: 0, ..super::small() };
                super::with_rocksdb(options, |reader, writer| super::$case(reader, writer));
            })*
        }
    };
}

conformance![
    a_new_log_is_empty,
    what_was_written_is_read,
    a_batch_is_written_in_order,
    a_diverged_tail_is_replaced,
    a_read_is_cut_at_its_byte_limit,
    compaction_keeps_the_term_at_its_point,
    compaction_to_the_tip_leaves_an_empty_log_that_goes_on,
    compaction_is_done_once,
    a_snapshot_empties_the_log,
    a_snapshot_and_the_entries_after_it_come_in_one_write,
    a_snapshot_is_offered_until_the_log_is_compacted_beyond_it,
    gaps_are_refused,
    entries_that_are_not_consecutive_are_refused,
    committed_entries_are_never_replaced,
    compacted_entries_are_never_written,
    a_snapshot_never_drops_committed_entries,
    a_configuration_never_goes_back,
    uncommitted_entries_are_never_compacted,
    terms_never_go_back,
    votes_never_change_within_a_term,
    commit_never_goes_back_nor_beyond_the_log,
    a_refused_batch_leaves_no_trace_and_poisons,
];

fn with_rocksdb(options: Options, case: impl FnOnce(telegraft_log::RocksReader, telegraft_log::RocksWriter)) {
    let folder = tempfile::tempdir().expect("a folder");
    let (reader, writer) = telegraft_log::open(&folder.path().join("log"), GROUP, options).expect("the log opens");
    case(reader, writer);
}

fn a_new_log_is_empty(reader: impl LogReader, mut writer: impl LogWriter) {
    assert_eq!(reader.initial_state(), Ok((hard(0, 0, 0), voters(&[]))));
    assert_eq!((reader.first_index(), reader.last_index()), (1, 0));
    assert_eq!(reader.term(0), Ok(0));
    assert_eq!(reader.term(1), Err(StorageError::Unavailable));
    assert_eq!(reader.entries(1, 1, 100), Ok(vec![]));
    assert_eq!(reader.entries(1, 2, 100), Err(StorageError::Unavailable));
    assert_eq!(reader.entries(0, 1, 100), Err(StorageError::Compacted));
    assert_eq!(reader.snapshot(), Err(StorageError::SnapshotTemporarilyUnavailable));
    writer.write(&[]).unwrap();
    writer.write(&[LogWrite { must_sync: true, ..LogWrite::default() }]).unwrap();
    assert_eq!((reader.first_index(), reader.last_index()), (1, 0));
}

fn what_was_written_is_read(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[LogWrite { conf_state: Some(conf(0, &[1, 2, 3])), ..LogWrite::default() }]).unwrap();
    let mut written = entries(1..=5, 1);
    written[1].kind = EntryKind::ConfChange;
    written[2].kind = EntryKind::ConfChangeV2;
    written[3].data.clear();
    writer.write(&[write(written.clone(), hard(1, 2, 0))]).unwrap();
    writer.write(&[LogWrite { hard_state: Some(hard(1, 2, 3)), ..LogWrite::default() }]).unwrap();
    assert_eq!(all(&reader), written);
    assert_eq!(reader.clone().entries(2, 4, u64::MAX).unwrap(), &written[1..3]);
    assert_eq!(reader.entries(4, 3, u64::MAX), Err(StorageError::Unavailable));
    assert_eq!(reader.initial_state(), Ok((hard(1, 2, 3), voters(&[1, 2, 3]))));
    assert_eq!(reader.term(4), Ok(1));
    assert_eq!(reader.term(6), Err(StorageError::Unavailable));
}

fn a_batch_is_written_in_order(reader: impl LogReader, mut writer: impl LogWriter) {
    writer
        .write(&[
            write(entries(1..=4, 1), hard(1, 1, 0)),
            write(entries(3..=6, 2), hard(2, 0, 1)),
            write(entries(5..=5, 3), hard(3, 7, 4)),
            write(entries(6..=6, 3), hard(3, 7, 4)),
        ])
        .unwrap();
    let expected = [entries(1..=2, 1), entries(3..=4, 2), entries(5..=6, 3)].concat();
    assert_eq!(all(&reader), expected);
    assert_eq!(reader.initial_state().unwrap().0, hard(3, 7, 4));
}

fn a_diverged_tail_is_replaced(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=9, 1), hard(1, 0, 2))]).unwrap();
    writer.write(&[write(entries(4..=5, 3), hard(3, 0, 2))]).unwrap();
    assert_eq!(all(&reader), [entries(1..=3, 1), entries(4..=5, 3)].concat());
    assert_eq!(reader.last_index(), 5);
    assert_eq!(reader.term(6), Err(StorageError::Unavailable));
    // What was cut off must not come back when the log grows over it.
    writer.write(&[write(entries(6..=6, 3), hard(3, 0, 2))]).unwrap();
    assert_eq!(all(&reader), [entries(1..=3, 1), entries(4..=6, 3)].concat());
    assert_eq!(reader.entries(7, 8, u64::MAX), Err(StorageError::Unavailable));
}

fn a_read_is_cut_at_its_byte_limit(reader: impl LogReader, mut writer: impl LogWriter) {
    let written: Vec<Entry> = (1..=4).map(|index| entry_of(index, 1, 100)).collect();
    let size = written[0].size();
    writer.write(&[write(written.clone(), hard(1, 0, 0))]).unwrap();
    for (limit, count) in [(0, 1), (1, 1), (2 * size - 1, 1), (2 * size, 2), (3 * size + 1, 3), (u64::MAX, 4)] {
        assert_eq!(reader.entries(1, 5, limit).unwrap(), &written[..count], "limit {limit}");
    }
    assert_eq!(reader.entries(2, 4, u64::MAX).unwrap(), &written[1..3]);
}

fn compaction_keeps_the_term_at_its_point(reader: impl LogReader, mut writer: impl LogWriter) {
    let written = [entries(1..=3, 1), entries(4..=8, 2)].concat();
    writer.write(&[write(written.clone(), hard(2, 0, 6))]).unwrap();
    writer.compact(4).unwrap();
    assert_eq!((reader.first_index(), reader.last_index()), (5, 8));
    assert_eq!(reader.term(4), Ok(2));
    assert_eq!(reader.term(3), Err(StorageError::Compacted));
    assert_eq!(reader.entries(4, 6, u64::MAX), Err(StorageError::Compacted));
    assert_eq!(all(&reader), &written[4..]);
    assert_eq!(reader.initial_state().unwrap().0, hard(2, 0, 6));
}

fn compaction_to_the_tip_leaves_an_empty_log_that_goes_on(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 4), hard(4, 0, 5))]).unwrap();
    writer.compact(5).unwrap();
    assert_eq!((reader.first_index(), reader.last_index()), (6, 5));
    assert_eq!(reader.term(5), Ok(4));
    assert_eq!(all(&reader), []);
    writer.write(&[write(entries(6..=7, 4), hard(4, 0, 6))]).unwrap();
    assert_eq!(all(&reader), entries(6..=7, 4));
}

fn compaction_is_done_once(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 1), hard(1, 0, 5))]).unwrap();
    writer.compact(3).unwrap();
    writer.compact(3).unwrap();
    writer.compact(1).unwrap();
    writer.compact(0).unwrap();
    assert_eq!(reader.first_index(), 4);
}

fn a_snapshot_empties_the_log(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=9, 1), hard(1, 0, 3))]).unwrap();
    let install = LogWrite {
        snapshot: Some(snapshot(6, 2, voters(&[4, 5]))),
        hard_state: Some(hard(2, 0, 6)),
        must_sync: true,
        ..LogWrite::default()
    };
    writer.write(&[install]).unwrap();
    assert_eq!((reader.first_index(), reader.last_index()), (7, 6));
    assert_eq!(reader.term(6), Ok(2));
    assert_eq!(reader.term(7), Err(StorageError::Unavailable));
    assert_eq!(reader.initial_state(), Ok((hard(2, 0, 6), voters(&[4, 5]))));
    assert_eq!(reader.conf_index(), 6);
    assert_eq!(all(&reader), []);
}

fn a_snapshot_and_the_entries_after_it_come_in_one_write(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=3, 1), hard(2, 0, 0))]).unwrap();
    let install = LogWrite {
        snapshot: Some(snapshot(10, 2, voters(&[1]))),
        entries: entries(11..=13, 2),
        // The core made this before it knew the snapshot's index.
        hard_state: Some(hard(2, 0, 0)),
        conf_state: Some(conf(11, &[1, 2])),
        must_sync: true,
    };
    writer.write(&[install, write(entries(13..=14, 3), hard(3, 0, 11))]).unwrap();
    assert_eq!(all(&reader), [entries(11..=12, 2), entries(13..=14, 3)].concat());
    assert_eq!(reader.initial_state(), Ok((hard(3, 0, 11), voters(&[1, 2]))));
    assert_eq!(reader.conf_index(), 11);
}

fn a_snapshot_is_offered_until_the_log_is_compacted_beyond_it(reader: impl LogReader, mut writer: impl LogWriter) {
    let taken = snapshot(6, 2, voters(&[4, 5]));
    writer
        .write(&[
            LogWrite { hard_state: Some(hard(2, 0, 0)), ..LogWrite::default() },
            LogWrite { snapshot: Some(taken.clone()), ..LogWrite::default() },
            write(entries(7..=9, 2), hard(2, 0, 9)),
        ])
        .unwrap();
    assert_eq!(reader.snapshot().unwrap().meta, taken);
    writer.compact(7).unwrap();
    assert_eq!(reader.snapshot(), Err(StorageError::SnapshotTemporarilyUnavailable));
}

fn a_configuration_never_goes_back(reader: impl LogReader, mut writer: impl LogWriter) {
    let configure = |index, ids: &[u64]| LogWrite { conf_state: Some(conf(index, ids)), ..LogWrite::default() };
    writer.write(&[configure(4, &[1, 2]), configure(7, &[1, 2, 3])]).unwrap();
    assert_eq!(reader.conf_index(), 7);
    refused(&mut writer, &[configure(4, &[1])], "the configuration would go back from entry 7 to 4");
}

/// The write must fail with `words`, and so must everything after it.
fn refused(writer: &mut impl LogWriter, writes: &[LogWrite], words: &str) {
    let fault = writer.write(writes).expect_err("the write was accepted");
    assert!(fault.0.contains(words), "{fault}");
    let later = writer.write(&[]).expect_err("the log goes on after a failure");
    assert!(later.0.contains("failed before") && later.0.contains(words), "{later}");
    assert_eq!(writer.compact(0), Err(later));
}

fn gaps_are_refused(_: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=3, 1), hard(1, 0, 0))]).unwrap();
    refused(&mut writer, &[write(entries(5..=6, 1), hard(1, 0, 0))], "entry 5 would leave a gap: the log ends at 3");
}

fn entries_that_are_not_consecutive_are_refused(_: impl LogReader, mut writer: impl LogWriter) {
    let holed = vec![entry(1, 1), entry(2, 1), entry(4, 1)];
    refused(&mut writer, &[write(holed, hard(1, 0, 0))], "not consecutive: 2 is followed by 4");
}

fn committed_entries_are_never_replaced(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 1), hard(1, 0, 3))]).unwrap();
    writer.write(&[write(entries(4..=4, 2), hard(2, 0, 3))]).unwrap();
    refused(&mut writer, &[write(entries(3..=6, 2), hard(2, 0, 3))], "entry 3 would replace a committed entry");
    assert_eq!(reader.term(3), Ok(1));
}

fn compacted_entries_are_never_written(_: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 1), hard(1, 0, 4))]).unwrap();
    writer.compact(4).unwrap();
    refused(&mut writer, &[write(entries(4..=6, 1), hard(1, 0, 4))], "compacted up to 4");
}

fn a_snapshot_never_drops_committed_entries(_: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 1), hard(1, 0, 5))]).unwrap();
    let install = LogWrite { snapshot: Some(snapshot(4, 1, voters(&[1]))), ..LogWrite::default() };
    refused(&mut writer, &[install], "snapshot at index 4 would drop entries that are committed");
}

fn uncommitted_entries_are_never_compacted(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 1), hard(1, 0, 3))]).unwrap();
    let fault = writer.compact(4).expect_err("accepted");
    assert!(fault.0.contains("compaction up to 4 would drop entries that are not committed"), "{fault}");
    assert!(writer.compact(3).is_err(), "the log goes on after a failure");
    assert_eq!(all(&reader), entries(1..=5, 1));
}

fn terms_never_go_back(_: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 3), hard(3, 0, 0))]).unwrap();
    let back_in_log = [write(entries(6..=6, 2), hard(3, 0, 0))];
    refused(&mut writer, &back_in_log, "entry 6 has term 2, but the entry before it has term 3");

    for (write, words) in [
        (write(vec![], hard(2, 0, 0)), "the term would go back from 3 to 2"),
        (write(entries(1..=1, 4), hard(3, 0, 0)), "newer than the hard state's term 3"),
    ] {
        let (_, mut writer) = telegraft_log::memory();
        writer.write(&[LogWrite { hard_state: Some(hard(3, 0, 0)), ..LogWrite::default() }]).unwrap();
        refused(&mut writer, &[write], words);
    }
}

fn votes_never_change_within_a_term(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(vec![], hard(1, 0, 0)), write(vec![], hard(1, 2, 0))]).unwrap();
    writer.write(&[write(vec![], hard(2, 3, 0))]).unwrap();
    assert_eq!(reader.initial_state().unwrap().0, hard(2, 3, 0));
    refused(&mut writer, &[write(vec![], hard(2, 1, 0))], "the vote of term 2 would change from 3 to 1");
}

fn commit_never_goes_back_nor_beyond_the_log(_: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 1), hard(1, 0, 4))]).unwrap();
    refused(&mut writer, &[write(vec![], hard(1, 0, 3))], "the commit index would go back from 4 to 3");
    let (_, mut writer) = telegraft_log::memory();
    refused(&mut writer, &[write(entries(1..=2, 1), hard(1, 0, 3))], "commit index 3 is beyond the log's last entry 2");
}

fn a_refused_batch_leaves_no_trace_and_poisons(reader: impl LogReader, mut writer: impl LogWriter) {
    writer.write(&[write(entries(1..=5, 1), hard(1, 0, 2))]).unwrap();
    let sound = write(entries(4..=6, 2), hard(2, 1, 3));
    refused(&mut writer, &[sound, write(entries(8..=8, 2), hard(2, 1, 3))], "entry 8 would leave a gap");
    assert_eq!(all(&reader), entries(1..=5, 1));
    assert_eq!(reader.initial_state().unwrap().0, hard(1, 0, 2));
}
