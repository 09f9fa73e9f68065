//! One seed from beginning to end.

use crate::{
    judge::Violation,
    machine::{MachineDisk, plain::PlainDisk, wasm::WasmDisk},
    panics::caught,
    plan::{self, Planned},
    settings::{MachineKind, Settings},
    trace::Digest,
    world::{Modules, Tally, World},
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

pub use crate::panics::keep_panics_quiet;

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
        let modules = Modules { store: telegraft_modules::KV, other: telegraft_modules::CHAT };
        let mut world = World::new(self.settings(), self.plan(), modules, &machine, self.trace)?;
        let violation = match caught(|| world.run()) {
            Ok(ended) => ended.err(),
            Err(what) => Some(Violation { checker: 'P', what: format!("panic: {what}") }),
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
