//! Many seeds on all cores, with a progress bar; then, for those that failed, why, how to see it again, and with how few
//! faults it still fails.

use std::{
    io::{IsTerminal, stderr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use telegraft_sim::{
    run::{Report, Run},
    settings::MachineKind,
    shrink::shrink,
    world::Tally,
};

use super::Machine;

/// Failing seeds that are shrunk and told in full; of further ones only the violation is told.
const TOLD_IN_FULL: usize = 3;
/// Lines of the end of a trace that are shown here; `replay` shows all.
const TRACE_LINES: usize = 40;

#[derive(clap::Args)]
pub struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed; the others follow it. Without it, a fresh one is drawn, and printed.
    #[arg(long)]
    first: Option<u64>,
    /// Which machine the nodes have.
    #[arg(long, value_enum, default_value = "wasm")]
    machine: Machine,
    /// Voters of every world; 0: the seed decides.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=9))]
    voters: u64,
    /// Worlds at a time; 0: one a core.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Print one JSON object instead of words.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<bool> {
    // Small enough to be typed again.
    let first = arguments.first.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let machine = MachineKind::from(arguments.machine);
    let Some(last) = first.checked_add(arguments.seeds - 1) else {
        bail!("--first {first} and --seeds {} go beyond the largest seed, {}", arguments.seeds, u64::MAX);
    };
    if !arguments.json {
        println!("seeds {first} to {last}, {}", words(machine));
    }
    let begun = Instant::now();
    let (tally, failed) = all(arguments, first, machine)?;
    let seconds = begun.elapsed().as_secs_f64();
    let simulated = tally.simulated as f64 / 1e6;
    let passed = arguments.seeds - failed.len() as u64;
    let clean = failed.is_empty();
    let mut seeds = Vec::new();
    for (number, report) in failed.into_iter().enumerate() {
        seeds.push(format!("{{\"seed\":{},\"violation\":{:?}}}", report.run.seed, explain(&report)));
        if !arguments.json {
            tell(report, number < TOLD_IN_FULL)?;
        }
    }
    if arguments.json {
        println!(
            "{{\"first\":{first},\"seeds\":{},\"passed\":{passed},\"failed\":[{}],\"simulated_s\":{simulated:.1},\"wall_s\":{seconds:.1},\
             \"events\":{},\"operations\":{},\"unknown\":{},\"entries\":{},\"checks\":{},\"faults\":{}}}",
            arguments.seeds,
            seeds.join(","),
            tally.events,
            tally.operations,
            tally.unknown,
            tally.committed,
            tally.checks,
            tally.faults,
        );
    } else {
        println!(
            "{simulated:.0} simulated seconds in {seconds:.1} s ({:.0} a second), {} events, {} faults, {} operations judged \
             ({} of unknown outcome), {} entries committed, {} comparisons",
            simulated / seconds.max(1e-9),
            tally.events,
            tally.faults,
            tally.operations + tally.unknown,
            tally.unknown,
            tally.committed,
            tally.checks,
        );
        println!("{passed} passed, {} failed", arguments.seeds - passed);
    }
    Ok(clean)
}

fn words(machine: MachineKind) -> &'static str {
    match machine {
        MachineKind::Wasm => "nodes with the Wasm guest",
        MachineKind::Plain => "nodes with a plain machine",
    }
}

/// Runs all seeds; their numbers added up, and the failed ones in order.
fn all(arguments: &Arguments, first: u64, machine: MachineKind) -> Result<(Tally, Vec<Report>)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = if arguments.jobs == 0 { cores } else { arguments.jobs };
    let bar = bar(arguments.seeds, "seeds");
    let next = AtomicU64::new(0);
    let collected = Mutex::new((Tally::default(), Vec::new()));
    let worker = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= arguments.seeds {
                return Ok(());
            }
            let run = Run { voters: arguments.voters, ..Run::of(first.wrapping_add(number), machine) };
            let report = run.report()?;
            let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
            collected.0.add(&report.tally);
            if report.violation.is_some() {
                collected.1.push(report);
                bar.set_message(format!("{} failed", collected.1.len()));
            }
            bar.inc(1);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(ended) => ended,
            Err(_) => Err(anyhow::anyhow!("a worker panicked outside of its world: a defect of the simulator itself")),
        })
    })?;
    bar.finish_and_clear();
    let (tally, mut failed) = collected.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|report| report.run.seed);
    Ok((tally, failed))
}

/// A bar on a terminal; nothing elsewhere.
pub fn bar(length: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = format!("{{bar:40}} {{pos}}/{{len}} {unit}  {{elapsed}} (left: {{eta}})  {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&style) {
        bar.set_style(style);
    }
    bar
}

fn explain(report: &Report) -> String {
    report.violation.as_ref().map_or_else(String::new, ToString::to_string)
}

/// Tells a failure: what broke, how to see it, and the end of the shortest trace that shows it.
fn tell(report: Report, in_full: bool) -> Result<()> {
    println!();
    println!("seed {} FAILED  {}", report.run.seed, explain(&report));
    println!("  replay: {}", report.run.replay_command());
    if !in_full {
        return Ok(());
    }
    let all = report.run.plan().len();
    let bar = bar(0, "tries to do with fewer faults");
    let smallest = shrink(report, |tries, left| {
        bar.set_position(tries as u64);
        bar.set_message(format!("{left} faults left"));
    })?;
    bar.finish_and_clear();
    let kept = smallest.run.plan().into_iter().flatten().count();
    println!("  shrunk to {kept} of {all} faults: {}", smallest.run.replay_command());
    println!("  {}", explain(&smallest));
    let traced = Run { trace: true, ..smallest.run.clone() }.report()?;
    let from = traced.lines.len().saturating_sub(TRACE_LINES);
    println!("  the last of {} lines:", traced.lines.len());
    for line in &traced.lines[from..] {
        println!("    {line}");
    }
    Ok(())
}
