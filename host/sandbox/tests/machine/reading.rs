//! Queries beside apply: they cannot write, and their index and their data agree.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use telegraft_node::ports::{Cancellation, Code, Queries};
use telegraft_proto::internal;
use telegraft_sandbox::{Limits, SandboxOptions, open};

use crate::probe::{PROBE, Probe, Rig, call, code, message, number, sandbox, set};

#[test]
fn a_query_cannot_write() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'a')")).unwrap();
    for sql in [
        "INSERT INTO t VALUES (2, 'b')",
        "UPDATE t SET v = 'z'",
        "DELETE FROM t",
        "DELETE FROM t RETURNING k",
        "DROP TABLE t",
        "CREATE TABLE u(x)",
        "ALTER TABLE t RENAME TO u",
        "PRAGMA query_only = 0",
        "SELECT * FROM _telegraft_meta",
        "SELECT changes()",
        "ATTACH ':memory:' AS m",
    ] {
        for method in ["exec", "q"] {
            let (_, outcome) = rig.reader.query(method, sql.as_bytes()).unwrap();
            assert_eq!(code(&outcome), Some(Code::PermissionDenied), "{sql}: {outcome:?}");
        }
    }
    assert_eq!(rig.text("SELECT v FROM t"), "a");
    let (_, outcome) = rig.reader.query("exec", b"DELETE FROM t").unwrap();
    assert!(message(&outcome).contains("a query cannot write"), "{outcome:?}");
}

#[test]
fn a_query_fails_alone_and_within_its_budgets() {
    let rig = Rig::probe();
    for (method, sql, words) in [
        ("trap", "SELECT 1", "trapped"),
        ("spin", "SELECT 1", "ran out of fuel"),
        ("grow", "SELECT 1", "memory budget"),
        ("q", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n", "steps"),
        ("fail", "SELECT 1", "own failure"),
        ("q", "SELECT neither", "no such column"),
    ] {
        let (_, outcome) = rig.reader.query(method, sql.as_bytes()).unwrap();
        assert!(message(&outcome).contains(words), "{method}: {outcome:?}");
        assert_eq!(rig.number("SELECT 7"), 7);
    }
}

/// Runs until its budget is used up.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

/// Begins a query that would run for a minute, and cancels it when it has not ended by itself for a while.
fn cancelled_on_the_way(rig: &Rig, method: &'static str, sql: &'static str) {
    let (reader, cancellation) = (rig.reader.clone(), Cancellation::default());
    let (send, ended) = mpsc::channel();
    let cancelled = cancellation.clone();
    let thread = std::thread::spawn(move || send.send(reader.query_until(method, sql.as_bytes(), &cancelled)).unwrap());
    let early = ended.recv_timeout(Duration::from_millis(500));
    assert!(early.is_err(), "{method} has ended by itself: {early:?}");
    cancellation.cancel();
    let ended = ended.recv_timeout(Duration::from_secs(5));
    assert_eq!(ended, Ok(Ok(None)), "{method}: within some seconds, on a machine however busy");
    thread.join().unwrap();
}

#[test]
fn a_query_that_is_cancelled_ends_soon_and_leaves_its_connection_sound() {
    let over_and_over = "(if (i32.eq (local.get $letter) (i32.const 111)) (then
        (local.set $value (global.get $heap))
        (loop $again
          (global.set $heap (local.get $value))
          (call $query (local.get $sql) (local.get $len) (i32.const 0x300) (i32.const 0) (i32.const 0x100))
          (br $again))))";
    let mut rig = Rig::empty();
    rig.install(&Probe { call_text: over_and_over, ..PROBE }.build(), false);
    let steps = |sql_steps| set(internal::Limits { sql_steps, fuel: Limits::MAX.fuel, ..Default::default() });
    rig.one(steps(Limits::MAX.sql_steps)).unwrap();
    let rows = |rig: &Rig| rig.number("SELECT count(*) FROM t");
    for (before, (method, sql)) in (0..).zip([("q", ENDLESS), ("over", "SELECT 1"), ("q", ENDLESS)]) {
        assert_eq!(rows(&rig), before);
        // The one connection that is open and at rest is the one that it gets, and gives back.
        cancelled_on_the_way(&rig, method, sql);
        assert_eq!(rows(&rig), before, "{method}");
        rig.one(call("exec", "INSERT INTO t(v) VALUES (NULL)")).unwrap();
        assert_eq!(rows(&rig), before + 1, "{method}: an older state is still being read");
    }
    // Statement and budget are as they were.
    rig.one(steps(1_000_000)).unwrap();
    let (index, outcome) = rig.reader.query("q", ENDLESS.as_bytes()).unwrap();
    assert_eq!((index, code(&outcome)), (rig.reader.applied_index(), Some(Code::ResourceExhausted)), "{outcome:?}");
    assert!(message(&outcome).contains("1000000 steps"), "{outcome:?}");
}

#[test]
fn a_query_that_is_cancelled_before_it_begins_does_not_run() {
    let rig = Rig::probe();
    let cancellation = Cancellation::default();
    let asked = |cancellation| rig.reader.query_until("q", b"SELECT 7", cancellation).unwrap();
    assert_eq!(asked(&cancellation).map(|(_, outcome)| number(&outcome)), Some(7));
    cancellation.cancel();
    assert_eq!(asked(&cancellation), None);
    assert_eq!(asked(&Cancellation::default()).map(|(_, outcome)| number(&outcome)), Some(7));
    let empty = Rig::empty();
    assert_eq!(empty.reader.query_until("q", b"SELECT 7", &cancellation), Ok(None));
}

#[test]
fn a_querys_context_is_that_of_the_newest_entry() {
    let mut rig = Rig::probe();
    let applied = rig.one(call("context", "")).unwrap();
    let (index, read) = rig.reader.query("context", b"").unwrap();
    assert_eq!(read.unwrap(), applied);
    assert_eq!(index, rig.reader.applied_index());
}

#[test]
fn without_a_module_queries_are_refused() {
    let rig = Rig::empty();
    let (index, outcome) = rig.reader.query("q", b"SELECT 1").unwrap();
    assert_eq!((index, code(&outcome)), (0, Some(Code::FailedPrecondition)));
    assert!(rig.reader.active().is_none());
}

/// Every entry adds one row, so the count of rows tells the index; also while modules are swapped.
#[test]
fn index_and_data_agree_while_entries_are_applied_and_modules_swapped() {
    let modules = [PROBE.build(), Probe { version: "2", ..PROBE }.build()];
    let mut rig = Rig::probe();
    rig.install(&modules[1], false);
    let base = rig.machine_index();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (reader, done) = (rig.reader.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut seen = 0;
                let mut reads = 0;
                while !done.load(Ordering::Acquire) || reads == 0 {
                    let (index, outcome) = reader.query("q", b"SELECT count(*) FROM t").unwrap();
                    assert!(index >= seen, "{index} after {seen}");
                    seen = index;
                    // Every tenth entry is an activation, which adds no row.
                    let entries = index - base;
                    assert_eq!(number(&outcome) as u64, entries - entries / 10, "at {index}");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for round in 0..60 {
        let mut bodies: Vec<_> = (0..9).map(|_| call("exec", "INSERT INTO t(v) VALUES (NULL)")).collect();
        bodies.push(crate::probe::activation(&modules[round % 2], false));
        assert!(rig.batch(bodies).iter().all(Result::is_ok));
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
}

impl Rig {
    fn machine_index(&self) -> u64 {
        self.reader.applied_index()
    }
}

#[test]
fn folders_and_files_that_cannot_be_used_are_faults_that_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("machine.db");
    let opened = || open(sandbox(), folder.path()).err().map(|fault| fault.0).unwrap_or_default();
    std::fs::write(&file, b"this is no database, but it is long enough to look like one at first glance".repeat(100))
        .unwrap();
    assert!(opened().contains("move machine.db"), "{}", opened());
    std::fs::remove_file(&file).unwrap();
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs(x)").unwrap();
    assert!(opened().contains("another program's database"), "{}", opened());
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(opened().contains("cannot open"), "{}", opened());
    let not_a_folder = folder.path().join("file");
    std::fs::write(&not_a_folder, b"").unwrap();
    assert!(open(sandbox(), &not_a_folder).is_err());
    assert!(telegraft_sandbox::Sandbox::new(SandboxOptions::new(not_a_folder.join("cache"))).is_err());
}

#[test]
fn a_damaged_database_is_a_fault_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::at(folder.path());
    rig.install(&PROBE.build(), false);
    for k in 0..500 {
        rig.one(call("exec", format!("INSERT INTO t VALUES ({k}, '{k:0>200}')"))).unwrap();
    }
    // The last connection that closes writes the WAL back, so the file is whole.
    drop(rig);
    let file = folder.path().join("machine.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    let fault = open(sandbox(), folder.path()).err().expect("a fault");
    assert!(fault.0.contains("damaged"), "{fault}");
}
