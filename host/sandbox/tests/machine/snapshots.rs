//! Snapshots, and what of a machine survives: restored states are the same states, and nothing else is taken for one.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use telegraft_node::ports::{Code, Machine, Outcome, Queries};
use telegraft_raft::{ConfState, Snapshot, SnapshotMeta};

use telegraft_sandbox::open;

use crate::probe::{
    PROBE, Probe, Rig, activation, call, chunk, code, command, entry, number, sandbox, whole, with_session,
};

const INSERT: &str = "INSERT INTO t(v) VALUES (NULL)";

impl Rig {
    fn take(&mut self) -> Snapshot {
        let conf_state = ConfState {
            voters: vec![1, 2, u64::MAX],
            learners: vec![4],
            voters_outgoing: vec![5],
            learners_next: vec![6],
            auto_leave: true,
        };
        let meta = SnapshotMeta { conf_state, index: self.machine.applied_index(), term: u64::MAX - 1 };
        Snapshot { meta, data: self.machine.snapshot().expect("snapshot") }
    }

    fn insert(&mut self, times: u64) {
        for _ in 0..times {
            self.one(call("exec", INSERT)).unwrap();
        }
    }

    fn session(&mut self, request: u64, sql: &str) -> Outcome {
        let command = with_session(command(self.next(), call("exec", sql)), "client", request);
        self.command(command)
    }

    /// Names of the files in the machine's folder.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.dir)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("machine."))
            .collect();
        names.sort();
        names
    }

    fn refused(&mut self, snapshot: &Snapshot) -> String {
        self.machine.restore(snapshot).expect_err("refused").0
    }
}

fn with(snapshot: &Snapshot, data: impl Into<Bytes>) -> Snapshot {
    Snapshot { meta: snapshot.meta.clone(), data: data.into() }
}

/// A snapshot around this database, with a right head and sum.
fn around(meta: &SnapshotMeta, database: &[u8]) -> Snapshot {
    let mut data = b"TGSNAP01".to_vec();
    data.extend_from_slice(&meta.index.to_le_bytes());
    data.extend_from_slice(&(database.len() as u64).to_le_bytes());
    let sum = Sha256::new().chain_update(&data).chain_update(database).finalize();
    data.extend_from_slice(&sum);
    data.extend_from_slice(database);
    Snapshot { meta: meta.clone(), data: data.into() }
}

/// A machine with modules, an unfinished upload, sessions and a table of its own.
fn furnished() -> Rig {
    let mut rig = Rig::probe();
    let second = Probe { version: "2", ..PROBE }.build();
    rig.one(whole(&second)).unwrap();
    let third = Probe { version: "3", ..PROBE }.build();
    rig.one(chunk(&third, 0, 100)).unwrap();
    rig.one(call("exec", "CREATE TABLE w(a, b, PRIMARY KEY (b, a)) WITHOUT ROWID")).unwrap();
    rig.one(call("exec", "INSERT INTO w VALUES (2, x'00'), (1.5, 'z')")).unwrap();
    rig.insert(20);
    rig.one(call("exec", "DELETE FROM t WHERE k % 3 = 0")).unwrap();
    rig.session(1, INSERT).unwrap();
    assert!(rig.session(2, "INSERT INTO t VALUES (1, 'x')").is_err());
    rig
}

#[test]
fn a_restored_machine_is_the_same_and_goes_on_the_same_way() {
    let mut one = furnished();
    let snapshot = one.take();
    assert_eq!(one.files(), ["machine.db", "machine.db-shm", "machine.db-wal"]);
    let mut other = Rig::empty();
    assert_eq!(other.machine.restored_from(), None);
    other.machine.restore(&snapshot).unwrap();
    assert_eq!(other.machine.applied_index(), snapshot.meta.index);
    assert_eq!(other.digest(), one.digest());
    assert_eq!(other.machine.restored_from().as_ref(), Some(&snapshot.meta));
    assert_eq!(other.reader.modules().unwrap(), one.reader.modules().unwrap());
    let active = |rig: &Rig| rig.reader.active().map(|active| active.record.clone());
    assert_eq!(active(&other), active(&one));
    assert!(active(&one).is_some());

    let later = |rig: &mut Rig| {
        let third = Probe { version: "3", ..PROBE }.build();
        vec![
            rig.session(1, INSERT),
            rig.session(2, "INSERT INTO t VALUES (1, 'x')"),
            rig.session(2, INSERT),
            rig.session(3, INSERT),
            rig.one(call("context", "")),
            rig.one(chunk(&third, 100, third.len())),
            rig.one(activation(&third, true)),
            rig.one(call("exec", "INSERT INTO t(v) SELECT 'x' || k FROM t LIMIT 3")),
        ]
    };
    let outcomes = later(&mut one);
    assert_eq!(later(&mut other), outcomes);
    // The first retry was answered, not applied.
    assert_eq!(number(&outcomes[0]), 1);
    assert_eq!(code(&outcomes[2]), Some(Code::InvalidArgument));
    assert_eq!(other.digest(), one.digest());

    let (one, mut other) = (one.reopen(), other.reopen());
    assert_eq!(other.digest(), one.digest());
    assert_eq!(other.machine.restored_from().as_ref(), Some(&snapshot.meta));
    // It may be handed on: what it was restored from is the host's own matter.
    let again = other.take();
    let mut third = Rig::empty();
    third.machine.restore(&again).unwrap();
    assert_eq!(third.digest(), one.digest());
    assert_eq!(third.reopen().machine.restored_from(), Some(again.meta));
}

#[test]
fn a_snapshot_replaces_an_older_state_whole() {
    let mut one = furnished();
    let snapshot = one.take();
    let mut other = Rig::probe();
    other.one(call("exec", "CREATE TABLE gone(x)")).unwrap();
    other.session(1, "INSERT INTO gone VALUES (1)").unwrap();
    other.machine.restore(&snapshot).unwrap();
    assert_eq!(other.digest(), one.digest());
    let outcome = other.one(call("exec", "INSERT INTO gone VALUES (2)"));
    assert!(outcome.is_err(), "{outcome:?}");
    let other = other.reopen();
    let before = other.digest();
    one.one(call("exec", "INSERT INTO gone VALUES (2)")).unwrap_err();
    assert_eq!(before, one.digest());
}

#[test]
fn a_machine_without_a_module_can_be_handed_on_too() {
    let mut one = Rig::empty();
    one.one(call("exec", INSERT)).unwrap_err();
    let snapshot = one.take();
    let mut other = Rig::empty();
    other.machine.restore(&snapshot).unwrap();
    assert_eq!((other.machine.applied_index(), other.digest()), (1, one.digest()));
    assert!(other.reader.active().is_none());
}

#[test]
fn a_snapshot_at_or_below_the_applied_index_changes_nothing() {
    let mut one = furnished();
    let snapshot = one.take();
    let digest = one.digest();
    one.machine.restore(&snapshot).unwrap();
    one.insert(1);
    one.machine.restore(&snapshot).unwrap();
    assert_ne!(one.digest(), digest);
    assert_eq!(one.machine.applied_index(), snapshot.meta.index + 1);
    // Not even where it is damaged: it is not looked at.
    one.machine.restore(&with(&snapshot, Bytes::new())).unwrap();
    assert_eq!(one.machine.restored_from(), None);
}

#[test]
fn damaged_snapshots_are_refused_and_the_old_state_is_kept() {
    let mut one = furnished();
    one.insert(30);
    let snapshot = one.take();
    let mut other = furnished();
    let before = (other.machine.applied_index(), other.digest());
    let data = &snapshot.data;
    for len in [0, 7, 8, 55, 56, 57, 4_095, data.len() / 2, data.len() - 1] {
        let fault = other.refused(&with(&snapshot, data.slice(..len)));
        assert!(fault.contains("is refused"), "{len}: {fault}");
    }
    let step = data.len() / 200;
    for at in (0..data.len()).step_by(step).chain(0..56) {
        let mut damaged = data.to_vec();
        damaged[at] ^= 1 << (at % 8);
        let fault = other.refused(&with(&snapshot, damaged));
        assert!(fault.contains("is refused"), "{at}: {fault}");
    }
    let mut longer = data.to_vec();
    longer.push(0);
    assert!(other.refused(&with(&snapshot, longer)).contains("is refused"));
    // A sound state of another index.
    let mut elsewhere = snapshot.clone();
    elsewhere.meta.index += 1;
    assert!(other.refused(&elsewhere).contains("a state at index"), "{}", other.refused(&elsewhere));

    assert_eq!((other.machine.applied_index(), other.digest()), before);
    assert_eq!(other.files(), ["machine.db", "machine.db-shm", "machine.db-wal"]);
    other.insert(1);
    let mut other = other.reopen();
    assert_eq!((other.machine.applied_index(), other.machine.restored_from()), (before.0 + 1, None));
    other.machine.restore(&snapshot).unwrap();
    assert_eq!(other.digest(), one.digest());
}

/// With the right sum, so what is inside is looked at.
#[test]
fn databases_that_are_no_machines_state_are_refused() {
    let mut one = furnished();
    one.insert(30);
    let snapshot = one.take();
    let database = &snapshot.data[56..];
    let mut other = furnished();
    let before = other.digest();
    assert!(other.refused(&around(&snapshot.meta, b"")).contains("no machine's state"));
    assert!(other.refused(&around(&snapshot.meta, &[0x5a; 8_192])).contains("no machine's state"));
    // Its middle page is another's.
    let mut torn = database.to_vec();
    let middle = torn.len() / 8_192 * 4_096;
    torn[middle..middle + 4_096].fill(0x33);
    assert!(other.refused(&around(&snapshot.meta, &torn)).contains("no machine's state"));
    let folder = tempfile::tempdir().unwrap();
    let changed = |sql: &str| {
        let path = folder.path().join("changed.db");
        fs::write(&path, database).unwrap();
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
        conn.execute_batch(sql).unwrap();
        drop(conn);
        around(&snapshot.meta, &fs::read(&path).unwrap())
    };
    for (sql, why) in [
        ("PRAGMA application_id = 7", "another program's"),
        ("PRAGMA user_version = 99", "layout 99"),
        ("UPDATE _telegraft_meta SET applied = applied - 1", "at index"),
        ("DROP TABLE _telegraft_sessions", "sessions"),
        ("DELETE FROM _telegraft_modules", "cannot be restored"),
    ] {
        let fault = other.refused(&changed(sql));
        assert!(fault.contains(why), "{sql}: {fault}");
    }
    assert_eq!(other.digest(), before);
    // Nothing but the way it was changed is wrong with these.
    other.machine.restore(&changed("SELECT 1")).unwrap();
    assert_eq!(other.digest(), one.digest());
}

#[test]
fn a_machine_of_another_layout_is_refused_and_not_touched() {
    let rig = Rig::probe();
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("machine.db");
    let connection = rusqlite::Connection::open(rig.dir.join("machine.db")).unwrap();
    connection.execute("VACUUM INTO ?1", [old.to_str().unwrap()]).unwrap();
    rusqlite::Connection::open(&old).unwrap().execute_batch("PRAGMA user_version = 2").unwrap();
    let before = std::fs::read(&old).unwrap();
    let why = open(sandbox(), folder.path()).map(drop).unwrap_err().0;
    assert!(why.contains("has layout 2") && why.contains("rebuilt from the log"), "{why}");
    // (The journal mode is written into the head of the file.)
    assert_eq!(std::fs::read(&old).unwrap().len(), before.len());
    let version: i32 =
        rusqlite::Connection::open(&old).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 2);
}

/// Old and new states differ in every row, and each holds its own index: a read that mixes them shows.
#[test]
fn readers_see_one_state_or_the_other() {
    let state = |rows: u64, value: &str| {
        let mut rig = Rig::probe();
        for _ in 0..rows {
            rig.one(call("exec", format!("INSERT INTO t(v) VALUES ('{value}' || (SELECT count(*) FROM t))"))).unwrap();
        }
        rig
    };
    let mut snapshots = Vec::new();
    for n in 1..=8 {
        snapshots.push(state(n * 10, &format!("s{n}-")).take());
    }
    let mut rig = state(3, "s0-");
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (reader, done) = (rig.reader.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut seen, mut reads) = (0, 0);
                let sql = "SELECT count(*) * 1000 + count(DISTINCT substr(v, 1, 3)) FROM t";
                while !done.load(Ordering::Acquire) || reads == 0 {
                    let (index, outcome) = reader.query("q", sql.as_bytes()).unwrap();
                    assert!(index >= seen, "{index} after {seen}");
                    seen = index;
                    // Two entries installed the module; one kind of value.
                    assert_eq!(number(&outcome) as u64, (index - 2) * 1000 + 1, "at {index}");
                    reads += 1;
                }
                (seen, reads)
            })
        })
        .collect();
    for snapshot in &snapshots {
        rig.machine.restore(snapshot).unwrap();
        assert_eq!(rig.reader.applied_index(), snapshot.meta.index);
        rig.one(call("exec", "INSERT INTO t(v) SELECT substr(v, 1, 3) || 'more' FROM t LIMIT 1")).unwrap();
        assert_eq!(rig.number("SELECT count(*) FROM t") as u64, snapshot.meta.index - 1);
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        let (_, reads) = reader.join().unwrap();
        assert!(reads > 0);
    }
    assert_eq!(rig.reader.applied_index(), 83);
}

#[test]
fn readers_get_the_restored_module() {
    let mut one = Rig::probe();
    one.install(&Probe { version: "2", ..PROBE }.build(), false);
    let snapshot = one.take();
    let mut other = Rig::empty();
    let generation = other.reader.generation();
    assert!(other.reader.query("q", b"SELECT 7").unwrap().1.is_err());
    other.machine.restore(&snapshot).unwrap();
    assert_eq!(other.reader.active().unwrap().record.version, "2");
    assert_ne!(other.reader.generation(), generation);
    assert_eq!(other.number("SELECT 7"), 7);
}

/// What is on stable storage after `make_durable`, as far as files tell: the database without its WAL, where no reader
/// is in the way.
fn without_wal(rig: &Rig, to: &Path) {
    fs::copy(rig.dir.join("machine.db"), to.join("machine.db")).unwrap();
}

#[test]
fn what_is_made_durable_does_not_need_the_wal() {
    let mut rig = Rig::probe();
    rig.insert(10);
    let durable = rig.machine.make_durable().unwrap();
    assert_eq!(durable, rig.machine.applied_index());
    let digest = rig.digest();
    rig.insert(5);
    let folder = tempfile::tempdir().unwrap();
    without_wal(&rig, folder.path());
    let mut copy = Rig::at(folder.path());
    assert_eq!((copy.machine.applied_index(), copy.digest()), (durable, digest));
    copy.insert(5);
    assert_eq!(copy.digest(), rig.digest());
    // With nothing new there is nothing to do.
    assert_eq!(rig.machine.make_durable().unwrap(), durable + 5);
    assert_eq!(rig.machine.make_durable().unwrap(), durable + 5);
}

/// A reader of an older state keeps frames in the WAL: then what is durable is the WAL with them.
#[test]
fn a_reader_in_the_way_does_not_make_durability_a_lie() {
    let mut rig = Rig::probe();
    rig.insert(10);
    rig.machine.make_durable().unwrap();
    rig.insert(1);
    let reader = rusqlite::Connection::open(rig.dir.join("machine.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    rig.insert(10);
    let durable = rig.machine.make_durable().unwrap();
    assert_eq!(durable, rig.machine.applied_index());
    let digest = rig.digest();
    let folder = tempfile::tempdir().unwrap();
    without_wal(&rig, folder.path());
    assert_ne!(Rig::at(folder.path()).machine.applied_index(), durable, "the reader was not in the way");
    let folder = tempfile::tempdir().unwrap();
    without_wal(&rig, folder.path());
    fs::copy(rig.dir.join("machine.db-wal"), folder.path().join("machine.db-wal")).unwrap();
    let copy = Rig::at(folder.path());
    assert_eq!((copy.machine.applied_index(), copy.digest()), (durable, digest));
    drop(reader);
    assert_eq!(rig.machine.make_durable().unwrap(), durable);
}

#[test]
fn nothing_is_replaced_while_somebody_else_has_the_file_open() {
    let mut one = furnished();
    one.insert(5);
    let snapshot = one.take();
    let mut rig = Rig::probe();
    let before = (rig.machine.applied_index(), rig.digest());
    let theirs = rusqlite::Connection::open(rig.dir.join("machine.db")).unwrap();
    theirs.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    assert!(rig.refused(&snapshot).contains("another process"));
    assert!(rig.refused(&snapshot).contains("another process"), "the fault stays");
    drop(theirs);
    let mut rig = rig.reopen();
    assert_eq!((rig.machine.applied_index(), rig.digest()), before);
    rig.machine.restore(&snapshot).unwrap();
    assert_eq!(rig.digest(), one.digest());
}

#[test]
fn after_a_fault_there_are_no_snapshots_either() {
    let mut rig = furnished();
    let snapshot = rig.take();
    let mut other = Rig::empty();
    other.machine.apply(&[entry(7, command(7, call("exec", INSERT)))]).unwrap_err();
    for fault in
        [other.machine.make_durable().map(drop), other.machine.snapshot().map(drop), other.machine.restore(&snapshot)]
    {
        assert!(fault.unwrap_err().0.contains("gap"));
    }
}

#[test]
fn leftovers_of_an_interrupted_snapshot_are_cleared_away() {
    let rig = furnished();
    let digest = rig.digest();
    for name in ["machine.restoring", "machine.restoring-wal", "machine.snapshot", "machine.snapshot-journal"] {
        fs::write(rig.dir.join(name), b"half of something").unwrap();
    }
    let rig = rig.reopen();
    assert_eq!(rig.digest(), digest);
    assert!(rig.files().iter().all(|name| name.starts_with("machine.db")), "{:?}", rig.files());
}
