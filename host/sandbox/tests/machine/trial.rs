//! Trials: a dry run and a rehearsal tell the truth, and leave the machine as it is.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use telegraft_node::ports::{Code, Machine, Outcome};
use telegraft_proto::internal::{Command, Limits, command::Body};
use telegraft_raft::{Index, MemStorage};
use telegraft_sandbox::trial::{
    Candidate, Change, Difference, DryRun, Rehearsal, RehearsalEvent, RehearsalStage, Trial, TrialError,
};

use crate::probe::{PROBE, Probe, Rig, activation, call, command, entry, message, sandbox, whole, with_session};

/// A machine whose entries are kept in a log.
pub struct Logged {
    pub rig: Rig,
    pub log: MemStorage,
}

impl Logged {
    pub fn empty() -> Logged {
        Logged { rig: Rig::empty(), log: MemStorage::new() }
    }

    /// With the probe active, at index 2.
    pub fn probe() -> Logged {
        let mut logged = Logged::empty();
        logged.install(&PROBE);
        logged
    }

    pub fn install(&mut self, probe: &Probe) {
        self.install_with(probe, false);
    }

    pub fn install_with(&mut self, probe: &Probe, reuse: bool) {
        let module = probe.build();
        for body in [whole(&module), activation(&module, reuse)] {
            let outcome = self.one(body);
            assert!(outcome.is_ok(), "{outcome:?}");
        }
    }

    pub fn one(&mut self, body: Body) -> Outcome {
        let index = self.rig.next();
        self.command(command(index, body))
    }

    fn command(&mut self, command: Command) -> Outcome {
        let entry = entry(self.rig.next(), command);
        self.log.append(std::slice::from_ref(&entry)).expect("append");
        self.rig.machine.apply(&[entry]).expect("apply").remove(0)
    }

    pub fn insert(&mut self, k: u32) {
        let outcome = self.one(call("execute", format!("INSERT INTO t VALUES({k}, 'v{k}')")));
        assert!(outcome.is_ok(), "{outcome:?}");
    }

    fn folder(&self) -> PathBuf {
        self.rig.dir.join("trials")
    }

    pub fn dry_run(&self, probe: &Probe) -> Result<DryRun, TrialError> {
        dry_run(&self.rig, &candidate(probe))
    }

    pub fn rehearse(&self, probe: &Probe, last: u64) -> Result<(Rehearsal, Vec<Difference>), TrialError> {
        self.rehearse_seen(probe, last).map(|(report, seen)| (report, differences(seen)))
    }

    pub fn rehearse_seen(&self, probe: &Probe, last: u64) -> Result<(Rehearsal, Vec<RehearsalEvent>), TrialError> {
        let mut seen = Vec::new();
        let (folder, sandbox) = (self.folder(), sandbox());
        let trial = Trial { sandbox: &sandbox, live: &self.rig.reader, folder: &folder, stop: &|| false };
        let report = trial.rehearse(&candidate(probe), &self.log, last, &mut |event| {
            if !matches!(event, RehearsalEvent::Progress { .. }) {
                seen.push(event);
            }
        })?;
        Ok((report, seen))
    }

    /// What a trial must not move.
    pub fn fingerprint(&self) -> (Index, String, Vec<telegraft_sandbox::ModuleRecord>) {
        (self.rig.reader.applied_index(), self.rig.digest(), self.rig.reader.modules().expect("modules"))
    }

    pub fn nothing_is_left(&self) {
        let left: Vec<_> = fs::read_dir(self.folder()).expect("folder").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub fn differences(seen: Vec<RehearsalEvent>) -> Vec<Difference> {
    let difference = |event| match event {
        RehearsalEvent::Difference(difference) => Some(*difference),
        _ => None,
    };
    seen.into_iter().filter_map(difference).collect()
}

fn dry_run(rig: &Rig, candidate: &Candidate) -> Result<DryRun, TrialError> {
    let (folder, sandbox) = (rig.dir.join("trials"), sandbox());
    Trial { sandbox: &sandbox, live: &rig.reader, folder: &folder, stop: &|| false }.dry_run(candidate)
}

fn candidate(probe: &Probe) -> Candidate {
    of_bytes(probe.build())
}

fn of_bytes(bytes: Vec<u8>) -> Candidate {
    Candidate { bytes: bytes.into(), reuse: false, limits: None, time_us: 77_000_000, entropy: (7, 8) }
}

/// Another version that answers `x…` otherwise and traps at `y…`.
pub fn other() -> Probe {
    Probe {
        version: "2.0.0",
        call_text:
            "(if (i32.eq (local.get $letter) (i32.const 120)) (then (return (call $ok_number (i64.const 4711)))))
        (if (i32.eq (local.get $letter) (i32.const 121)) (then (unreachable)))",
        ..PROBE
    }
}

/// Another version whose data layout has risen.
fn risen() -> Probe {
    Probe {
        version: "2.0.0",
        schema: 2,
        init: ["ALTER TABLE t ADD COLUMN n INTEGER", "UPDATE t SET n = ?1 + k"],
        ..PROBE
    }
}

#[test]
fn a_dry_run_tells_what_the_activation_would_do_and_does_none_of_it() {
    let mut logged = Logged::probe();
    (1..=3).for_each(|k| logged.insert(k));
    let before = logged.fingerprint();

    let run = logged.dry_run(&risen()).unwrap();
    assert_eq!(run.index, 5);
    assert_eq!((run.inspection.version.as_str(), run.inspection.schema), ("2.0.0", 2));
    let did = &run.activation;
    assert_eq!((did.refused.as_ref(), did.from_schema, did.init_runs), (None, Some(1), true));
    let [change] = did.schema_changes.as_slice() else { panic!("{:?}", did.schema_changes) };
    assert_eq!((change.change, change.kind.as_str(), change.name.as_str()), (Change::Changed, "table", "t"));
    assert_eq!(change.before, "CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT UNIQUE)");
    assert!(change.after.contains("n INTEGER"), "{change:?}");
    assert_eq!(did.table_changes.keys().collect::<Vec<_>>(), ["t"]);
    let rows = did.table_changes["t"];
    assert_eq!((rows.inserted, rows.updated, rows.deleted), (0, 3, 0));
    assert!(did.cost.fuel > 0 && did.cost.sql_steps > 3 && did.cost.time > Duration::ZERO, "{:?}", did.cost);
    assert!(run.database_bytes > 0);

    assert_eq!(logged.fingerprint(), before);
    logged.nothing_is_left();
    // What it foretold comes true.
    logged.install(&risen());
    assert_eq!(logged.rig.number("SELECT sum(n) FROM t"), 3 + 1 + 2 + 3);
}

#[test]
fn a_dry_run_of_a_name_that_is_new_runs_init_and_tells_what_it_creates() {
    let logged = Logged::probe();
    let other = Probe { name: "other", init: ["CREATE TABLE o(a)", "INSERT INTO o VALUES(?1)"], ..PROBE };
    let did = logged.dry_run(&other).unwrap().activation;
    assert_eq!((did.from_schema, did.init_runs, did.refused), (None, true, None));
    assert_eq!(
        did.schema_changes.iter().map(|c| (c.change, c.name.as_str())).collect::<Vec<_>>(),
        [(Change::Created, "o")]
    );
    assert_eq!(did.table_changes["o"].inserted, 1);
    // And on a machine that never had a module.
    assert_eq!(Logged::empty().dry_run(&other).unwrap().activation.refused, None);
}

#[test]
fn a_dry_run_of_the_same_layout_runs_no_init() {
    let logged = Logged::probe();
    let did = logged.dry_run(&other()).unwrap().activation;
    assert_eq!((did.from_schema, did.init_runs, did.refused.as_ref()), (Some(1), false, None));
    assert!(did.schema_changes.is_empty() && did.table_changes.is_empty(), "{did:?}");
}

#[test]
fn a_dry_run_gives_the_reason_for_which_an_activation_would_be_refused() {
    let mut logged = Logged::probe();
    logged.insert(1);
    let before = logged.fingerprint();
    let refusal = |probe: &Probe| logged.dry_run(probe).unwrap().activation;
    for (what, probe, code, words) in [
        // Its first statement is carried out, and undone.
        (
            "a constraint",
            Probe { init: [risen().init[0], "INSERT INTO t(k) VALUES(?1)"], ..risen() },
            Code::NotFound,
            "UNIQUE",
        ),
        ("a trap", Probe { init_text: "(unreachable)", ..risen() }, Code::Aborted, "trapped"),
        ("no end", Probe { init_text: "(loop $l (br $l))", ..risen() }, Code::Aborted, "fuel"),
    ] {
        let did = refusal(&probe);
        let rejection = did.refused.unwrap_or_else(|| panic!("{what}"));
        assert!(rejection.code == code && rejection.message.contains(words), "{what}: {rejection:?}");
        assert!(rejection.message.contains("init"), "{what}: {rejection:?}");
        assert!(did.schema_changes.is_empty() && did.table_changes.is_empty(), "{what}");
    }
    assert_eq!(logged.fingerprint(), before);

    logged.install(&risen());
    let lower = logged.dry_run(&PROBE).unwrap().activation.refused.expect("a lower layout");
    assert_eq!(lower.code, Code::FailedPrecondition);
    assert!(matches!(dry_run(&logged.rig, &of_bytes(b"no module".to_vec())), Err(TrialError::Module(_))));
    logged.nothing_is_left();
}

#[test]
fn a_dry_run_is_held_to_the_machines_budgets() {
    let logged = Logged::probe();
    let slow = Candidate {
        limits: Some(Limits { fuel: 100, ..Limits::default() }),
        ..candidate(&Probe { name: "slow", ..PROBE })
    };
    // Whichever budgets hold: the activation's own in a machine where none were set, the machine's where they were.
    let tried = dry_run(&logged.rig, &slow).unwrap().activation;
    let mut really = logged;
    let module = slow.bytes.to_vec();
    really.one(whole(&module)).unwrap();
    let outcome = really.one(crate::probe::activation_with(&module, false, slow.limits));
    assert_eq!(tried.refused.as_ref(), outcome.as_ref().err(), "{}", message(&outcome));
}

#[test]
fn a_rehearsal_of_the_same_code_finds_no_difference() {
    let mut logged = Logged::probe();
    (1..=40).for_each(|k| logged.insert(k));
    let mut outcomes = Vec::new();
    for k in 41..=60_u32 {
        let insert = format!("INSERT INTO t VALUES({k}, 'v{}')", k % 50);
        for (method, sql) in [
            // Index, time and entropy are in the reply.
            ("context", ""),
            ("execute", insert.as_str()),
            ("query", "SELECT count(*) FROM t"),
            ("fail", "DELETE FROM t"),
            ("trap", "DELETE FROM t"),
            ("memory", ""),
        ] {
            outcomes.push(logged.one(call(method, sql)));
        }
        // Sent twice: the second is answered without the module.
        for _ in 0..2 {
            let command = command(logged.rig.next(), call("execute", "INSERT INTO t(v) VALUES(NULL)"));
            outcomes.push(logged.command(with_session(command, "client", u64::from(k))));
        }
    }
    let replies = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    let all = outcomes.len() as u64;
    assert!(replies > 80 && all - replies > 40, "{replies} of {all}");
    let before = logged.fingerprint();

    // Of the same behaviour, and other bytes.
    let (report, differences) = logged.rehearse(&Probe { version: "1.0.1", ..PROBE }, all).unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!((report.commands, report.differing, report.notes.len()), (all, 0, 0), "{:?}", report.notes);
    assert_eq!((report.first_index, report.last_index), (43, 42 + all));
    for cost in [report.cost_before, report.cost_after] {
        assert_eq!((cost.replies, cost.rejections), (replies, all - replies));
        assert_eq!((cost.traps, cost.exhausted), (20, 0));
        assert!(cost.fuel > 0 && cost.fuel_max < cost.fuel && cost.time_ns_max < cost.time_ns, "{cost:?}");
    }
    assert_eq!(report.cost_before.fuel, report.cost_after.fuel);
    assert_eq!(report.cost_before.sql_steps, report.cost_after.sql_steps);
    assert_eq!(logged.fingerprint(), before);
    logged.nothing_is_left();
}

#[test]
fn a_rehearsal_shows_each_difference_and_no_other() {
    let mut logged = Logged::probe();
    (1..=9).for_each(|k| logged.insert(k));
    let mut expected = Vec::new();
    for k in 10..=200_u32 {
        let method = match k % 40 {
            0 => "x",
            20 => "y",
            _ => "execute",
        };
        if method != "execute" {
            expected.push((logged.rig.next(), method));
        }
        logged.one(call(method, format!("INSERT INTO t VALUES({k}, 'v{k}')"))).unwrap();
        logged.one(call("context", "")).unwrap();
    }
    let (report, differences) = logged.rehearse(&other(), 382).unwrap();
    let found: Vec<_> = differences.iter().map(|d| (d.index, d.method.as_str())).collect();
    assert_eq!(found, expected);
    assert_eq!((report.commands, report.differing), (382, expected.len() as u64));
    for difference in &differences {
        assert!(difference.before.outcome.as_ref().is_ok_and(|reply| reply.len() == 8), "{difference:?}");
        assert!(difference.payload.starts_with(b"INSERT INTO t VALUES("), "{difference:?}");
        match difference.method.as_str() {
            "x" => assert_eq!(difference.after.outcome.as_deref(), Ok(&4711_u64.to_le_bytes()[..])),
            _ => assert!(message(&difference.after.outcome).contains("trapped"), "{difference:?}"),
        }
        assert!(difference.before.cost.fuel > 0 && difference.before.cost.time > Duration::ZERO, "{difference:?}");
    }
    assert_eq!((report.cost_before.traps, report.cost_after.traps), (0, 5));
    assert_eq!(report.cost_after.rejections, 5);
    // Fewer are asked for: the same counted from the end.
    let (report, differences) = logged.rehearse(&other(), 4).unwrap();
    assert_eq!((report.commands, report.differing, differences.len()), (4, 1, 1));
    assert_eq!(report.first_index, report.last_index - 3);
}

#[test]
fn a_rehearsal_migrates_the_state_from_before_the_commands() {
    let mut logged = Logged::probe();
    (1..=10).for_each(|k| logged.insert(k));
    logged.one(call("query", "SELECT count(*) FROM t")).unwrap();
    let (report, differences) = logged.rehearse(&risen(), 4).unwrap();
    // Seven rows were there before the newest four commands.
    assert_eq!(report.activation.activation.table_changes["t"].updated, 7);
    assert_eq!(report.activation.index, 9);
    // The new column makes INSERT without column names fail.
    assert_eq!(differences.iter().map(|d| d.index).collect::<Vec<_>>(), [10, 11, 12, 13]);
    assert!(message(&differences[0].after.outcome).contains("columns"), "{differences:?}");

    let failing = Probe { init_text: "(unreachable)", ..risen() };
    let (report, _) = logged.rehearse(&failing, 4).unwrap();
    assert!(report.activation.activation.refused.is_some_and(|why| why.message.contains("trapped")));
    assert_eq!((report.commands, report.notes.len()), (0, 1));
}

#[test]
fn a_rehearsal_that_cannot_be_says_why() {
    let empty = Logged::empty();
    assert_eq!(empty.rehearse(&other(), 1).unwrap_err(), TrialError::NoModule);
    let mut logged = Logged::probe();
    assert_eq!(logged.rehearse(&other(), 1).unwrap_err(), TrialError::NoCommands { since: 2 });
    (1..=9).for_each(|k| logged.insert(k));
    logged.log.compact(5).unwrap();
    let error = logged.rehearse(&other(), 1).unwrap_err();
    assert_eq!(error, TrialError::Compacted { first: 6 });
    assert!(error.to_string().contains("compacted"), "{error}");
}

#[test]
fn a_trial_that_nobody_waits_for_ends_and_leaves_nothing() {
    let mut logged = Logged::probe();
    (1..=200).for_each(|k| logged.insert(k));
    let (folder, sandbox) = (logged.folder(), sandbox());
    // Each look is the one at which it is noticed, until one rehearsal comes to its end.
    let mut stages = Vec::new();
    for patience in 0.. {
        let (looks, stage) = (AtomicUsize::new(0), std::cell::Cell::new(RehearsalStage::Compiling));
        let stop = || looks.fetch_add(1, Relaxed) >= patience;
        let trial = Trial { sandbox: &sandbox, live: &logged.rig.reader, folder: &folder, stop: &stop };
        let ended = trial.rehearse(&candidate(&other()), &logged.log, 150, &mut |event| {
            if let RehearsalEvent::Progress { stage: at, .. } = event {
                stage.set(at);
            }
        });
        if folder.exists() {
            logged.nothing_is_left();
        }
        match ended {
            Err(error) => assert_eq!(error, TrialError::Stopped),
            Ok(_) => break,
        }
        stages.push(stage.get());
    }
    stages.dedup();
    use RehearsalStage::{Compiling, Copying, Rebuilding, Replaying};
    assert_eq!(stages, [Compiling, Rebuilding, Copying, Replaying]);
}

#[test]
fn apply_goes_on_beside_trials() {
    let mut logged = Logged::probe();
    for k in 1..=30_u32 {
        let sql = format!(
            "INSERT INTO t SELECT {k} * 1000 + value, hex(zeroblob(500)) || value || ' {k}' FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]')"
        );
        logged.one(call("execute", sql)).unwrap();
    }
    let Rig { dir, mut machine, reader, .. } = logged.rig;
    let over = Arc::new(AtomicBool::new(false));
    let (first, done) = (machine.applied_index() + 1, Arc::clone(&over));
    let writer = std::thread::spawn(move || {
        let mut slowest = Duration::ZERO;
        for index in first.. {
            if done.load(Relaxed) {
                break;
            }
            let body = call("execute", format!("INSERT INTO t VALUES({index} + 1000000, 'load {index}')"));
            let begun = Instant::now();
            machine.apply(&[entry(index, command(index, body))]).expect("apply").remove(0).expect("insert");
            slowest = slowest.max(begun.elapsed());
        }
        (machine.applied_index(), slowest)
    });
    // Looked at while the copy's read transaction is open: an entry is applied, and seen, before each step.
    let looks = AtomicUsize::new(0);
    let stop = || {
        looks.fetch_add(1, Relaxed);
        let (before, begun) = (reader.applied_index(), Instant::now());
        while reader.applied_index() == before {
            assert!(begun.elapsed() < Duration::from_secs(30), "apply stands still");
            std::thread::yield_now();
        }
        false
    };
    let (folder, sandbox) = (dir.join("trials"), sandbox());
    let trial = Trial { sandbox: &sandbox, live: &reader, folder: &folder, stop: &stop };
    for _ in 0..5 {
        let before = reader.applied_index();
        let run = trial.dry_run(&candidate(&risen())).unwrap();
        let after = reader.applied_index();
        assert!((before..after).contains(&run.index), "{before} {} {after}", run.index);
        // Every row that was there at its index, and no other.
        assert_eq!(run.activation.table_changes["t"].updated, 600 + run.index - (first - 1));
    }
    over.store(true, Relaxed);
    let (applied, slowest) = writer.join().unwrap();
    println!("{} entries beside five dry runs ({looks:?} looks), the slowest {slowest:?}", applied + 1 - first);
    assert!(looks.into_inner() >= 15);
}
