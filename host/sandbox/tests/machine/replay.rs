//! The same entries make the same state: however they are batched, wherever a host was stopped, on every replica.

use std::path::Path;

use proptest::prelude::*;
use telegraft_node::ports::{Machine, Outcome};
use telegraft_proto::internal::command::Body;
use telegraft_raft::Entry;

use crate::probe::{PROBE, Probe, Rig, activation, call, chunk, command, entry, whole, with_session};

/// What an entry of a generated history does.
#[derive(Clone, Debug)]
enum Step {
    Call(&'static str, String),
    Session(u64, String),
    Upload(usize, usize),
    Activate(usize, bool),
    Garbage(Vec<u8>),
    Empty,
}

fn step() -> impl Strategy<Value = Step> {
    let sql = (0..12i64, 0..6i64, 0..9usize).prop_map(|(k, v, kind)| match kind {
        0..=2 => format!("INSERT INTO t VALUES ({k}, 'v{v}')"),
        3 => format!("INSERT OR REPLACE INTO t VALUES ({k}, 'v{v}')"),
        4 => format!("DELETE FROM t WHERE k >= {k}"),
        5 => format!("CREATE TABLE extra{v}(x PRIMARY KEY) WITHOUT ROWID"),
        6 => format!("INSERT INTO extra{v} VALUES ({k})"),
        7 => format!("DROP TABLE extra{v}"),
        // Costs the transaction where it conflicts.
        _ => format!("INSERT OR ROLLBACK INTO t VALUES ({k}, 'v{v}')"),
    });
    let methods = prop::sample::select(vec!["exec", "exec", "ignore", "fail", "trap", "2", "context"]);
    prop_oneof![
        6 => (methods, sql.clone()).prop_map(|(method, sql)| Step::Call(method, sql)),
        3 => (0..5u64, sql).prop_map(|(request, sql)| Step::Session(request, sql)),
        1 => (0..2usize, 0..3usize).prop_map(|(module, part)| Step::Upload(module, part)),
        1 => (0..2usize, any::<bool>()).prop_map(|(module, reuse)| Step::Activate(module, reuse)),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Step::Garbage),
        1 => Just(Step::Empty),
    ]
}

fn modules() -> &'static [Vec<u8>; 2] {
    static MODULES: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
    MODULES.get_or_init(|| [PROBE.build(), Probe { version: "2", schema: 2, ..PROBE }.build()])
}

fn entries(steps: &[Step]) -> Vec<Entry> {
    let modules = modules();
    let prologue: [Body; 2] = [whole(&modules[0]), activation(&modules[0], false)];
    let mut entries: Vec<Entry> = prologue.into_iter().zip(1..).map(|(b, i)| entry(i, command(i, b))).collect();
    for (step, i) in steps.iter().zip(3..) {
        entries.push(match step {
            Step::Call(method, sql) => entry(i, command(i, call(method, sql))),
            Step::Session(request, sql) => entry(i, with_session(command(i, call("exec", sql)), "client", *request)),
            Step::Upload(module, part) => {
                let bytes = &modules[*module];
                let third = bytes.len() / 3;
                let to = if *part == 2 { bytes.len() } else { (part + 1) * third };
                entry(i, command(i, chunk(bytes, part * third, to)))
            }
            Step::Activate(module, reuse) => entry(i, command(i, activation(&modules[*module], *reuse))),
            Step::Garbage(bytes) => {
                Entry { data: bytes::Bytes::copy_from_slice(bytes), ..entry(i, command(i, call("", ""))) }
            }
            Step::Empty => Entry { data: bytes::Bytes::new(), ..entry(i, command(i, call("", ""))) },
        });
    }
    entries
}

fn apply_in(rig: &mut Rig, entries: &[Entry], cuts: &[usize]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut rest = entries;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let n = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
        let (batch, later) = rest.split_at(n);
        outcomes.extend(rig.machine.apply(batch).expect("apply"));
        rest = later;
    }
    outcomes
}

/// The files as they lie, without closing the machine: what `kill -9` leaves.
fn copy_files(from: &Path, to: &Path) {
    for name in ["machine.db", "machine.db-wal"] {
        std::fs::copy(from.join(name), to.join(name)).expect(name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn batches_and_restarts_do_not_show_in_the_state(
        steps in prop::collection::vec(step(), 1..60),
        cuts in prop::collection::vec(1..20usize, 1..8),
        stop in 0..60usize,
    ) {
        let entries = entries(&steps);
        let mut one_by_one = Rig::empty();
        let outcomes = apply_in(&mut one_by_one, &entries, &[1]);
        let (digest, effects) = (one_by_one.digest(), one_by_one.reader.effect_digest());

        let mut all_at_once = Rig::empty();
        prop_assert_eq!(&apply_in(&mut all_at_once, &entries, &[usize::MAX]), &outcomes);
        prop_assert_eq!(&all_at_once.digest(), &digest);
        prop_assert_eq!(all_at_once.reader.effect_digest(), effects);

        // Another batching; killed at some entry; the copy goes on where it was, and is handed old entries too.
        let mut killed = Rig::empty();
        let stop = stop.min(entries.len());
        let (before, _) = entries.split_at(stop);
        let first = apply_in(&mut killed, before, &cuts);
        prop_assert_eq!(first.as_slice(), &outcomes[..stop]);
        let folder = tempfile::tempdir().unwrap();
        copy_files(&killed.dir, folder.path());
        let mut restarted = Rig::at(folder.path());
        prop_assert_eq!(restarted.machine.applied_index(), stop as u64);
        let again = restarted.machine.apply(&entries).unwrap();
        prop_assert_eq!(&again[stop..], &outcomes[stop..]);
        prop_assert_eq!(&restarted.digest(), &digest);
        prop_assert_eq!(restarted.reader.effect_digest(), effects);
    }
}

#[test]
fn twins_have_one_digest_and_different_data_has_another() {
    let run = |last: &str| {
        let mut rig = Rig::probe();
        rig.one(call("exec", "CREATE TABLE w(a, b, PRIMARY KEY (b, a)) WITHOUT ROWID")).unwrap();
        rig.one(call("exec", "CREATE TABLE odd(rowid TEXT, _rowid_, oid, \"select\")")).unwrap();
        rig.one(call("exec", "CREATE TABLE implicit(x)")).unwrap();
        rig.one(call("exec", "INSERT INTO odd VALUES ('x', 1, 2.5, x'00')")).unwrap();
        rig.one(call("exec", "INSERT INTO w VALUES (2, 1), (1, 2)")).unwrap();
        rig.one(call("ignore", last)).unwrap();
        rig.digest()
    };
    let digests: Vec<String> = [
        "SELECT 1",
        "UPDATE w SET a = 3 WHERE a = 2",
        "UPDATE odd SET \"select\" = x'01'",
        "UPDATE odd SET _rowid_ = '1'",
        "UPDATE odd SET _rowid_ = 1.0",
        "CREATE INDEX i ON w(a)",
        "INSERT INTO t VALUES (1, NULL)",
        "INSERT INTO t VALUES (2, NULL)",
        "INSERT INTO t VALUES (1, '')",
        "INSERT INTO implicit(rowid, x) VALUES (1, 'x')",
        "INSERT INTO implicit(rowid, x) VALUES (2, 'x')",
    ]
    .into_iter()
    .map(run)
    .collect();
    assert_eq!(run("SELECT 1"), digests[0]);
    for (i, a) in digests.iter().enumerate() {
        for b in &digests[..i] {
            assert_ne!(a, b, "{i}");
        }
    }
}

#[test]
fn the_digest_does_not_depend_on_how_the_file_lies_on_disk() {
    let mut rig = Rig::probe();
    for k in 0..200 {
        rig.one(call("exec", format!("INSERT INTO t VALUES ({k}, '{k:0>100}')"))).unwrap();
    }
    rig.one(call("exec", "DELETE FROM t WHERE k % 3 = 0")).unwrap();
    let digest = rig.digest();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("machine.db");
    let source = rusqlite::Connection::open(rig.dir.join("machine.db")).unwrap();
    source.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    let mut twin = Rig::at(folder.path());
    assert_eq!(twin.digest(), digest);
    // And it goes on like the original.
    for rig in [&mut rig, &mut twin] {
        rig.one(call("exec", "INSERT INTO t(v) SELECT 'x' || k FROM t LIMIT 10")).unwrap();
    }
    assert_eq!(twin.digest(), rig.digest());
}
