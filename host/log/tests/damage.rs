//! What the log says when something on the disk is not as it was written: which entry, where; and never a log that is
//! merely shorter.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::*;
use telegraft_log::OpenError;
use telegraft_node::ports::{LogWrite, LogWriter};
use telegraft_raft::{Index, Storage};

const LAST: Index = 300;

/// A log of entries 1 to `LAST` in one batch each, all committed but the last, all in the write-ahead file.
fn written(folder: &Path) -> PathBuf {
    let path = folder.join("log");
    let (_, mut writer) = open(&path);
    for index in 1..=LAST {
        writer.write(&[write(vec![entry_of(index, 1, 100)], hard(1, 2, index - 1))]).unwrap();
    }
    path
}

/// The same, moved into table files: opening writes what was recovered into one.
fn written_in_tables(folder: &Path) -> PathBuf {
    let path = written(folder);
    drop(open(&path));
    path
}

fn files(path: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(path)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|file| {
            file.extension().is_some_and(|found| found == extension) && fs::metadata(file).unwrap().len() > 0
        })
        .collect();
    files.sort();
    files
}

/// Where the data of an entry stands in a file.
fn find(bytes: &[u8], index: Index) -> usize {
    let needle = format!("{index}/1 ...");
    bytes.windows(needle.len()).position(|window| window == needle.as_bytes()).expect("the entry is in the file")
}

fn corrupt(path: &Path) -> String {
    match telegraft_log::open(path, GROUP, small()).err().expect("a damaged log was opened") {
        OpenError::Corrupt { what, .. } => what,
        other => panic!("not called damage: {other}"),
    }
}

#[test]
fn a_flipped_bit_in_the_write_ahead_file_names_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let file = files(&path, "log").pop().unwrap();
    let sound = fs::read(&file).unwrap();
    // In the middle, and in the very last entry: neither may pass for a torn end.
    for index in [150, LAST] {
        let mut bytes = sound.clone();
        bytes[find(&sound, index)] ^= 0x10;
        fs::write(&file, &bytes).unwrap();
        let what = corrupt(&path);
        assert!(what.contains("checksum does not fit"), "{what}");
        assert!(what.contains(&format!("those from index {index} on are damaged or missing")), "{what}");
    }
    // A refusal changes nothing: the sound bytes still make a sound log.
    fs::write(&file, &sound).unwrap();
    assert_eq!(open(&path).0.last_index(), LAST);
}

/// The two flips that RocksDB itself takes for a torn end, dropping all that follows.
#[test]
fn a_flipped_bit_in_a_record_header_is_not_taken_for_a_torn_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let file = files(&path, "log").pop().unwrap();
    let sound = fs::read(&file).unwrap();
    let before = find(&sound, LAST - 10);
    let data = find(&sound, LAST - 9);
    // The header in front of the next record: type 1 (whole), a length that spans to the record after it.
    let spacing = data - before;
    let header = (before..data)
        .find(|at| sound[at + 6] == 1 && usize::from(u16::from_le_bytes([sound[at + 4], sound[at + 5]])) + 7 == spacing)
        .expect("a record's header");
    for (what, position, flip) in [("length", header + 5, 0x80), ("type", header + 6, 0x04)] {
        let mut bytes = sound.clone();
        bytes[position] ^= flip;
        fs::write(&file, &bytes).unwrap();
        let said = corrupt(&path);
        assert!(said.contains("write-ahead file") && said.contains("from index"), "{what}: {said}");
    }
}

#[test]
fn a_torn_end_costs_only_the_write_that_was_torn() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let file = files(&path, "log").pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    let cut = find(&bytes, LAST) + 50;
    for (tail, name) in [(&[][..], "cut short"), (&[0; 5000][..], "followed by space that was set aside")] {
        let copy = folder.path().join(name);
        fs::create_dir(&copy).unwrap();
        for item in fs::read_dir(&path).unwrap() {
            let item = item.unwrap();
            fs::copy(item.path(), copy.join(item.file_name())).unwrap();
        }
        let kept = if tail.is_empty() { cut } else { bytes.len() };
        fs::write(copy.join(file.file_name().unwrap()), [&bytes[..kept], tail].concat()).unwrap();
        let (reader, mut writer) = open(&copy);
        let last = if tail.is_empty() { LAST - 1 } else { LAST };
        assert_eq!((reader.last_index(), reader.initial_state().unwrap().0), (last, hard(1, 2, last - 1)), "{name}");
        writer.write(&[write(entries(last + 1..=last + 2, 1), hard(1, 2, last + 1))]).unwrap();
        drop((reader, writer));
        assert_eq!(open(&copy).0.last_index(), last + 2, "{name}");
    }
}

#[test]
fn a_flipped_bit_in_a_table_names_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = written_in_tables(folder.path());
    let (file, bytes, position) = files(&path, "sst")
        .into_iter()
        .find_map(|file| {
            let bytes = fs::read(&file).unwrap();
            // The tables are compressed, but the first entry's data stands there in clear.
            let position = bytes.windows(4).position(|window| window == b"1/1 ")?;
            Some((file, bytes, position))
        })
        .expect("a table of entries");
    let mut damaged = bytes.clone();
    damaged[position + 1] ^= 0x01;
    fs::write(&file, &damaged).unwrap();
    let what = corrupt(&path);
    assert!(what.starts_with("entry 1 cannot be read: Corruption"), "{what}");

    fs::write(&file, &bytes).unwrap();
    assert_eq!(open(&path).0.last_index(), LAST);
}

/// Damage that RocksDB's checksums do not see, because it was written so: our own see it.
#[test]
fn a_stored_value_that_was_changed_names_the_entry() {
    type Tamper = fn(&rocksdb::DB, &rocksdb::ColumnFamily);
    fn key(index: Index) -> Vec<u8> {
        [&GROUP.to_be_bytes()[..], b"e", &index.to_be_bytes()].concat()
    }
    fn state_key(tag: &[u8; 1]) -> Vec<u8> {
        [&GROUP.to_be_bytes()[..], tag].concat()
    }
    let cases: [(Tamper, &str); 8] = [
        (
            |db, _| {
                let mut value = db.get(key(17)).unwrap().unwrap();
                value[30] ^= 1;
                db.put(key(17), value).unwrap();
            },
            "entry 17 is damaged: its checksum is",
        ),
        (|db, _| db.put(key(17), db.get(key(18)).unwrap().unwrap()).unwrap(), "entry 17 is damaged: its checksum is"),
        (|db, _| db.delete(key(17)).unwrap(), "entry 17 is missing: the next one there is 18"),
        (|db, _| db.delete(key(1)).unwrap(), "entry 1 is missing: the next one there is 2"),
        (
            |db, _| db.delete_range_cf(db.cf_handle("default").unwrap(), key(290), key(LAST + 1)).unwrap(),
            "entries 290 to 299 are committed, but the log ends at 289",
        ),
        (|db, state| db.put_cf(state, state_key(b"h"), [7; 28]).unwrap(), "the hard state (term, vote, commit)"),
        (|db, state| db.delete_cf(state, state_key(b"h")).unwrap(), "entry 300 has term 1, but the newest term"),
        (|db, state| db.delete_cf(state, "format").unwrap(), "the format record is missing"),
    ];
    for (tamper, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, ["default", "state"]).unwrap();
        tamper(&db, db.cf_handle("state").unwrap());
        drop(db);
        let what = corrupt(&path);
        assert!(what.contains(words), "{what}");
    }
}

#[test]
fn a_lost_file_is_damage() {
    for (extension, lost) in [("", "CURRENT"), ("sst", "")] {
        let folder = tempfile::tempdir().unwrap();
        let path = written_in_tables(folder.path());
        let file = if lost.is_empty() { files(&path, extension).pop().unwrap() } else { path.join(lost) };
        fs::remove_file(&file).unwrap();
        let error = telegraft_log::open(&path, GROUP, small()).err().expect("opened without one of its files");
        assert!(matches!(error, OpenError::Corrupt { .. } | OpenError::Store { .. }), "{error}");
    }
}

#[test]
fn folders_that_are_no_log_of_ours_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let said = |path: &Path| telegraft_log::open(path, GROUP, small()).err().expect("opened").to_string();

    let missing = said(&folder.path().join("nowhere/log"));
    assert!(missing.contains("parent folder does not exist"), "{missing}");

    fs::write(folder.path().join("file"), "x").unwrap();
    let file = said(&folder.path().join("file"));
    assert!(file.contains("is not a folder"), "{file}");

    let foreign = said(folder.path());
    assert!(foreign.contains("holds \"file\""), "{foreign}");

    let other_group = folder.path().join("group 2");
    drop(telegraft_log::open(&other_group, 2, small()).unwrap());
    let wrong = said(&other_group);
    assert!(wrong.contains("the log of group 2, not of group 1"), "{wrong}");

    let twice = folder.path().join("twice");
    let held = open(&twice);
    let locked = said(&twice);
    assert!(locked.contains("is in use"), "{locked}");
    drop(held);
    drop(open(&twice));
}

#[test]
fn a_log_of_a_later_format_is_refused_by_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, ["default", "state"]).unwrap();
    db.put_cf(db.cf_handle("state").unwrap(), "format", b"TGLG\0\0\0\x03whatever comes then").unwrap();
    drop(db);
    let error = telegraft_log::open(&path, GROUP, small()).err().expect("opened");
    assert!(matches!(error, OpenError::Format { found: 3, expected: 2, .. }), "{error}");
}

#[test]
fn compacted_entries_give_their_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (reader, mut writer) = open(&path);
    let mut random = Vec::new();
    let mut state = 88_172_645_463_325_252_u64;
    for index in 1..=2_000 {
        let mut entry = entry_of(index, 1, 0);
        random.clear();
        for _ in 0..256 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            random.extend(state.to_le_bytes());
        }
        entry.data = random.clone().into();
        writer.write(&[LogWrite { must_sync: false, ..write(vec![entry], hard(1, 2, index - 1)) }]).unwrap();
    }
    assert!(reader.stats().stored_bytes > 3_000_000, "{:?}", reader.stats());
    writer.compact(1_990).unwrap();
    assert_eq!(reader.stats().entries, 10);
    drop((reader, writer));
    let (reader, _writer) = open(&path);
    assert_eq!((reader.first_index(), reader.last_index(), reader.term(1_990)), (1_991, 2_000, Ok(1)));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while reader.stats().stored_bytes > 1_500_000 {
        assert!(std::time::Instant::now() < deadline, "{:?}", reader.stats());
        std::thread::yield_now();
    }
}
