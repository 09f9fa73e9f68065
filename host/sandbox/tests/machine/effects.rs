//! The digest of effects: what it sees, that replicas agree on it, how they find the one that does not, and the audit of
//! reused instances by it.

use prost::Message;
use rusqlite::Connection;
use telegraft_node::ports::{Code, Machine};
use telegraft_proto::internal::{Checkpoint, Command, DigestReport, EndReuse, command::Body};

use crate::probe::{PROBE, Rig, activation_with, call, code, message, number, whole};

fn effects(rig: &Rig) -> [u8; 32] {
    rig.reader.effect_digest().1
}

/// What the machine asked to be proposed.
fn asked(rig: &mut Rig) -> Vec<Body> {
    let asked = rig.machine.take_proposals();
    asked.into_iter().map(|bytes| Command::decode(bytes).unwrap().body.unwrap()).collect()
}

#[test]
fn every_kind_of_effect_moves_the_digest_and_equal_ones_move_it_alike() {
    let twins = || (Rig::probe(), Rig::probe());
    for (this, that) in [
        // Rows: values, row ids, types, tables without row ids, deletions, triggers.
        ("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (1, 'b')"),
        ("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, 'a')"),
        ("INSERT INTO t VALUES (1, '1')", "INSERT INTO t VALUES (1, x'31')"),
        ("UPDATE t SET v = 'z' WHERE k = 100", "UPDATE t SET v = 'z' WHERE k = 101"),
        ("DELETE FROM t WHERE k = 100", "DELETE FROM t WHERE k = 101"),
        ("DELETE FROM w WHERE a = 'x'", "DELETE FROM w WHERE a = 'y'"),
        ("DELETE FROM t", "DELETE FROM w"),
        // The schema, where no row says so.
        ("CREATE TABLE n(a)", "CREATE TABLE n(b)"),
        ("CREATE INDEX i ON t(v)", "CREATE INDEX j ON t(v)"),
        ("ALTER TABLE t DROP COLUMN c", "ALTER TABLE t DROP COLUMN d"),
    ] {
        let (mut one, mut two) = twins();
        let mut three = Rig::probe();
        for rig in [&mut one, &mut two, &mut three] {
            for sql in [
                "ALTER TABLE t ADD COLUMN c",
                "ALTER TABLE t ADD COLUMN d",
                "INSERT INTO t VALUES (100, 'p', 0, 0), (101, 'q', 0, 0)",
                "CREATE TABLE w(a TEXT PRIMARY KEY, b) WITHOUT ROWID",
                "INSERT INTO w VALUES ('x', 1), ('y', 1)",
            ] {
                rig.one(call("exec", sql)).unwrap();
            }
        }
        assert_eq!(effects(&one), effects(&two));
        let (this, that) = if this.starts_with("INSERT INTO t") {
            (this.replace(')', ", 0, 0)"), that.replace(')', ", 0, 0)"))
        } else {
            (this.to_owned(), that.to_owned())
        };
        one.one(call("ignore", &this)).unwrap();
        two.one(call("ignore", &that)).unwrap();
        three.one(call("ignore", &this)).unwrap();
        assert_ne!(effects(&one), effects(&two), "{this} | {that}");
        assert_eq!(effects(&one), effects(&three), "{this}");
    }
}

#[test]
fn replies_and_refusals_are_effects_and_undone_rows_are_not() {
    let (mut one, mut two) = (Rig::probe(), Rig::probe());
    one.one(call("query", "SELECT 1")).unwrap();
    two.one(call("query", "SELECT 2")).unwrap();
    assert_ne!(effects(&one), effects(&two));

    let (mut one, mut two) = (Rig::probe(), Rig::probe());
    // Both refuse in the same words; what the one wrote before is undone.
    one.one(call("fail", "INSERT INTO t VALUES (1, 'x')")).unwrap_err();
    two.one(call("fail", "SELECT 1")).unwrap_err();
    assert_eq!(effects(&one), effects(&two));
    one.one(call("trap", "SELECT 1")).unwrap_err();
    two.one(call("fail", "SELECT 1")).unwrap_err();
    assert_ne!(effects(&one), effects(&two));
}

#[test]
fn neither_batches_nor_lost_transactions_nor_restarts_show() {
    let heavy = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n) SELECT i, i FROM n";
    let bodies = |k: u32| {
        vec![
            call("exec", format!("INSERT INTO t VALUES ({k}, 'v{k}')")),
            call("exec", heavy),
            call("ignore", format!("INSERT INTO t VALUES ({k}, 'again')")),
            call("exec", format!("CREATE TABLE made{k}(a)")),
        ]
    };
    let mut together = Rig::empty();
    let mut apart = Rig::empty();
    let module = PROBE.build();
    let limits = telegraft_proto::internal::Limits { sql_steps: 50_000, ..Default::default() };
    for rig in [&mut together, &mut apart] {
        rig.one(whole(&module)).unwrap();
        rig.one(activation_with(&module, false, Some(limits))).unwrap();
    }
    for k in 0..3 {
        let outcomes = together.batch(bodies(k));
        assert_eq!(code(&outcomes[1]), Some(Code::ResourceExhausted));
        for (body, expected) in bodies(k).into_iter().zip(outcomes) {
            assert_eq!(apart.one(body), expected);
        }
        apart = apart.reopen();
    }
    assert_eq!(together.reader.effect_digest(), apart.reader.effect_digest());
    assert_eq!(together.digest(), apart.digest());
}

#[test]
fn an_entry_that_leaves_a_deferred_foreign_key_violated_is_undone_alone() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "CREATE TABLE c(k REFERENCES t(k) DEFERRABLE INITIALLY DEFERRED)")).unwrap();
    let outcomes = rig.batch([
        call("exec", "INSERT INTO t VALUES (1, 'x')"),
        call("exec", "INSERT INTO c VALUES (99)"),
        // It would mend what the one before has done: entries stand alone, whatever batch they come in.
        call("exec", "INSERT INTO t VALUES (99, 'y')"),
        call("exec", "INSERT INTO c VALUES (1)"),
    ]);
    assert_eq!(code(&outcomes[1]), Some(Code::FailedPrecondition), "{outcomes:?}");
    assert!(message(&outcomes[1]).contains("foreign key"), "{outcomes:?}");
    assert!(outcomes.iter().enumerate().all(|(i, outcome)| (i == 1) != outcome.is_ok()), "{outcomes:?}");
    assert_eq!(rig.number("SELECT count(*) FROM c"), 1);
}

/// Three replicas, of which the entries so far are the same.
fn replicas() -> Vec<Rig> {
    (0..3)
        .map(|_| {
            let mut rig = Rig::probe();
            rig.one(call("exec", "INSERT INTO t VALUES (1, 'x'), (2, 'y')")).unwrap();
            rig
        })
        .collect()
}

/// A checkpoint, and what the replicas report of it, each with the number of its host.
fn checkpoint(replicas: &mut [Rig]) {
    let voters = replicas.len() as u32;
    let mut reports = Vec::new();
    for (host, rig) in replicas.iter_mut().enumerate() {
        rig.one(Body::Checkpoint(Checkpoint { voters })).unwrap();
        let asked = asked(rig);
        let [Body::DigestReport(report)] = asked.as_slice() else { panic!("{asked:?}") };
        reports.push(DigestReport { host_id: host as u64 + 1, ..report.clone() });
    }
    for report in reports {
        for rig in replicas.iter_mut().filter(|rig| rig.machine.halted().is_none()) {
            rig.one(Body::DigestReport(report.clone())).unwrap();
        }
    }
}

/// A bit flips, so to speak.
fn tamper(rig: Rig) -> Rig {
    let dir = rig.dir.clone();
    Connection::open(dir.join("machine.db")).unwrap().execute("UPDATE t SET v = 'tampered' WHERE k = 1", []).unwrap();
    rig.reopen()
}

#[test]
fn a_checkpoint_verifies_replicas_that_agree() {
    let mut replicas = replicas();
    checkpoint(&mut replicas);
    for rig in &replicas {
        assert_eq!(rig.machine.halted(), None);
        assert_eq!(rig.reader.verified_index(), 4);
        assert_eq!(rig.reader.alarms(), Vec::<String>::new());
    }
    assert_eq!(replicas[0].digest(), replicas[2].digest());
}

#[test]
fn the_replica_that_differs_stands_still_also_after_a_restart() {
    let mut replicas = replicas();
    let odd = tamper(replicas.remove(1));
    replicas.insert(1, odd);
    checkpoint(&mut replicas);
    // The damage has had no effect yet.
    assert!(replicas.iter().all(|rig| rig.machine.halted().is_none()));
    for rig in &mut replicas {
        let _ = rig.one(call("query", "SELECT v FROM t WHERE k = 1"));
    }
    checkpoint(&mut replicas);
    assert!(replicas[0].machine.halted().is_none() && replicas[2].machine.halted().is_none());
    let why = replicas[1].machine.halted().expect("halted");
    assert!(why.contains("not those of the majority") && why.contains("move machine.db"), "{why}");
    for rig in &replicas {
        assert!(rig.reader.alarms()[0].contains("replicas differ"), "{:?}", rig.reader.alarms());
    }
    assert_eq!(replicas[0].digest(), replicas[2].digest());

    let mut odd = replicas.remove(1).reopen();
    assert_eq!(odd.machine.halted(), Some(why));
    let next = odd.next();
    let entry = crate::probe::entry(next, crate::probe::command(next, call("exec", "DELETE FROM t")));
    assert_eq!(odd.machine.apply(&[entry]).unwrap(), []);
}

#[test]
fn an_operator_may_have_one_go_on_where_nobody_knows_which_is_right() {
    let mut replicas = replicas();
    for (i, sql) in [(0, "a"), (1, "b")] {
        let rig = replicas.remove(i);
        let dir = rig.dir.clone();
        let change = format!("UPDATE t SET v = '{sql}' WHERE k = 1");
        Connection::open(dir.join("machine.db")).unwrap().execute(&change, []).unwrap();
        replicas.insert(i, rig.reopen());
    }
    for rig in &mut replicas {
        let _ = rig.one(call("query", "SELECT v FROM t WHERE k = 1"));
    }
    checkpoint(&mut replicas);
    assert!(replicas.iter().all(|rig| rig.machine.halted().is_some_and(|why| why.contains("ignore-differences"))));
    let right = replicas.remove(2);
    std::fs::write(right.dir.join("ignore-differences"), "").unwrap();
    let mut right = right.reopen();
    assert_eq!(right.machine.halted(), None);
    right.one(call("exec", "INSERT INTO t VALUES (3, 'z')")).unwrap();
    std::fs::remove_file(right.dir.join("ignore-differences")).unwrap();
    assert_eq!(right.reopen().machine.halted(), None);
}

#[test]
fn a_reused_instance_that_remembers_is_found_and_reuse_ends_through_the_log() {
    let mut rig = Rig::empty();
    rig.install(&PROBE.build(), true);
    let mut found = None;
    let mut audited = Vec::new();
    for _ in 0..400 {
        let calls = number(&rig.one(call("memory", "")));
        if calls == 1 && rig.machine.applied_index() > 3 {
            audited.push(rig.machine.applied_index());
        }
        if let Some(Body::EndReuse(end)) = asked(&mut rig).pop() {
            found = Some(end);
            break;
        }
    }
    let end = found.expect("an audit");
    // What the entry gave is what a fresh instance gives.
    assert_eq!(audited, [end.index]);
    assert_eq!(rig.machine.applied_index(), end.index);
    assert!(rig.reader.active().unwrap().reuse);
    rig.one(Body::EndReuse(EndReuse { digest: vec![0; 32].into(), index: 1 })).unwrap();
    assert!(rig.reader.active().unwrap().reuse, "another module was meant");
    rig.one(Body::EndReuse(end)).unwrap();
    assert!(!rig.reader.active().unwrap().reuse);
    assert!(rig.reader.alarms()[0].contains("keeps something in memory"), "{:?}", rig.reader.alarms());
    assert_eq!(number(&rig.one(call("memory", ""))), 1);
    assert_eq!(number(&rig.one(call("memory", ""))), 1);
    assert!(!rig.reopen().reader.active().unwrap().reuse);
}

#[test]
fn a_module_that_remembers_nothing_passes_all_audits() {
    let (mut reused, mut fresh) = (Rig::empty(), Rig::empty());
    reused.install(&PROBE.build(), true);
    fresh.install(&PROBE.build(), false);
    for k in 0..400 {
        let body = || call("exec", format!("INSERT INTO t VALUES ({k}, 'v{k}')"));
        assert_eq!(reused.one(body()), fresh.one(body()));
    }
    assert_eq!(asked(&mut reused), []);
    let text = "SELECT group_concat(k || v) FROM t";
    assert_eq!(reused.text(text), fresh.text(text));
    assert_eq!(reused.reader.limits().unwrap().2, fresh.reader.limits().unwrap().2);
}
