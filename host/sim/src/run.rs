//! One seed from beginning to end.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    judge::Violation,
    machine::{MachineDisk, plain::PlainDisk, wasm::WasmDisk},
    plan::{self, Planned},
    settings::{MachineKind, Settings},
    trace::Digest,
    world::{Tally, World},
};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// Which machine the nodes have.
    pub machine: MachineKind,
    /// First voters; 0 lets the seed decide.
    pub voters: u64,
    /// Faults of the plan to keep, by number; `None`: all.
    pub keep: Option<Vec<usize>>,
    /// Whether a readable trace is wanted.
    pub trace: bool,
}

impl Run {
    /// All of a seed's world, without a trace.
    pub fn of(seed: u64, machine: MachineKind) -> Self {
        Run { seed, machine, voters: 0, keep: None, trace: false }
    }

    /// The world's dials.
    pub fn settings(&self) -> Settings {
        Settings::draw(self.seed, self.machine, self.voters)
    }

    /// The faults, those that are left out as `None`.
    pub fn plan(&self) -> Vec<Option<Planned>> {
        let kept = |number: &usize| self.keep.as_ref().is_none_or(|keep| keep.contains(number));
        let all = plan::draw(&self.settings()).into_iter().enumerate();
        all.map(|(number, planned)| kept(&number).then_some(planned)).collect()
    }

    /// The command that does this again, and shows what happens.
    pub fn replay_command(&self) -> String {
        let mut command = format!("make sim-replay SEED={}", self.seed);
        if self.machine == MachineKind::Plain {
            command += " MACHINE=plain";
        }
        if self.voters != 0 {
            command += &format!(" VOTERS={}", self.voters);
        }
        if let Some(keep) = &self.keep {
            let numbers: Vec<String> = keep.iter().map(ToString::to_string).collect();
            command += &format!(" KEEP={}", if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") });
        }
        command
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// What was run.
    pub run: Run,
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// The numbers.
    pub tally: Tally,
    /// Digest of all events.
    pub digest: Digest,
    /// The trace, where it was wanted.
    pub lines: Vec<String>,
}

thread_local! {
    static IN_A_WORLD: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of the worlds become violations; their texts are kept instead of printed.
pub fn keep_panics_quiet() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !IN_A_WORLD.get() {
            return usual(info);
        }
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("a panic without words").to_owned();
        LAST_PANIC.with(|last| *last.borrow_mut() = Some(format!("{what} ({place})")));
    }));
}

impl Run {
    /// Runs it, on this thread.
    ///
    /// # Errors
    /// When the Wasm engine does not start, or there is no room for its machines' files.
    pub fn report(&self) -> anyhow::Result<Report> {
        let machine = || -> anyhow::Result<Box<dyn MachineDisk>> {
            Ok(match self.machine {
                MachineKind::Plain => Box::new(PlainDisk::default()),
                MachineKind::Wasm => Box::new(WasmDisk::new()?),
            })
        };
        let mut world = World::new(self.settings(), self.plan(), &machine, self.trace)?;
        IN_A_WORLD.set(true);
        let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
        IN_A_WORLD.set(false);
        let violation = match ended {
            Ok(ended) => ended.err(),
            Err(_) => {
                let what = LAST_PANIC.with(|last| last.borrow_mut().take());
                Some(Violation { checker: 'P', what: format!("panic: {}", what.unwrap_or_default()) })
            }
        };
        if let Some(violation) = &violation {
            let now = world.now;
            world.trace.line(now, || format!("VIOLATION {violation}"));
        }
        Ok(Report {
            run: self.clone(),
            violation,
            tally: world.tally(),
            digest: world.trace.digest(),
            lines: std::mem::replace(&mut world.trace, crate::trace::Trace::new(false)).into_lines(),
        })
    }
}
