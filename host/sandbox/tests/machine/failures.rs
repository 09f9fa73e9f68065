//! An entry that fails is undone alone, its rejection is its outcome, and the index moves on.

use bytes::Bytes;
use telegraft_node::ports::{Code, Machine};
use telegraft_proto::internal::{Command, Limits};
use telegraft_raft::{Entry, EntryKind};

use crate::probe::{PROBE, Rig, activation_with, call, code, command, entry, message, number, set, whole};

fn insert(k: i64) -> String {
    format!("INSERT INTO t VALUES ({k}, 'v{k}')")
}

/// Three entries in one batch; the middle one, which writes before it fails, must leave nothing.
fn fails_alone(rig: &mut Rig, method: &str, sql: &str, expected: Code, words: &str) {
    let before = rig.number("SELECT count(*) FROM t");
    let index = rig.machine.applied_index();
    let base = 1000 * index as i64;
    let outcomes = rig.batch([call("exec", insert(base + 1)), call(method, sql), call("exec", insert(base + 2))]);
    assert_eq!(number(&outcomes[0]), 1);
    assert_eq!(code(&outcomes[1]), Some(expected), "{method}: {:?}", outcomes[1]);
    assert!(message(&outcomes[1]).contains(words), "{method}: {:?}", outcomes[1]);
    assert_eq!(number(&outcomes[2]), 1);
    assert_eq!(rig.machine.applied_index(), index + 3);
    assert_eq!(rig.number("SELECT count(*) FROM t"), before + 2, "{method}");
    assert_eq!(rig.number("SELECT count(*) FROM t WHERE k = 7"), 0, "{method} left its row");
}

#[test]
fn every_kind_of_failure_undoes_its_entry_alone() {
    let mut rig = Rig::probe();
    let seven = "INSERT INTO t VALUES (7, 'seven')";
    fails_alone(&mut rig, "fail", seven, Code::AlreadyExists, "own failure");
    fails_alone(&mut rig, "trap", seven, Code::Aborted, "trapped: unreachable code");
    fails_alone(&mut rig, "spin", seven, Code::Aborted, "ran out of fuel");
    fails_alone(&mut rig, "grow", seven, Code::ResourceExhausted, "memory budget of 67108864 bytes");
    fails_alone(&mut rig, "2", seven, Code::NotFound, "UNIQUE constraint failed: t.k");
    fails_alone(
        &mut rig,
        "exec",
        "INSERT INTO t VALUES (7, 'x'), (8, 'x')",
        Code::NotFound,
        "UNIQUE constraint failed",
    );
    fails_alone(&mut rig, "exec", "INSERT INTO nowhere VALUES (7)", Code::InvalidArgument, "no such table: nowhere");
    fails_alone(&mut rig, "huge", "", Code::ResourceExhausted, "reply of 6000000 bytes");
    fails_alone(&mut rig, "wild", "", Code::Aborted, "component model");
    fails_alone(&mut rig, "recurse", "DELETE FROM t WHERE k = -1", Code::Aborted, "call stack is exhausted");
}

/// That is the module's own mistake, which it is told, and no defect of the host.
#[test]
fn a_guest_that_asks_for_more_than_it_can_address_is_told_so() {
    let mut rig = Rig::probe();
    assert_eq!(number(&rig.one(call("4", ""))), -1);
}

#[test]
fn sql_budgets_end_the_call() {
    let mut rig = Rig::probe();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000000)";
    fails_alone(&mut rig, "q", &format!("{many} SELECT count(*) FROM n"), Code::ResourceExhausted, "10000000 steps");
    fails_alone(&mut rig, "q", &format!("{many} SELECT i FROM n"), Code::ResourceExhausted, "more than 100000 rows");
    let wide =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) SELECT zeroblob(1000000) FROM n";
    fails_alone(&mut rig, "q", wide, Code::ResourceExhausted, "over 16777216 bytes");
    fails_alone(&mut rig, "q", "SELECT zeroblob(9000000)", Code::ResourceExhausted, "1048576 bytes (value_bytes)");
}

/// An interrupted writing statement costs the whole transaction, and so does a guest's ON CONFLICT ROLLBACK.
#[test]
fn an_entry_that_costs_the_transaction_is_undone_alone_all_the_same() {
    let mut rig = Rig::probe();
    let endless =
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 7 UNION ALL SELECT min(i, 0) - 1 FROM n) SELECT i, NULL FROM n";
    fails_alone(&mut rig, "exec", endless, Code::ResourceExhausted, "SQL budget of 10000000 steps");
    rig.one(call("exec", "INSERT INTO t VALUES (6, 'six')")).unwrap();
    let conflict = "INSERT OR ROLLBACK INTO t VALUES (7, 'seven'), (6, 'again')";
    fails_alone(&mut rig, "exec", conflict, Code::Aborted, "rolled the whole transaction back");
    fails_alone(&mut rig, "ignore", conflict, Code::Aborted, "rolled the whole transaction back");
}

#[test]
fn two_offenders_in_one_batch_and_entries_around_them() {
    let mut rig = Rig::probe();
    rig.one(call("exec", insert(6))).unwrap();
    let conflict = "INSERT OR ROLLBACK INTO t VALUES (6, 'again')";
    let outcomes = rig.batch([
        call("exec", insert(1)),
        call("trap", insert(2)),
        call("exec", conflict),
        call("exec", "CREATE TABLE later(x)"),
        call("exec", "INSERT INTO later VALUES (1)"),
        call("exec", conflict),
        call("exec", "INSERT INTO later VALUES (2)"),
    ]);
    let failed: Vec<bool> = outcomes.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, true, true, false, false, true, false]);
    assert_eq!(rig.number("SELECT count(*) FROM later"), 2);
    assert_eq!(rig.number("SELECT count(*) FROM t"), 2);
}

#[test]
fn a_failed_entrys_schema_change_is_undone_too() {
    let mut rig = Rig::probe();
    let outcomes = rig.batch([
        call("fail", "CREATE TABLE gone(x)"),
        call("exec", "INSERT INTO gone VALUES (1)"),
        call("fail", "DROP TABLE t"),
        call("exec", insert(1)),
    ]);
    assert_eq!(code(&outcomes[0]), Some(Code::AlreadyExists));
    assert!(message(&outcomes[1]).contains("no such table"));
    assert_eq!(number(&outcomes[3]), 1);
}

#[test]
fn entries_without_a_command_have_an_empty_reply_and_garbage_is_a_rejection() {
    let mut rig = Rig::probe();
    let i = rig.next();
    let garbage: Vec<Bytes> =
        [&b"\xff\xff\xff"[..], b"\x0a", b"garbage", &[0xff; 100]].into_iter().map(Bytes::from).collect();
    let mut entries = vec![
        Entry { term: 1, index: i, kind: EntryKind::Normal, data: Bytes::new() },
        Entry { term: 1, index: i + 1, kind: EntryKind::ConfChange, data: Bytes::from_static(b"\xff") },
        Entry { term: 1, index: i + 2, kind: EntryKind::ConfChangeV2, data: Bytes::new() },
    ];
    for (data, index) in garbage.into_iter().zip(i + 3..) {
        entries.push(Entry { term: 1, index, kind: EntryKind::Normal, data });
    }
    entries.push(entry(i + 7, Command { time_us: 1, ..Command::default() }));
    let outcomes = rig.machine.apply(&entries).unwrap();
    assert!(outcomes[..3].iter().all(|o| o == &Ok(Bytes::new())), "{outcomes:?}");
    assert!(outcomes[3..].iter().all(|o| code(o) == Some(Code::InvalidArgument)), "{outcomes:?}");
    assert_eq!(rig.reader.applied_index(), i + 7);
}

#[test]
fn without_a_module_calls_are_refused() {
    let mut rig = Rig::empty();
    let outcome = rig.one(call("exec", "SELECT 1"));
    assert_eq!(code(&outcome), Some(Code::FailedPrecondition));
    assert!(message(&outcome).contains("upload and activate"));
}

#[test]
fn old_entries_are_skipped_and_a_gap_is_a_fault_that_lasts() {
    let mut rig = Rig::probe();
    let i = rig.next();
    let entries: Vec<Entry> = (1..=i).map(|n| entry(n, command(n, call("exec", insert(n as i64))))).collect();
    let outcomes = rig.machine.apply(&entries).unwrap();
    assert_eq!(outcomes.len(), entries.len());
    assert_eq!(outcomes[0], Ok(Bytes::new()));
    assert_eq!(rig.number("SELECT count(*) FROM t"), 1);
    let gap = entry(i + 2, command(i + 2, call("exec", insert(99))));
    assert!(rig.machine.apply(std::slice::from_ref(&gap)).unwrap_err().0.contains("gap"));
    let good = entry(i + 1, command(i + 1, call("exec", insert(98))));
    assert!(rig.machine.apply(&[good]).is_err(), "a machine that failed stays failed");
    assert_eq!(rig.reader.applied_index(), i);
}

#[test]
fn the_context_carries_index_time_and_entropy_and_time_never_goes_back() {
    let mut rig = Rig::probe();
    let i = rig.next();
    let stamp = |index, time_us| {
        let mut c = command(index, call("context", ""));
        c.time_us = time_us;
        (c.entropy_high, c.entropy_low) = (1, 2);
        entry(index, c)
    };
    let outcomes = rig.machine.apply(&[stamp(i, 5_000_000), stamp(i + 1, 4_000_000)]).unwrap();
    let numbers = |o: &Bytes| -> Vec<u64> { o.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect() };
    assert_eq!(numbers(outcomes[0].as_ref().unwrap()), [i, 5_000_000, 1, 2]);
    assert_eq!(numbers(outcomes[1].as_ref().unwrap()), [i + 1, 5_000_000, 1, 2]);
    let mut rig = rig.reopen();
    let outcomes = rig.machine.apply(&[stamp(i + 2, 3_000_000)]).unwrap();
    assert_eq!(numbers(outcomes[0].as_ref().unwrap()), [i + 2, 5_000_000, 1, 2]);
}

#[test]
fn budgets_hold_from_the_first_activation_on() {
    let mut rig = Rig::empty();
    let module = PROBE.build();
    rig.one(whole(&module)).unwrap();
    let tight = Limits { fuel: 2000, sql_steps: 60, rows: 2, ..Limits::default() };
    // The init's own statement costs more than that.
    let refused = rig.one(activation_with(&module, false, Some(Limits { sql_steps: 1, ..tight })));
    assert_eq!(code(&refused), Some(Code::ResourceExhausted));
    assert!(message(&refused).contains("init"), "{refused:?}");
    rig.one(activation_with(&module, false, Some(Limits { sql_steps: 0, ..tight }))).unwrap();
    let three = "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3";
    assert!(message(&rig.one(call("q", three))).contains("more than 2 rows"));
    rig.one(set(tight)).unwrap();
    assert!(message(&rig.one(call("q", format!("SELECT 1 {}", " ".repeat(400))))).is_empty());
    assert!(message(&rig.one(call("q", format!("SELECT 1 {} + 1", " ".repeat(600))))).contains("budget of 60 steps"));
    assert!(message(&rig.one(call("spin", "SELECT 1"))).contains("fuel (budget 2000)"));
    // And they are still there after a restart.
    let mut rig = rig.reopen();
    assert!(message(&rig.one(call("spin", "SELECT 1"))).contains("fuel (budget 2000)"));
}

#[test]
fn a_reused_instance_keeps_its_memory_until_it_traps_and_a_fresh_one_has_none() {
    let mut rig = Rig::probe();
    let outcomes = rig.batch([call("memory", ""), call("memory", "")]);
    assert_eq!(outcomes.iter().map(number).collect::<Vec<_>>(), [1, 1]);
    rig.install(&PROBE.build(), true);
    let outcomes = rig.batch([call("memory", ""), call("fail", "SELECT 1"), call("memory", "")]);
    assert_eq!((number(&outcomes[0]), number(&outcomes[2])), (1, 3));
    let outcomes = rig.batch([call("memory", ""), call("trap", "SELECT 1"), call("memory", "")]);
    assert_eq!((number(&outcomes[0]), number(&outcomes[2])), (4, 1));
}
