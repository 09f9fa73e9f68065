//! Many seeds of a scenario, on all cores, until one fails; then that one once more, with its story.

use std::{
    fmt,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use telegraft_sim::panics::keep_panics_quiet;

use crate::{
    play::Played,
    scenario::{Mistake, Scenario, Wrong},
    tally::Tally,
};

/// Seeds at a time: each has an engine's instances for its hosts, of which there are 64.
const JOBS_MAX: usize = 12;

/// Characters of an expected or actual value that are shown to a person.
const VALUE_SHOWN_MAX: usize = 600;

/// How seeds went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Seeds that passed.
    pub passed: u64,
    /// What happened in all of them.
    pub tally: Tally,
    /// How long it took.
    pub wall: Duration,
}

impl Report {
    /// Seeds that were played in a second.
    pub fn seeds_per_second(&self) -> f64 {
        self.passed as f64 / self.wall.as_secs_f64().max(1e-9)
    }
}

/// A seed that failed, told.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The scenario's file.
    pub scenario: String,
    /// What went wrong.
    pub wrong: Wrong,
    /// How it went, with its story.
    pub played: Played,
    /// How the seeds before it went.
    pub before: Report,
}

impl std::error::Error for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { line, step, what, expected, actual, .. } = &self.wrong;
        write!(f, "{}", self.scenario)?;
        if let Some(line) = line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {step}: {what}")?;
        if let Some(expected) = expected {
            write!(f, "\n  expected: {}", shortened(expected))?;
        }
        if let Some(actual) = actual {
            write!(f, "\n  actual:   {}", shortened(actual))?;
        }
        write!(f, "\n  seed:     {} (event digest {})", self.played.seed, self.played.digest)
    }
}

/// A value as a person can take it in; whole where it is short, and in [`Wrong`] in any case.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(VALUE_SHOWN_MAX) {
        Some((end, _)) => format!("{}… ({} bytes in all)", &value[..end], value.len()),
        None => value.to_owned(),
    }
}

/// Why seeds did not all pass.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotPassed {
    /// The scenario is wrong, not the module.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// A seed failed.
    #[error(transparent)]
    Failed(Box<Failed>),
}

/// How to run seeds.
pub struct Seeds<'a> {
    /// Which.
    pub seeds: Range<u64>,
    /// How many at a time; 0: one a core.
    pub jobs: usize,
    /// Told of each seed that ended.
    pub progress: &'a (dyn Fn(&Played) + Sync),
    /// No further seed begins once this is set.
    pub stop: &'a AtomicBool,
}

/// From now on a panic of a simulated host is kept for the report of its seed, with its words, instead of printed.
pub fn quiet_panics() {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(keep_panics_quiet);
}

impl Scenario {
    /// Plays these seeds, on all cores.
    ///
    /// # Errors
    /// The lowest seed that failed: its story, and what went wrong.
    pub fn run(&self, seeds: Range<u64>) -> Result<Report, NotPassed> {
        self.run_seeds(&Seeds { seeds, jobs: 0, progress: &|_| (), stop: &AtomicBool::new(false) })
    }

    /// As [`Scenario::run`], watched.
    ///
    /// # Errors
    /// As there.
    pub fn run_seeds(&self, run: &Seeds<'_>) -> Result<Report, NotPassed> {
        quiet_panics();
        let begun = Instant::now();
        let next = AtomicU64::new(run.seeds.start);
        let failed_at = AtomicU64::new(u64::MAX);
        let collected: Mutex<(u64, Tally, Option<Played>)> = Mutex::default();
        let worker = || {
            while !run.stop.load(Relaxed) {
                let seed = next.fetch_add(1, Relaxed);
                // Seeds are given out in order: all below the lowest failing one are played.
                if seed >= run.seeds.end || seed > failed_at.load(Relaxed) {
                    return;
                }
                let played = self.play(seed, false);
                (run.progress)(&played);
                let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
                if played.wrong.is_none() {
                    collected.0 += 1;
                    collected.1.add(&played.tally);
                } else if seed < failed_at.fetch_min(seed, Relaxed) {
                    collected.2 = Some(played);
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = if run.jobs == 0 { cores } else { run.jobs }.min(JOBS_MAX);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(worker);
            }
        });
        let (passed, tally, failed) = collected.into_inner().unwrap_or_else(PoisonError::into_inner);
        let report = Report { passed, tally, wall: begun.elapsed() };
        let Some(played) = failed else { return Ok(report) };
        let told = self.play(played.seed, true);
        let same = told.digest == played.digest;
        let wrong = match (told.wrong.clone(), played.wrong) {
            (Some(wrong), _) if same => wrong,
            (_, Some(mut wrong)) => {
                wrong.what += "\n  what is more, the seed played again gave other events: please report it with the module and the scenario";
                wrong
            }
            (Some(wrong), None) => wrong,
            (None, None) => return Ok(report),
        };
        if wrong.mistake {
            let message = format!("{}: {}", wrong.step, wrong.what);
            return Err(NotPassed::Mistake(Mistake { file: self.name.clone(), line: wrong.line, message }));
        }
        Err(NotPassed::Failed(Box::new(Failed { scenario: self.name.clone(), wrong, played: told, before: report })))
    }
}
