//! The same entries make the same state: however they are batched, wherever a host was stopped, on every replica.

use std::{collections::BTreeMap, path::Path};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use prost::Message;
use telegraft_node::ports::{Machine, Outcome};
use telegraft_proto::internal::{
    Checkpoint, Command, DigestReport, EndReuse, Limits, Rollback, command::Body, rollback::Way,
};
use telegraft_raft::{Entry, Index};
use telegraft_sandbox::Digest;

use crate::probe::{PROBE, Probe, Rig, activation, call, chunk, command, entry, set, whole, with_session};

/// What an entry of a generated history does.
#[derive(Clone, Debug)]
pub enum Step {
    Call(&'static str, String),
    Session(u64, String),
    Upload(usize, usize),
    Activate(usize, bool),
    /// To a module, or the one before the present one; from one if that is named; putting the kept state back or not.
    Rollback(Option<usize>, Option<usize>, bool),
    SetLimits(Limits),
    /// Of a module, or the present one, for what was seen so many entries ago.
    EndReuse(Option<usize>, Index),
    Checkpoint,
    /// By a host, of a checkpoint so many entries ago.
    Report(u64, Index),
    Garbage(Vec<u8>),
    Empty,
}

/// Modules of [`modules`] that are uploaded before all steps.
const UPLOADED: usize = 4;

/// Tables of which DDL fails after it has begun: a parent whose children hold on to it, and rows that no check and no index
/// over their first letters allows.
const TABLES: [&str; 7] = [
    "INSERT INTO t VALUES (100, 'w1'), (101, 'w2')",
    "CREATE TABLE up(k INTEGER PRIMARY KEY)",
    "CREATE TABLE gone(k INTEGER REFERENCES up(k) ON DELETE CASCADE)",
    "CREATE TABLE held(k INTEGER REFERENCES up(k))",
    "INSERT INTO up VALUES (1), (2)",
    "INSERT INTO gone VALUES (1)",
    "INSERT INTO held VALUES (2)",
];

fn rows(many: u32) -> String {
    format!("WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n LIMIT {many})")
}

fn sql() -> impl Strategy<Value = String> {
    (0..12i64, 0..6i64, 0..20usize).prop_map(|(k, v, kind)| match kind {
        0..=4 => format!("INSERT INTO t(k, v) VALUES ({k}, 'v{v}')"),
        5 => format!("INSERT OR REPLACE INTO t(k, v) VALUES ({k}, 'v{v}')"),
        6 => format!("DELETE FROM t WHERE k >= {k}"),
        7 => format!("CREATE TABLE extra{v}(x PRIMARY KEY) WITHOUT ROWID"),
        8 => format!("INSERT INTO extra{v} VALUES ({k})"),
        9 => format!("DROP TABLE extra{v}"),
        // Cost the transaction: where it conflicts, and where a budget is small.
        10 => format!("INSERT OR ROLLBACK INTO t(k, v) VALUES ({}, 'v{v}')", 98 + k % 4),
        11 => format!("INSERT INTO t(k) {} SELECT i FROM n", rows(3000)),
        // DDL that fails with part of its work done: the parent's first child is gone by then; rows in the way; a budget.
        12 => "DROP TABLE up".to_owned(),
        13 => format!("CREATE UNIQUE INDEX first{v} ON t(substr(v, 1, 1))"),
        14 => format!("ALTER TABLE t ADD COLUMN c{v} INTEGER CHECK (k < {k})"),
        15 => format!("CREATE TABLE extra{v} AS {} SELECT printf('%0100d', i) AS x FROM n", rows(300)),
        16 => format!("CREATE TABLE extra{v} AS {} SELECT i AS x FROM n", rows(3000)),
        17 => format!("INSERT INTO held VALUES ({})", k % 3),
        _ => format!("DELETE FROM held WHERE k = {}", k % 3),
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    (0..4usize, 0..3usize).prop_map(|(steps, bytes)| Limits {
        sql_steps: [600, 4_000, 40_000, 1_000_000][steps],
        database_bytes: [250, 2_000, 1 << 30][bytes],
        ..Limits::default()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let methods = prop::sample::select(vec!["exec", "exec", "exec", "exec", "ignore", "fail", "trap", "2", "context"]);
    let modules = 0..modules().len();
    prop_oneof![
        16 => (methods, sql()).prop_map(|(method, sql)| Step::Call(method, sql)),
        6 => (0..5u64, sql()).prop_map(|(request, sql)| Step::Session(request, sql)),
        2 => (modules.clone(), 0..3usize).prop_map(|(module, part)| Step::Upload(module, part)),
        3 => (modules.clone(), any::<bool>()).prop_map(|(module, reuse)| Step::Activate(module, reuse)),
        3 => (prop::option::of(modules.clone()), prop::option::of(modules.clone()), any::<bool>())
            .prop_map(|(to, from, kept)| Step::Rollback(to, from, kept)),
        2 => limits().prop_map(Step::SetLimits),
        2 => (prop::option::of(modules), 0..8u64).prop_map(|(module, ago)| Step::EndReuse(module, ago)),
        1 => Just(Step::Checkpoint),
        1 => (1..3u64, 1..6u64).prop_map(|(host, ago)| Step::Report(host, ago)),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Step::Garbage),
        1 => Just(Step::Empty),
    ]
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}

/// Two data layouts, the second with a way back and without, and one that needs its parts uploaded first.
fn modules() -> &'static [Vec<u8>; 5] {
    static MODULES: std::sync::OnceLock<[Vec<u8>; 5]> = std::sync::OnceLock::new();
    MODULES.get_or_init(|| {
        let risen = Probe { version: "2", schema: 2, ..PROBE };
        [
            PROBE.build(),
            Probe { version: "1.1", ..PROBE }.build(),
            risen.build(),
            Probe { version: "2.1", downgrade: "DELETE FROM t WHERE k % 2 = 0", ..risen.clone() }.build(),
            Probe { version: "2.2", ..risen }.build(),
        ]
    })
}

fn digest_of(module: usize) -> bytes::Bytes {
    Digest::of(&modules()[module]).0.to_vec().into()
}

pub fn entries(steps: &[Step]) -> Vec<Entry> {
    let modules = modules();
    let mut bodies: Vec<Body> = modules[..UPLOADED].iter().map(|module| whole(module)).collect();
    bodies.push(activation(&modules[0], false));
    bodies.push(set(Limits { sql_steps: 40_000, ..Limits::default() }));
    bodies.extend(TABLES.iter().map(|sql| call("exec", sql)));
    // As far as it can be told without applying anything.
    let mut active = vec![0];
    let schema = |module: usize| if module < 2 { 1 } else { 2 };
    let mut entries: Vec<Entry> = bodies.into_iter().zip(1..).map(|(b, i)| entry(i, command(i, b))).collect();
    for (step, i) in steps.iter().zip(entries.len() as Index + 1..) {
        let body = match step {
            Step::Call(method, sql) => call(method, sql),
            Step::Session(_, sql) => call("exec", sql),
            Step::Upload(module, part) => {
                let bytes = &modules[*module];
                let third = bytes.len() / 3;
                let to = if *part == 2 { bytes.len() } else { (part + 1) * third };
                chunk(bytes, part * third, to)
            }
            Step::Activate(module, reuse) => {
                let top = active.last().copied().unwrap_or_default();
                if *module != top && *module < UPLOADED && schema(*module) >= schema(top) {
                    active.push(*module);
                }
                activation(&modules[*module], *reuse)
            }
            Step::Rollback(to, from, kept) => {
                let top = active.last().copied().unwrap_or_default();
                let before = active.iter().rev().nth(1).copied();
                // Of those that name the module to leave, the right one.
                let from = if to.is_none() { from.map(|_| top) } else { *from };
                let risen = before.is_some_and(|before| schema(before) < schema(top));
                if to.is_none() && active.len() > 1 && *kept == risen {
                    active.pop();
                }
                Body::Rollback(Rollback {
                    digest: to.or(before).map(digest_of).unwrap_or_default(),
                    from: from.map(digest_of).unwrap_or_default(),
                    way: if *kept { Way::KeptState } else { Way::Unspecified }.into(),
                    ..Rollback::default()
                })
            }
            Step::SetLimits(limits) => set(*limits),
            Step::EndReuse(module, ago) => {
                let module = module.or(active.last().copied()).unwrap_or_default();
                Body::EndReuse(EndReuse { digest: digest_of(module), index: i - ago })
            }
            Step::Checkpoint => Body::Checkpoint(Checkpoint { voters: 5 }),
            // No majority of the five says so, or the machine would stand still.
            Step::Report(host_id, ago) => {
                let digest = vec![*host_id as u8; 32].into();
                Body::DigestReport(DigestReport { index: i - ago, host_id: *host_id, digest })
            }
            Step::Garbage(_) | Step::Empty => call("", ""),
        };
        let whole = entry(i, command(i, body.clone()));
        entries.push(match step {
            Step::Session(request, _) => entry(i, with_session(command(i, body), "client", *request)),
            Step::Garbage(bytes) => Entry { data: bytes::Bytes::copy_from_slice(bytes), ..whole },
            Step::Empty => Entry { data: bytes::Bytes::new(), ..whole },
            _ => whole,
        });
    }
    entries
}

/// What came of the entries, and what the machine asked to be proposed: answers to checkpoints, and nothing else, since
/// these modules keep nothing in memory.
fn apply_in(rig: &mut Rig, entries: &[Entry], cuts: &[usize]) -> (Vec<Outcome>, Vec<DigestReport>) {
    let mut outcomes = Vec::new();
    let mut rest = entries;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let n = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
        let (batch, later) = rest.split_at(n);
        outcomes.extend(rig.machine.apply(batch).expect("apply"));
        assert_eq!(rig.machine.halted(), None);
        rest = later;
    }
    let asked = rig.machine.take_proposals().into_iter().map(|asked| Command::decode(asked).expect("command").body);
    let report = |body| match body {
        Some(Body::DigestReport(report)) => report,
        other => panic!("{other:?}"),
    };
    (outcomes, asked.map(report).collect())
}

/// The files as they lie, without closing the machine: what `kill -9` leaves.
fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("list") {
        let name = file.expect("file").file_name();
        // Shared memory is made anew.
        if name != "machine.db-shm" {
            std::fs::copy(from.join(&name), to.join(&name)).expect("copy");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn batches_and_restarts_do_not_show_in_the_state(
        steps in steps(),
        cuts in prop::collection::vec(1..20usize, 1..8),
        stop in 0..72usize,
    ) {
        let entries = entries(&steps);
        let mut one_by_one = Rig::empty();
        let (outcomes, reports) = apply_in(&mut one_by_one, &entries, &[1]);
        let (digest, effects) = (one_by_one.digest(), one_by_one.reader.effect_digest());

        let mut all_at_once = Rig::empty();
        let (together, asked) = apply_in(&mut all_at_once, &entries, &[usize::MAX]);
        prop_assert_eq!(&together, &outcomes);
        prop_assert_eq!(asked, reports);
        prop_assert_eq!(&all_at_once.digest(), &digest);
        prop_assert_eq!(all_at_once.reader.effect_digest(), effects);

        // Another batching; killed at some entry; the copy goes on where it was, and is handed old entries too.
        let mut killed = Rig::empty();
        let stop = stop.min(entries.len());
        let (before, _) = entries.split_at(stop);
        let (first, _) = apply_in(&mut killed, before, &cuts);
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

/// What is drawn must reach what it is there for.
#[test]
fn the_drawn_histories_do_all_that_they_are_to() {
    let mut runner = TestRunner::deterministic();
    let mut reached: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..40 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let entries = entries(&steps);
        let mut rig = Rig::empty();
        rig.machine.measure(true);
        let (outcomes, reports) = apply_in(&mut rig, &entries, &[usize::MAX]);
        let mut reach = |what: String, often: usize| *reached.entry(what).or_default() += often;
        let mut runs: Vec<Index> = rig.machine.take_costs().into_iter().map(|(index, _)| index).collect();
        let all = runs.len();
        runs.sort_unstable();
        runs.dedup();
        reach("run again".to_owned(), all - runs.len());
        reach("answered".to_owned(), reports.len());
        for record in rig.reader.history(1000).unwrap() {
            let way = record.detail.rsplit("data ").next().and_then(|way| way.split(',').next()).unwrap_or_default();
            let way = if record.what == "rolled-back" { format!("rolled-back {way}") } else { record.what };
            reach(way, 1);
        }
        for (step, outcome) in steps.iter().zip(&outcomes[entries.len() - steps.len()..]) {
            let failed = outcome.as_ref().err().map(|rejection| rejection.message.as_str());
            let what = match (step, failed) {
                (Step::Call("exec", sql) | Step::Session(_, sql), Some(why)) => {
                    let words = ["rolled the whole", "FOREIGN KEY", "UNIQUE", "CHECK", "SQL budget", "database_bytes"];
                    let word = words.into_iter().find(|word| why.contains(word)).unwrap_or("otherwise");
                    format!("{}: {word}", sql.split(' ').take(2).collect::<Vec<_>>().join(" "))
                }
                (Step::Rollback(_, Some(_), _), Some(why)) if why.contains("is to leave") => {
                    "left by others".to_owned()
                }
                (Step::Rollback(_, Some(_), _), None) => "left as meant".to_owned(),
                _ => continue,
            };
            reach(what, 1);
        }
    }
    for (what, at_least) in [
        ("run again", 100),
        ("answered", 10),
        // One comes before all steps.
        ("limits-set", 40 + 20),
        ("rolled-back unchanged", 3),
        ("rolled-back downgraded", 3),
        ("rolled-back kept-state", 3),
        ("rollback-refused", 20),
        ("left by others", 10),
        ("left as meant", 3),
        ("reuse-ended", 3),
        ("DROP TABLE: FOREIGN KEY", 10),
        ("CREATE UNIQUE: UNIQUE", 10),
        ("ALTER TABLE: CHECK", 10),
        ("CREATE TABLE: database_bytes", 3),
        ("CREATE TABLE: SQL budget", 3),
        ("INSERT INTO: SQL budget", 3),
        ("INSERT OR: rolled the whole", 3),
    ] {
        let times = reached.get(what).copied().unwrap_or_default();
        assert!(times >= at_least, "{what}: {times} times; {reached:#?}");
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
