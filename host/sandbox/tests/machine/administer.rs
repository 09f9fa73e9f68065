//! Budgets set through the log, the way back to the module before, other engines, and the history of it all.

use std::path::Path;

use prost::Message;
use telegraft_node::ports::{Code, Machine, Queries};
use telegraft_proto::{
    internal::{self, Activate, Rollback, command::Body, rollback::Way},
    v1::RolledBack,
};
use telegraft_sandbox::{Digest, Limits, Sandbox, SandboxOptions, engine_name};

use crate::probe::{
    PROBE, Probe, Rig, activation, activation_with, call, chunk, code, command, entry, message, set, whole,
};

fn back_to(module: &[u8], way: Way) -> Body {
    back_from(b"", module, way)
}

/// As `back_to`, by somebody who means to leave the module with the digest `from`.
fn back_from(from: &[u8], module: &[u8], way: Way) -> Body {
    let digest = Digest::of(module).0.to_vec().into();
    Body::Rollback(Rollback { digest, way: way.into(), from: from.to_vec().into(), ..Rollback::default() })
}

fn happened(rig: &Rig) -> Vec<String> {
    rig.reader.history(100).unwrap().into_iter().map(|record| record.what).collect()
}

#[test]
fn budgets_are_the_machine_s_and_only_entries_change_them() {
    let mut rig = Rig::empty();
    let module = PROBE.build();
    rig.one(whole(&module)).unwrap();
    rig.one(activation_with(&module, false, Some(internal::Limits { rows: 3, ..Default::default() }))).unwrap();
    assert_eq!(rig.reader.limits().unwrap().1, Limits { rows: 3, ..Limits::DEFAULT });
    // Another activation does not bring others.
    rig.one(activation_with(&module, false, Some(internal::Limits { rows: 9, ..Default::default() }))).unwrap();
    assert_eq!(rig.reader.limits().unwrap().1.rows, 3);

    let reply = rig.one(set(internal::Limits { fuel: 12_345_678, rows: u64::MAX, ..Default::default() })).unwrap();
    let now = Limits { fuel: 12_345_678, rows: Limits::MAX.rows, ..Limits::DEFAULT };
    assert_eq!(Limits::from(&internal::Limits::decode(reply).unwrap()), now);
    assert_eq!(rig.reader.active().unwrap().limits, now);
    let outcome = rig.one(call("spin", "SELECT 1"));
    assert_eq!(code(&outcome), Some(Code::Aborted));
    assert!(message(&outcome).contains("12345678"), "{}", message(&outcome));
    let outcome = rig.reader.query("spin", b"SELECT 1").unwrap().1;
    assert!(message(&outcome).contains("12345678"), "{}", message(&outcome));

    let rig = rig.reopen();
    assert_eq!(rig.reader.limits().unwrap().1, now);
    let newest = rig.reader.history(1).unwrap().remove(0);
    assert_eq!(newest.what, "limits-set");
    assert!(newest.detail.contains("fuel from 1000000000 to 12345678"), "{}", newest.detail);
}

#[test]
fn a_module_over_its_budget_is_refused_by_part_and_by_activation() {
    let mut rig = Rig::probe();
    let module = Probe { version: "2", ..PROBE }.build();
    rig.one(whole(&module)).unwrap();
    rig.one(set(internal::Limits { module_bytes: 100, ..Default::default() })).unwrap();
    let third = Probe { version: "3", ..PROBE }.build();
    for body in [activation(&module, false), chunk(&third, 0, 100)] {
        let outcome = rig.one(body);
        assert_eq!(code(&outcome), Some(Code::ResourceExhausted));
        assert!(message(&outcome).contains("100 (module_bytes)"), "{}", message(&outcome));
    }
}

#[test]
fn data_may_not_outgrow_its_budget_and_may_shrink_at_any_size() {
    let mut rig = Rig::probe();
    // A row counts 8, its key 8, its text 100.
    let insert = |k: u32| call("exec", format!("INSERT INTO t VALUES ({k}, printf('%0100d', {k}))"));
    for k in 0..20 {
        rig.one(insert(k)).unwrap();
    }
    assert_eq!(rig.reader.limits().unwrap().2, 20 * 116);
    rig.one(set(internal::Limits { database_bytes: 20 * 116, ..Default::default() })).unwrap();
    let rows = |rig: &Rig| rig.text("SELECT count(*) || ' of ' || sum(length(v)) FROM t");
    let before = rows(&rig);
    let many = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n LIMIT 100000) \
                SELECT i, i FROM n";
    for body in [insert(20), call("exec", many), call("exec", "CREATE TABLE copy AS SELECT * FROM t")] {
        let outcome = rig.one(body);
        assert_eq!(code(&outcome), Some(Code::ResourceExhausted), "{outcome:?}");
        assert!(message(&outcome).contains("2320 bytes (database_bytes)"), "{}", message(&outcome));
    }
    assert_eq!(rows(&rig), before);

    rig.one(set(internal::Limits { database_bytes: 10, ..Default::default() })).unwrap();
    rig.one(call("exec", "DELETE FROM t WHERE k < 10")).unwrap();
    assert_eq!(rig.reader.limits().unwrap().2, 10 * 116);
    rig.one(call("exec", "UPDATE t SET v = k")).unwrap();
    assert_eq!(rig.reader.limits().unwrap().2, 10 * 18);
    rig.one(call("exec", "DROP TABLE t")).unwrap();
    assert_eq!(rig.reader.limits().unwrap().2, 0);
}

#[test]
fn what_ddl_does_to_the_data_s_size_is_counted() {
    let mut rig = Rig::probe();
    let used = |rig: &Rig| rig.reader.limits().unwrap().2;
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'abc'), (2, NULL)")).unwrap();
    assert_eq!(used(&rig), (8 + 8 + 3) + (8 + 8 + 1));
    rig.one(call("exec", "ALTER TABLE t RENAME TO u")).unwrap();
    assert_eq!(used(&rig), 36);
    rig.one(call("exec", "ALTER TABLE u ADD COLUMN w TEXT DEFAULT '0123456789'")).unwrap();
    assert_eq!(used(&rig), 56);
    rig.one(call("exec", "ALTER TABLE u DROP COLUMN w")).unwrap();
    assert_eq!(used(&rig), 36);
    rig.one(call("exec", "CREATE TABLE copy AS SELECT * FROM u")).unwrap();
    assert_eq!(used(&rig), 72);
    // A parent's rows are deleted one by one when it is dropped; they count once.
    rig.one(call("exec", "CREATE TABLE child(k INTEGER REFERENCES u(k) ON DELETE SET NULL)")).unwrap();
    rig.one(call("exec", "DROP TABLE u")).unwrap();
    assert_eq!(used(&rig), 36);
    // What a dropped parent takes with it counts too, and what is computed when it is read does not.
    rig.one(call("exec", "CREATE TABLE up(k INTEGER PRIMARY KEY)")).unwrap();
    rig.one(call("exec", "CREATE TABLE down(k INTEGER REFERENCES up(k) ON DELETE CASCADE)")).unwrap();
    rig.one(call("exec", "INSERT INTO up VALUES (1)")).unwrap();
    rig.one(call("exec", "INSERT INTO down VALUES (1)")).unwrap();
    assert_eq!(used(&rig), 36 + 16 + 16);
    rig.one(call("exec", "DROP TABLE up")).unwrap();
    assert_eq!(used(&rig), 36 + 16 * rig.number("SELECT count(*) FROM down") as u64);
    let before = used(&rig);
    rig.one(call("exec", "CREATE TABLE v(a, g AS (hex(zeroblob(1000))))")).unwrap();
    rig.one(call("exec", "INSERT INTO v(a) VALUES (1)")).unwrap();
    rig.one(call("exec", "DROP TABLE v")).unwrap();
    assert!(used(&rig).abs_diff(before) <= 8, "{} {before}", used(&rig));
}

#[test]
fn a_statement_that_is_taken_back_counts_for_nothing() {
    let mut rig = Rig::probe();
    let used = |rig: &Rig| rig.reader.limits().unwrap().2;
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'abc')")).unwrap();
    rig.one(call("exec", "CREATE TRIGGER no BEFORE DELETE ON t WHEN old.k = 3 BEGIN SELECT raise(ABORT, 'no'); END"))
        .unwrap();
    rig.one(call("exec", "INSERT INTO t VALUES (2, 'de'), (3, 'f')")).unwrap();
    let before = used(&rig);
    // The guest goes on after each.
    for sql in ["INSERT INTO t VALUES (10, 'x'), (11, 'y'), (12, 'abc')", "DELETE FROM t", "UPDATE t SET v = 'same'"] {
        rig.one(call("ignore", sql)).unwrap();
        assert_eq!(used(&rig), before, "{sql}");
    }
    // A trigger's own changes are no cover for a deletion that is taken back.
    rig.one(call("exec", "CREATE TABLE one(n)")).unwrap();
    rig.one(call("exec", "INSERT INTO one VALUES (0)")).unwrap();
    rig.one(call("exec", "CREATE TRIGGER count AFTER DELETE ON t BEGIN UPDATE one SET n = n + 1; END")).unwrap();
    let with_one = used(&rig);
    rig.one(call("ignore", "DELETE FROM t")).unwrap();
    assert!(used(&rig) >= with_one, "{} {with_one}", used(&rig));
    rig.one(call("exec", "DROP TABLE one")).unwrap();
    rig.one(call("exec", "DROP TRIGGER count")).unwrap();
    assert_eq!(used(&rig), before);
    // What FAIL keeps counts.
    rig.one(call("ignore", "INSERT OR FAIL INTO t VALUES (10, 'x'), (12, 'abc')")).unwrap();
    assert_eq!(used(&rig), before + 8 + 8 + 1);
}

#[test]
fn a_large_table_is_not_measured_for_nothing() {
    let mut rig = Rig::probe();
    let many =
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT i, i FROM n";
    rig.one(call("exec", many)).unwrap();
    rig.one(set(internal::Limits { sql_steps: 15_000, ..Default::default() })).unwrap();
    let outcome = rig.one(call("exec", "ALTER TABLE t ADD COLUMN c"));
    assert_eq!(code(&outcome), Some(Code::ResourceExhausted), "{outcome:?}");
    rig.one(set(internal::Limits { sql_steps: 60_000, ..Default::default() })).unwrap();
    rig.one(call("exec", "ALTER TABLE t ADD COLUMN c")).unwrap();
}

#[test]
fn ddl_that_fails_half_way_leaves_its_table_counted() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "CREATE TABLE up(k INTEGER PRIMARY KEY)")).unwrap();
    rig.one(call("exec", "CREATE TABLE gone(k INTEGER REFERENCES up(k) ON DELETE CASCADE)")).unwrap();
    rig.one(call("exec", "CREATE TABLE held(k INTEGER REFERENCES up(k))")).unwrap();
    rig.one(call("exec", "INSERT INTO up VALUES (1), (2)")).unwrap();
    rig.one(call("exec", "INSERT INTO gone VALUES (1)")).unwrap();
    rig.one(call("exec", "INSERT INTO held VALUES (2)")).unwrap();
    let before = rig.reader.limits().unwrap().2;
    assert!(rig.one(call("exec", "DROP TABLE up")).is_err());
    assert_eq!(rig.reader.limits().unwrap().2, before);
    rig.one(call("exec", "INSERT INTO up VALUES (3)")).unwrap();
    assert_eq!(rig.reader.limits().unwrap().2, before + 16);
}

#[test]
fn a_damaged_kept_state_halts_the_host_that_has_it() {
    let (one, two) = (PROBE.build(), risen().build());
    let mut rig = Rig::empty();
    rig.install(&one, false);
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'x')")).unwrap();
    rig.install(&two, false);
    let kept = rig.dir.join(format!("kept-{}.db", rig.machine.applied_index()));
    std::fs::write(&kept, "").unwrap();
    let next = rig.next();
    let entries = [entry(next, command(next, back_to(&one, Way::KeptState)))];
    assert_eq!(rig.machine.apply(&entries).unwrap(), []);
    assert!(rig.machine.halted().unwrap().contains("not whole"), "{:?}", rig.machine.halted());
}

#[test]
fn a_refused_activation_leaves_no_state_behind() {
    let mut rig = Rig::probe();
    let failing = Probe { version: "2", schema: 2, init: ["no statement", ""], ..PROBE }.build();
    rig.one(whole(&failing)).unwrap();
    rig.one(activation(&failing, false)).unwrap_err();
    let kept = std::fs::read_dir(&rig.dir)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("kept-"));
    assert_eq!(kept.count(), 0);
}

#[test]
fn a_kept_state_comes_back_though_its_checks_would_fail_by_now() {
    let (one, two) = (PROBE.build(), risen().build());
    let mut rig = Rig::empty();
    rig.install(&one, false);
    rig.one(call("exec", "CREATE TABLE offers(until INTEGER CHECK (until > unixepoch()))")).unwrap();
    rig.one(call("exec", "INSERT INTO offers VALUES (5)")).unwrap();
    rig.install(&two, false);
    let mut later = command(rig.next(), back_to(&one, Way::KeptState));
    later.time_us = 60_000_000;
    rig.command(later).unwrap();
    assert_eq!(rig.number("SELECT until FROM offers"), 5);
    assert!(rig.one(call("exec", "INSERT INTO offers VALUES (5)")).is_err(), "checks hold again");
    let rig = rig.reopen();
    assert_eq!(rig.number("SELECT until FROM offers"), 5);
}

#[test]
fn a_generated_column_that_cannot_be_computed_keeps_no_host_from_starting() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'no json')")).unwrap();
    rig.one(call("exec", "ALTER TABLE t ADD COLUMN g INTEGER AS (json_extract(v, '$.x'))")).unwrap();
    let rig = rig.reopen();
    assert_eq!(rig.text("SELECT v FROM t"), "no json");
}

#[test]
fn a_swap_is_taken_back_with_the_data_as_it_is() {
    let (one, two) = (PROBE.build(), Probe { version: "2", ..PROBE }.build());
    let mut rig = Rig::empty();
    rig.install(&one, true);
    let nothing = rig.one(back_to(&one, Way::Unspecified));
    assert_eq!(code(&nothing), Some(Code::FailedPrecondition));
    assert!(message(&nothing).contains("no module was active before"), "{}", message(&nothing));
    rig.install(&two, false);
    // Again, with reuse: the way back is the same.
    rig.one(activation(&two, true)).unwrap();
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'two')")).unwrap();
    assert_eq!(rig.reader.module_before().unwrap().unwrap().digest, Digest::of(&one));
    // Somebody looked before the swap, and means another module.
    assert_eq!(code(&rig.one(back_to(&two, Way::Unspecified))), Some(Code::FailedPrecondition));

    let reply = RolledBack::decode(rig.one(back_to(&one, Way::Unspecified)).unwrap()).unwrap();
    assert_eq!((reply.data.as_str(), reply.commands_lost), ("unchanged", 0));
    assert_eq!(reply.from_digest, Digest::of(&two).to_string());
    let active = rig.reader.active().unwrap();
    assert_eq!((active.record.digest, active.reuse), (Digest::of(&one), true));
    assert_eq!(rig.text("SELECT v FROM t"), "two");
    assert_eq!(
        happened(&rig),
        ["rolled-back", "rollback-refused", "activated", "activated", "rollback-refused", "activated"]
    );
    let rig = rig.reopen();
    assert_eq!(rig.reader.active().unwrap().record.version, "1.0.0");
    assert_eq!(rig.reader.module_before().unwrap(), None);
}

#[test]
fn a_rollback_leaves_only_the_module_that_it_names() {
    let [one, two, three] = ["1", "2", "3"].map(|version| Probe { version, ..PROBE }.build());
    let digest = |module: &[u8]| Digest::of(module).0;
    let mut rig = Rig::empty();
    for module in [&one, &two, &three] {
        rig.install(module, false);
    }
    let version = |rig: &Rig| rig.reader.active().unwrap().record.version.clone();
    rig.one(back_from(&digest(&three), &two, Way::Unspecified)).unwrap();
    assert_eq!(version(&rig), "2");
    // Somebody who does not know that, and wants three to be left.
    for way in [Way::Unspecified, Way::KeptState] {
        let refused = rig.one(back_from(&digest(&three), &one, way));
        assert_eq!(code(&refused), Some(Code::FailedPrecondition));
        let (present, meant) = (Digest::of(&two).to_string(), Digest::of(&three).to_string());
        assert!([&present, &meant].iter().all(|digest| message(&refused).contains(*digest)), "{}", message(&refused));
        assert!(message(&refused).contains("taken back already"), "{}", message(&refused));
        assert_eq!(version(&rig), "2");
        assert_eq!(happened(&rig)[0], "rollback-refused");
    }
    let refused = rig.one(back_from(b"short", &one, Way::Unspecified));
    assert!(message(&refused).contains("no digest"), "{}", message(&refused));
    rig.one(back_from(&digest(&two), &one, Way::Unspecified)).unwrap();
    assert_eq!(version(&rig), "1");
}

#[test]
fn a_host_without_the_kept_state_refuses_what_all_refuse() {
    let (one, two) = (PROBE.build(), risen().build());
    let mut rig = Rig::empty();
    rig.install(&one, false);
    rig.install(&two, false);
    std::fs::remove_file(rig.dir.join(format!("kept-{}.db", rig.machine.applied_index()))).unwrap();
    let refused = rig.one(back_from(&Digest::of(&one).0, &one, Way::KeptState));
    assert!(message(&refused).contains("taken back already"), "{}", message(&refused));
    assert_eq!(rig.machine.halted(), None);
}

/// The second version of the probe's data layout.
fn risen() -> Probe {
    Probe { version: "2", schema: 2, init: ["ALTER TABLE t ADD COLUMN extra INTEGER DEFAULT 7", ""], ..PROBE }
}

#[test]
fn a_risen_layout_goes_back_only_by_a_downgrade_or_explicitly() {
    let (one, two) = (PROBE.build(), risen().build());
    let mut rig = Rig::empty();
    rig.install(&one, false);
    for sql in [
        "INSERT INTO t VALUES (1, 'kept')",
        "CREATE TABLE o(id INTEGER PRIMARY KEY AUTOINCREMENT, t INTEGER REFERENCES t(k) DEFERRABLE, rowid TEXT)",
        "INSERT INTO o(t, rowid) VALUES (1, 'a'), (1, 'b')",
        "DELETE FROM o WHERE id = 2",
        "CREATE TABLE w(a TEXT, b BLOB, PRIMARY KEY (a)) WITHOUT ROWID",
        "INSERT INTO w VALUES ('x', x'00ff')",
        "CREATE TABLE plain(a, g AS (a || '!'))",
        "INSERT INTO plain(rowid, a) VALUES (40, 'p')",
        "CREATE INDEX plain_a ON plain(a)",
        "CREATE VIEW seen AS SELECT * FROM t JOIN o ON o.t = t.k",
        "CREATE TRIGGER twice AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO w VALUES (new.v, NULL); END",
    ] {
        rig.one(call("exec", sql)).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let walk = |rig: &Rig| {
        [
            "SELECT group_concat(k || coalesce(v, '-'), ' ') FROM t",
            "SELECT group_concat(id || t || rowid, ' ') FROM o",
            "SELECT group_concat(a || hex(b), ' ') FROM w",
            "SELECT group_concat(rowid || a || g, ' ') FROM plain",
            "SELECT group_concat(name || seq, ' ') FROM sqlite_sequence",
            "SELECT group_concat(k || rowid, ' ') FROM seen",
        ]
        .map(|sql| rig.text(sql))
    };
    let (before, used) = (walk(&rig), rig.reader.limits().unwrap().2);
    rig.install(&two, false);
    rig.one(call("exec", "INSERT INTO t VALUES (2, 'lost', 8)")).unwrap();
    rig.one(call("exec", "DELETE FROM plain")).unwrap();

    let refused = rig.one(back_to(&one, Way::Unspecified));
    assert_eq!(code(&refused), Some(Code::FailedPrecondition));
    for words in ["from 1 to 2", "offers no downgrade", "2 commands", "--discard-since-activation"] {
        assert!(message(&refused).contains(words), "{}", message(&refused));
    }
    assert_eq!(rig.reader.active().unwrap().record.version, "2");

    let reply = RolledBack::decode(rig.one(back_to(&one, Way::KeptState)).unwrap()).unwrap();
    assert_eq!((reply.data.as_str(), reply.commands_lost), ("kept-state", 2));
    assert_eq!(walk(&rig), before);
    assert_eq!(rig.reader.limits().unwrap().2, used);
    // Everything of the old schema works: the trigger, the sequence, the foreign key.
    rig.one(call("exec", "INSERT INTO t VALUES (3, 'three')")).unwrap();
    assert_eq!(rig.text("SELECT a FROM w WHERE a = 'three'"), "three");
    rig.one(call("exec", "INSERT INTO o(t, rowid) VALUES (3, 'c')")).unwrap();
    assert_eq!(rig.number("SELECT max(id) FROM o"), 3);
    let stranger = rig.one(call("exec", "INSERT INTO o(t, rowid) VALUES (99, 'd')"));
    assert!(message(&stranger).contains("FOREIGN KEY"), "{}", message(&stranger));
    // And again to the second version, from the layout of the first.
    rig.one(activation(&two, false)).unwrap();
    assert_eq!(rig.number("SELECT extra FROM t WHERE k = 3"), 7);

    let downgrading =
        Probe { version: "3", schema: 3, init: ["SELECT 1", ""], downgrade: "DELETE FROM plain", ..risen() };
    rig.install(&downgrading.build(), false);
    let reply = RolledBack::decode(rig.one(back_to(&two, Way::Unspecified)).unwrap()).unwrap();
    assert_eq!((reply.data.as_str(), reply.commands_lost), ("downgraded", 0));
    assert_eq!(rig.number("SELECT count(*) FROM plain"), 0);
    assert_eq!(rig.number("SELECT count(*) FROM t"), 2);
}

#[test]
fn a_downgrade_that_fails_changes_nothing() {
    let one = PROBE.build();
    let mut rig = Rig::empty();
    rig.install(&one, false);
    rig.install(&Probe { downgrade: "DELETE FROM nowhere", ..risen() }.build(), false);
    let outcome = rig.one(back_to(&one, Way::Unspecified));
    assert!(message(&outcome).contains("the downgrade by module probe 2 failed"), "{}", message(&outcome));
    assert!(message(&outcome).contains("nowhere"), "{}", message(&outcome));
    assert_eq!(rig.reader.active().unwrap().record.version, "2");
    assert_eq!(happened(&rig).first().map(String::as_str), Some("rollback-refused"));
}

#[test]
fn replicas_that_batch_otherwise_or_start_again_go_the_same_way_back() {
    let (one, two) = (PROBE.build(), risen().build());
    let bodies = || {
        vec![
            whole(&one),
            activation(&one, false),
            call("exec", "INSERT INTO t VALUES (1, 'x')"),
            whole(&two),
            call("exec", "INSERT INTO t VALUES (2, 'y')"),
            activation(&two, false),
            call("exec", "INSERT INTO t VALUES (3, 'z', 1)"),
            back_to(&one, Way::KeptState),
            call("exec", "INSERT INTO t VALUES (4, 'w')"),
        ]
    };
    let mut together = Rig::empty();
    let outcomes = together.batch(bodies());
    let mut apart = Rig::empty();
    for (body, expected) in bodies().into_iter().zip(&outcomes) {
        assert_eq!(apart.one(body), *expected);
        apart = apart.reopen();
    }
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(together.digest(), apart.digest());
    assert_eq!(together.reader.effect_digest(), apart.reader.effect_digest());
    assert_eq!(together.text("SELECT group_concat(k, ' ') FROM t"), "1 2 4");
}

#[test]
fn a_host_without_the_kept_state_stands_still_and_says_so() {
    let (one, two) = (PROBE.build(), risen().build());
    let mut rig = Rig::empty();
    rig.install(&one, false);
    rig.install(&two, false);
    let kept: Vec<_> = std::fs::read_dir(&rig.dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("kept-"))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    std::fs::remove_file(&kept[0]).unwrap();
    let next = rig.next();
    let entries = [entry(next, command(next, back_to(&one, Way::KeptState)))];
    assert_eq!(rig.machine.apply(&entries).unwrap(), []);
    assert!(rig.machine.halted().unwrap().contains("kept at index"), "{:?}", rig.machine.halted());
    assert_eq!(rig.reader.active().unwrap().record.version, "2");
}

/// Whether there is a file of the state before the activation at this index.
fn is_kept(rig: &Rig, at: u64) -> bool {
    rig.dir.join(format!("kept-{at}.db")).exists()
}

/// A host whose disk is said to have so many bytes left.
fn sandbox_with_free(folder: &tempfile::TempDir, free_bytes: fn(&Path) -> std::io::Result<u64>) -> Sandbox {
    Sandbox::new(SandboxOptions { free_bytes, ..SandboxOptions::new(folder.path()) }).unwrap()
}

#[test]
fn a_host_without_room_for_the_kept_state_stands_still_until_there_is_some() {
    let (one, two) = (PROBE.build(), risen().build());
    let folder = tempfile::tempdir().unwrap();
    let full = || sandbox_with_free(&folder, |_| Ok(5 << 20));
    let uploaded = || {
        let mut rig = Rig::empty();
        rig.install(&one, false);
        rig.one(whole(&two)).unwrap();
        rig
    };
    let mut rig = uploaded().reopen_on(full());
    let first = rig.next();
    let entries: Vec<_> = [
        whole(&Probe { version: "1.1", ..PROBE }.build()),
        activation(&Probe { version: "1.1", ..PROBE }.build(), false),
        activation(&Probe { version: "unknown", ..PROBE }.build(), false),
        call("exec", "INSERT INTO t VALUES (1, 'x')"),
        activation(&two, false),
        call("exec", "INSERT INTO t VALUES (2, 'y', 3)"),
    ]
    .into_iter()
    .zip(first..)
    .map(|(body, index)| entry(index, command(index, body)))
    .collect();
    // What keeps no state needs no room, and what is refused is refused.
    let outcomes = rig.machine.apply(&entries).unwrap();
    assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
    let why = rig.machine.halted().expect("halted");
    let place = format!("MiB of free disk space in {}, and there are 5", rig.dir.display());
    assert!(why.contains(&place) && why.contains("start this host again"), "{why}");
    assert!(why.contains(&format!("the next entry, {}, activates module probe 2", first + 4)), "{why}");
    // Nothing is half done, and after a start without room it is the same.
    for _ in 0..2 {
        assert_eq!(rig.machine.apply(&entries[4..]).unwrap(), []);
        assert_eq!(rig.machine.halted().as_ref(), Some(&why));
        assert_eq!(rig.reader.active().unwrap().record.version, "1.1");
        assert_eq!(rig.text("SELECT v FROM t"), "x");
        assert!(!is_kept(&rig, first + 4));
        rig = rig.reopen_on(full());
    }

    let mut rig = rig.reopen_on(sandbox_with_free(&folder, |_| Ok(500 << 20)));
    assert!(rig.machine.apply(&entries[4..]).unwrap().iter().all(Result::is_ok));
    assert_eq!(rig.reader.active().unwrap().record.version, "2");
    assert!(is_kept(&rig, first + 4));
    let mut never_full = uploaded();
    never_full.machine.apply(&entries).unwrap();
    assert_eq!(rig.digest(), never_full.digest());
    assert_eq!(rig.reader.effect_digest(), never_full.reader.effect_digest());
}

#[test]
fn a_host_that_cannot_ask_for_free_space_tries() {
    let folder = tempfile::tempdir().unwrap();
    let unknown = sandbox_with_free(&folder, |_| Err(std::io::Error::other("no idea")));
    let mut rig = Rig::probe().reopen_on(unknown);
    rig.install(&risen().build(), false);
    assert!(is_kept(&rig, rig.machine.applied_index()));
}

fn other_sandbox(folder: &tempfile::TempDir) -> Sandbox {
    let options = SandboxOptions { engine: "another engine".to_owned(), ..SandboxOptions::new(folder.path()) };
    Sandbox::new(options).unwrap()
}

#[test]
fn a_host_with_another_engine_stalls_at_the_first_entry_that_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::probe();
    assert_eq!(rig.reader.active().unwrap().record.engine, engine_name());
    // The others have gone over; this host has not.
    let next = rig.next();
    let Body::Activate(activate) = activation(&PROBE.build(), false) else { panic!() };
    let elsewhere = Body::Activate(Activate { engine: "another engine".to_owned(), ..activate });
    let entries: Vec<_> = [call("exec", "INSERT INTO t VALUES (1, 'x')"), elsewhere, call("exec", "DELETE FROM t")]
        .into_iter()
        .zip(next..)
        .map(|(body, index)| entry(index, command(index, body)))
        .collect();
    assert_eq!(rig.machine.apply(&entries).unwrap().len(), 1);
    let why = rig.machine.halted().unwrap();
    assert!(why.contains("[another engine]") && why.contains(engine_name()), "{why}");
    assert_eq!(rig.machine.apply(&entries[1..]).unwrap(), []);
    assert_eq!(rig.machine.applied_index(), next);

    // With that engine it goes on where it stopped. A read before is refused: it would be a guess.
    let mut rig = rig.reopen_on(other_sandbox(&folder));
    assert_eq!(rig.machine.halted(), None);
    assert_eq!(code(&rig.reader.query("q", b"SELECT 1").unwrap().1), Some(Code::FailedPrecondition));
    assert_eq!(rig.machine.apply(&entries[1..]).unwrap().len(), 2);
    assert_eq!(rig.reader.active().unwrap().record.engine, "another engine");
    assert_eq!(rig.number("SELECT count(*) FROM t"), 0);
}

#[test]
fn a_call_under_an_activation_for_another_engine_is_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::probe().reopen_on(other_sandbox(&folder));
    let next = rig.next();
    let entries = [entry(next, command(next, call("exec", "INSERT INTO t VALUES (1, 'x')")))];
    assert_eq!(rig.machine.apply(&entries).unwrap(), []);
    assert!(rig.machine.halted().unwrap().contains("activated for the engine"), "{:?}", rig.machine.halted());
}
