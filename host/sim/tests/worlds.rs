//! Worlds as wholes: the same seed gives the same events, a small fleet of them passes, and every seed that once showed a
//! bug passes too.

use telegraft_sim::{
    run::{Report, Run, keep_panics_quiet},
    settings::MachineKind,
    shrink::shrink,
};

/// Seeds that showed a bug which is mended now: seed, machine, first voters (0: the seed decides), the bug. With the
/// feature `defects` they are held against the bug put back, see `found_seeds_still_show_their_bug`.
const REGRESSIONS: &str = include_str!("regressions.txt");

struct Regression {
    run: Run,
    bug: String,
}

fn regressions() -> Vec<Regression> {
    let lines = REGRESSIONS.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let regression = |line: &str| {
        let [seed, machine, voters, bug] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("a line of regressions.txt has other than four words: {line:?}");
        };
        let machine = match machine {
            "plain" => MachineKind::Plain,
            "wasm" => MachineKind::Wasm,
            other => panic!("there is no machine {other:?}"),
        };
        let run = Run::of(seed.parse().expect("a seed is a number"), machine);
        Regression { run: Run { voters: voters.parse().expect("a number of voters"), ..run }, bug: bug.to_owned() }
    };
    lines.map(regression).collect()
}

fn run(run: &Run) -> Report {
    keep_panics_quiet();
    run.report().expect("the simulator has what it needs")
}

fn assert_passes(of: &Run) {
    let report = run(of);
    if let Some(violation) = report.violation {
        // Not `assert!`: the quiet panic hook would swallow the words.
        eprintln!("seed {}: {violation}\n  {}", of.seed, of.replay_command());
        std::process::exit(1);
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for machine in [MachineKind::Plain, MachineKind::Wasm] {
        for seed in [1, 7, 23] {
            let first = run(&Run::of(seed, machine));
            let second = std::thread::spawn(move || run(&Run::of(seed, machine))).join().unwrap();
            assert_eq!(first.digest, second.digest, "seed {seed} with {machine:?}");
            assert_eq!(first.tally.events, second.tally.events);
            let other = run(&Run::of(seed + 1, machine));
            assert_ne!(first.digest, other.digest);
        }
    }
}

#[test]
fn a_trace_changes_nothing() {
    let plain = Run::of(5, MachineKind::Plain);
    let traced = run(&Run { trace: true, ..plain.clone() });
    assert_eq!(run(&plain).digest, traced.digest);
    assert!(traced.lines.len() > 100 && traced.lines.iter().any(|line| line.contains("Leader")));
}

#[test]
fn what_is_left_out_of_the_plan_does_not_happen() {
    let all = Run::of(3, MachineKind::Plain);
    assert!(all.plan().len() > 3);
    let none = Run { keep: Some(Vec::new()), ..all.clone() };
    assert_eq!(run(&none).tally.faults, 0);
    assert_eq!(run(&all).tally.faults, all.plan().len() as u64);
    assert!(none.replay_command().ends_with("KEEP=none"));
}

#[test]
fn shrinking_leaves_a_passing_run_alone() {
    let report = run(&Run::of(1, MachineKind::Plain));
    let shrunk = shrink(report, |_, _| panic!("there is nothing to shrink")).unwrap();
    assert!(shrunk.violation.is_none() && shrunk.run.keep.is_none());
}

#[test]
fn a_small_fleet_passes() {
    for seed in 1_000_000..1_000_060 {
        assert_passes(&Run::of(seed, MachineKind::Plain));
    }
    for seed in 1_000_000..1_000_008 {
        assert_passes(&Run::of(seed, MachineKind::Wasm));
    }
}

#[test]
fn seeds_that_once_failed_pass() {
    let all = regressions();
    assert!(!all.is_empty());
    for Regression { run: of, bug } in &all {
        eprintln!("seed {} once showed {bug}", of.seed);
        assert_passes(of);
    }
}

/// A regression seed is worth its place only as long as it would notice: with its bug put back it fails.
#[cfg(feature = "defects")]
#[test]
fn found_seeds_still_show_their_bug() {
    use telegraft_raft::defects;
    for Regression { run: of, bug } in regressions() {
        let class = telegraft_sim::defects::named(&bug).unwrap_or_else(|| panic!("there is no bug {bug}"));
        defects::choose(Some(class.defect));
        let report = run(&of);
        defects::choose(None);
        assert!(report.violation.is_some(), "seed {} no longer shows {bug}: look for another", of.seed);
    }
}
