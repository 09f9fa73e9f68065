//! `module test`: a component in a simulated cluster, by a scenario's file, over many seeds.

use std::{
    io::{IsTerminal, stderr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use telegraft_scenario::{Failed, Mistake, Module, NotPassed, Played, Report, Scenario, Seeds, Tally, Wrong};

use super::{
    dev::StopSignals,
    failure::{Failure, Kind},
    module::read,
    output::{Output, counted, grouped, quoted},
};

/// Lines of the end of a story that are shown with a failure; a replay shows all.
const STORY_LINES: usize = 30;

/// `telegraft module test`
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  telegraft module test chat.wasm --scenario chat.toml             200 seeds, on all cores
  telegraft module test chat.wasm --scenario chat.toml --seed 17   one of them, with all that happened

Exit codes:
  0  every seed passed
  1  a seed failed: it is told with the line of the scenario and the command that plays it again
  2  the component or the scenario's file is wrong")]
pub struct TestArgs {
    /// The component
    file: PathBuf,
    /// What to call, what to expect, and what is to happen meanwhile (TOML)
    #[arg(long, value_name = "FILE")]
    scenario: PathBuf,
    /// How many seeds to play
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    seeds: u64,
    /// The first of them; the others follow it
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// Play this one seed, and tell everything that happens
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Seeds at a time; 0: one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Where compiled modules are kept for the next time; by default in the user's cache folder, where there is one
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// Where the user's programs keep what they can make again (XDG Base Directory Specification).
fn usual_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("telegraft").join("modules"))
}

/// Runs the command.
pub async fn run(args: &TestArgs, output: Output) -> Result<(), Failure> {
    let bytes = read(&args.file)?;
    if let Some(folder) = args.cache.clone().or_else(usual_cache)
        && let Err(failure) = telegraft_scenario::keep_compiled_in(&folder)
        && args.cache.is_some()
    {
        return Err(Failure::usage(failure.to_string()));
    }
    let module = Module::new(bytes).map_err(|failure| Failure::usage(format!("{}: {failure}", args.file.display())))?;
    let scenario = Scenario::from_file(&args.scenario, &module).map_err(|mistake| of_mistake(&mistake))?;
    match args.seed {
        Some(seed) => one(args, &scenario, seed, output),
        None => many(args, scenario, output).await,
    }
}

/// One seed, with its story.
fn one(args: &TestArgs, scenario: &Scenario, seed: u64, output: Output) -> Result<(), Failure> {
    telegraft_scenario::quiet_panics();
    let played = scenario.play(seed, true);
    if !output.json {
        played.story.iter().for_each(|line| output.line(line));
        output.line("");
    }
    let Some(wrong) = played.wrong.clone() else {
        if output.json {
            return output.json(&json!({ "passed": true, "seed": seed, "story": played.story, "events_digest": played.digest.to_string() }));
        }
        output.line(&format!("seed {seed} passed (event digest {})", played.digest));
        return Ok(());
    };
    if wrong.mistake {
        let message = format!("{}: {}", wrong.step, wrong.what);
        return Err(of_mistake(&Mistake { file: scenario.name().to_owned(), line: wrong.line, message }));
    }
    let before = Report { passed: 0, tally: Tally::default(), wall: Duration::ZERO };
    tell(args, &Failed { scenario: scenario.name().to_owned(), wrong, played, before }, false, output)
}

/// Many seeds, until one fails or somebody stops it.
async fn many(args: &TestArgs, scenario: Scenario, output: Output) -> Result<(), Failure> {
    let Some(end) = args.first.checked_add(args.seeds) else {
        return Err(Failure::usage(format!(
            "--first {} and --seeds {} go beyond the largest seed",
            args.first, args.seeds
        )));
    };
    let mut signals = StopSignals::new()?;
    let stop = Arc::new(AtomicBool::new(false));
    let bar = bar(args.seeds, output.json);
    let (shown, stopped, jobs, first) = (bar.clone(), Arc::clone(&stop), args.jobs, args.first);
    let mut running = tokio::task::spawn_blocking(move || {
        let progress = |played: &Played| {
            shown.inc(1);
            if played.wrong.is_some() {
                shown.set_message("a seed failed");
            }
        };
        scenario.run_seeds(&Seeds { seeds: first..end, jobs, progress: &progress, stop: &stopped })
    });
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = signals.wait() => {
            // Those under way end first: their files go with them.
            stop.store(true, Relaxed);
            running.await
        }
    };
    bar.finish_and_clear();
    let ended = ended.map_err(|error| Failure::refused(format!("the simulator itself failed: {error}")))?;
    match ended {
        Ok(report) if report.passed < args.seeds => Err(Failure::refused(format!(
            "stopped after {} of {}, which passed",
            grouped(report.passed),
            counted(args.seeds, "seed")
        ))),
        Ok(report) => tell_passed(args, &report, output),
        Err(NotPassed::Mistake(mistake)) => Err(of_mistake(&mistake)),
        Err(NotPassed::Failed(failed)) => tell(args, &failed, true, output),
    }
}

/// A bar on a terminal; nothing elsewhere.
fn bar(seeds: u64, json: bool) -> ProgressBar {
    let bar = ProgressBar::new(seeds);
    if json || !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds  {elapsed} (left: {eta})  {msg}") {
        bar.set_style(style);
    }
    bar
}

fn of_mistake(mistake: &Mistake) -> Failure {
    let details = json!({ "message": mistake.message, "file": mistake.file, "line": mistake.line });
    Failure { details, ..Failure::usage(mistake.to_string()) }
}

fn seconds(tally: &Tally) -> f64 {
    tally.simulated_us as f64 / 1e6
}

fn numbers(tally: &Tally) -> Value {
    json!({
        "simulated_s": seconds(tally), "calls": tally.calls, "retries": tally.retries, "duplicates": tally.duplicates,
        "entries": tally.entries, "leaders": tally.leaders, "events": tally.events,
    })
}

fn tell_passed(args: &TestArgs, report: &Report, output: Output) -> Result<(), Failure> {
    let tally = &report.tally;
    if output.json {
        return output.json(&json!({
            "passed": true, "first": args.first, "seeds": report.passed, "wall_s": report.wall.as_secs_f64(), "tally": numbers(tally),
        }));
    }
    output.line(&format!(
        "{} passed in {:.1} s ({:.0} a second; {:.0} simulated seconds)",
        counted(report.passed, "seed"),
        report.wall.as_secs_f64(),
        report.seeds_per_second(),
        seconds(tally),
    ));
    output.line(&format!(
        "{}; requests sent again {}, {} of them into the log and applied once; {} of leader",
        counted(tally.calls, "call"),
        counted(tally.retries, "time"),
        grouped(tally.duplicates),
        counted(tally.leaders, "change"),
    ));
    let events: Vec<String> = tally.events.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
    output.line(&format!("events: {}", if events.is_empty() { "none".to_owned() } else { events.join(", ") }));
    output
        .line("after each seed all replicas were equal, and a new machine that applied the log came to the same state");
    Ok(())
}

/// Tells a seed that failed; `story`: the end of its story too.
fn tell(args: &TestArgs, failed: &Failed, story: bool, output: Output) -> Result<(), Failure> {
    let replay = replay_command(args, failed.played.seed);
    let Wrong { line, step, what, expected, actual, .. } = &failed.wrong;
    if output.json {
        output.json(&json!({
            "passed": false, "seeds": failed.before.passed, "seed": failed.played.seed, "file": failed.scenario, "line": line,
            "step": step, "message": what, "expected": expected, "actual": actual, "replay": replay,
            "events_digest": failed.played.digest.to_string(), "tally": numbers(&failed.played.tally), "story": failed.played.story,
        }))?;
        return Err(Failure::silent(Kind::Refused));
    }
    output.line(&format!("FAILED {failed}"));
    output.line(&format!("  replay:   {replay}"));
    if story {
        let lines = &failed.played.story;
        let from = lines.len().saturating_sub(STORY_LINES);
        output.line(&format!("the last {} of {} lines of what happened:", lines.len() - from, lines.len()));
        lines.iter().skip(from).for_each(|line| output.line(&format!("  {line}")));
        output.line(&format!("{} passed", counted(failed.before.passed, "other seed")));
    }
    Err(Failure::silent(Kind::Refused))
}

/// What plays a seed again, as a shell wants it.
fn replay_command(args: &TestArgs, seed: u64) -> String {
    format!("telegraft module test {} --scenario {} --seed {seed}", quoted(&args.file), quoted(&args.scenario))
}
