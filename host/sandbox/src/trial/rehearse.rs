//! The rehearsal: the newest commands of the log, once more, by the active module and by the one that is tried.
//!
//! The state from before them is rebuilt from the log, since no older state is kept: a new machine applies all entries up
//! to there, with the modules that were active then. Of this state there are then two copies. One goes on with the module
//! that is active, on the other the candidate is activated first; then both apply the same entries, at the same indexes,
//! with the same times and entropy. Only what is committed and applied here is read.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use telegraft_node::ports::Machine;
use telegraft_raft::{Entry, Index, Storage, StorageError};

use super::{
    Candidate, DryRun, ReplayCost, Stop, Trial, TrialError, TrialFolder,
    candidate::{self, halted},
    copy::{of_trial, open_trial},
    give_up_if,
    replay::{Difference, SideBySide, call_of},
};
use crate::{apply::SqliteMachine, catalog::ModuleRecord, reader::MachineReader, sandbox::Sandbox};

/// Entries that are replayed between two looks at whether to stop, at most. One alone may take a second.
const ENTRIES_PER_STEP_MAX: u64 = 64;
/// The next step is longer after one that took less than this, and shorter after one that took more than ten times it.
const STEP_TIME: Duration = Duration::from_millis(20);
/// Entries of the state's rebuilding that one transaction takes in, and their bytes.
const ENTRIES_PER_TRANSACTION: u64 = 1_024;
/// Bytes of entries read at a time.
const BYTES_PER_READ: u64 = 4 << 20;
/// Entries that the search for commands reads at a time.
const ENTRIES_PER_LOOK: u64 = 1_024;
/// Differences that are handed over; all are counted.
const DIFFERENCES_MAX: u64 = 1_000;

/// What a rehearsal is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RehearsalStage {
    /// Inspecting the module.
    Compiling,
    /// Applying the log's older entries.
    Rebuilding,
    /// Copying the rebuilt state, and activating the candidate on the copy.
    Copying,
    /// Applying the newest entries by both modules.
    Replaying,
}

/// What there is to tell while it runs.
#[derive(Clone, Debug)]
pub enum RehearsalEvent {
    /// How far it is, in entries.
    Progress {
        /// What it is at.
        stage: RehearsalStage,
        /// So many of `total`.
        done: u64,
        /// All of this stage.
        total: u64,
    },
    /// A command that was answered differently; the first 1,000.
    Difference(Box<Difference>),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The activation that came before the commands. Where it was refused, nothing was replayed.
    pub activation: DryRun,
    /// The module that is active.
    pub before: ModuleRecord,
    /// Its serialized `google.protobuf.FileDescriptorSet`.
    pub service_before: Vec<u8>,
    /// Commands replayed.
    pub commands: u64,
    /// The first one's index.
    pub first_index: Index,
    /// Index of the newest entry.
    pub last_index: Index,
    /// Commands that the two answered differently.
    pub differing: u64,
    /// What the active module's calls took.
    pub cost_before: ReplayCost,
    /// What the candidate's calls took.
    pub cost_after: ReplayCost,
    /// For people: why there are fewer commands than were asked for, what was left out.
    pub notes: Vec<String>,
}

impl Trial<'_> {
    /// Replays the newest `last` commands of `log`, the log that the live machine applies, on copies in a folder of their
    /// own.
    ///
    /// # Errors
    ///
    /// Where there is no report: see [`TrialError`].
    pub fn rehearse(
        &self,
        candidate: &Candidate,
        log: &dyn Storage,
        last: u64,
        on: &mut dyn FnMut(RehearsalEvent),
    ) -> Result<Rehearsal, TrialError> {
        let _span = tracing::info_span!("trial").entered();
        on(RehearsalEvent::Progress { stage: RehearsalStage::Compiling, done: 0, total: 1 });
        let begun = Instant::now();
        let inspection = self.sandbox.inspect(&candidate.bytes)?;
        let compile_time = begun.elapsed();
        let window = Window::find(self.live, log, last, self.stop)?;

        // Dropped after the machines that lie in it.
        let folder = TrialFolder::new(self.folder)?;
        let (old_dir, new_dir) = (folder.part("old")?, folder.part("new")?);
        let base = window.first - 1;
        let old = rebuild(self.sandbox, log, &old_dir, base, self.stop, on)?;

        on(RehearsalEvent::Progress { stage: RehearsalStage::Copying, done: 0, total: 1 });
        let begun = Instant::now();
        let database_bytes = of_trial(&old, &new_dir, self.stop)?;
        let copy_time = begun.elapsed();
        // Both begin alike: opened a moment ago.
        drop(old);
        let old = open_trial(self.sandbox, &old_dir)?;
        let mut new = open_trial(self.sandbox, &new_dir)?;
        // At the time of the state: a later one would show in the commands that follow.
        let activation = candidate::activate(&mut new, candidate, &inspection, 0)?;
        let refused = activation.refused.is_some();
        let activation = DryRun { inspection, activation, index: base, database_bytes, copy_time, compile_time };
        let mut report = window.report(activation);
        if refused {
            report.notes.push("nothing was replayed: the activation would be refused".to_owned());
            return Ok(report);
        }
        candidate::set_back(&mut new, base);
        let both = replay(old, new, log, &window, self.stop, on)?;
        report.commands = both.commands;
        report.differing = both.differing;
        report.cost_before = both.before;
        report.cost_after = both.after;
        if both.left_out > 0 {
            report.notes.push(format!(
                "{} entries among them were left out: uploads, refused activations and the hosts' own",
                both.left_out
            ));
        }
        Ok(report)
    }
}

/// The entries that are replayed, and the module that is active now.
struct Window {
    before: ModuleRecord,
    service_before: Vec<u8>,
    /// Of the first command.
    first: Index,
    /// The newest entry that is applied.
    last: Index,
    notes: Vec<String>,
}

impl Window {
    /// The newest `wanted` commands, as far as they are the active module's.
    fn find(live: &MachineReader, log: &dyn Storage, wanted: u64, stop: Stop<'_>) -> Result<Window, TrialError> {
        let (active, last) = loop {
            let generation = live.generation();
            let (active, applied) = (live.active(), live.applied_index());
            // A module is published before its index: no later activation is at or below this one.
            if live.generation() == generation {
                break (active.ok_or(TrialError::NoModule)?, applied);
            }
        };
        let log_first = log.first_index();
        if log_first > 1 {
            return Err(TrialError::Compacted { first: log_first });
        }
        let since = active.record.activated_index;
        let (mut found, mut first, mut high) = (0, 0, last + 1);
        while found < wanted && high > since + 1 {
            give_up_if(stop)?;
            let low = high.saturating_sub(ENTRIES_PER_LOOK).max(since + 1);
            let mut calls = Vec::new();
            each_entry(log, low, high, |entry| {
                if call_of(&entry).is_some() {
                    calls.push(entry.index);
                }
            })?;
            for index in calls.into_iter().rev() {
                if found < wanted {
                    (found, first) = (found + 1, index);
                }
            }
            high = low;
        }
        if found == 0 {
            return Err(TrialError::NoCommands { since });
        }
        let mut notes = Vec::new();
        if found < wanted {
            notes.push(format!(
                "{wanted} commands were asked for, but {} {} has had {found} since it was activated at index {since}",
                active.record.name, active.record.version
            ));
        }
        Ok(Window { before: active.record.clone(), service_before: active.service.clone(), first, last, notes })
    }

    fn report(&self, activation: DryRun) -> Rehearsal {
        Rehearsal {
            activation,
            before: self.before.clone(),
            service_before: self.service_before.clone(),
            commands: 0,
            first_index: self.first,
            last_index: self.last,
            differing: 0,
            cost_before: ReplayCost::default(),
            cost_after: ReplayCost::default(),
            notes: self.notes.clone(),
        }
    }
}

/// A machine at index `through`, made from all entries up to there.
fn rebuild(
    sandbox: &Sandbox,
    log: &dyn Storage,
    dir: &Path,
    through: Index,
    stop: Stop<'_>,
    on: &mut dyn FnMut(RehearsalEvent),
) -> Result<SqliteMachine, TrialError> {
    let mut machine = open_trial(sandbox, dir)?;
    while machine.applied_index() < through {
        let low = machine.applied_index() + 1;
        on(RehearsalEvent::Progress { stage: RehearsalStage::Rebuilding, done: low - 1, total: through });
        give_up_if(stop)?;
        let entries = read(log, low, (through + 1).min(low + ENTRIES_PER_TRANSACTION))?;
        let outcomes = machine.apply(&entries)?;
        machine.take_proposals();
        if outcomes.len() != entries.len() {
            return Err(halted(&machine));
        }
    }
    on(RehearsalEvent::Progress { stage: RehearsalStage::Rebuilding, done: through, total: through });
    Ok(machine)
}

fn replay(
    old: SqliteMachine,
    new: SqliteMachine,
    log: &dyn Storage,
    window: &Window,
    stop: Stop<'_>,
    on: &mut dyn FnMut(RehearsalEvent),
) -> Result<SideBySide, TrialError> {
    let mut both = SideBySide::new(old, new);
    let total = window.last + 1 - window.first;
    let (mut low, mut step, mut told) = (window.first, 1, 0);
    while low <= window.last {
        on(RehearsalEvent::Progress { stage: RehearsalStage::Replaying, done: low - window.first, total });
        give_up_if(stop)?;
        let begun = Instant::now();
        let entries = read(log, low, (window.last + 1).min(low + step))?;
        low += entries.len() as u64;
        both.apply(entries, |difference| {
            told += 1;
            if told <= DIFFERENCES_MAX {
                on(RehearsalEvent::Difference(Box::new(difference)));
            }
        })?;
        step = match begun.elapsed() {
            took if took < STEP_TIME => ENTRIES_PER_STEP_MAX.min(step * 2),
            took if took > STEP_TIME * 10 => (step / 2).max(1),
            _ => step,
        };
    }
    on(RehearsalEvent::Progress { stage: RehearsalStage::Replaying, done: total, total });
    Ok(both)
}

/// Some of the entries `low..high`, from the first on; at least one.
fn read(log: &dyn Storage, low: Index, high: Index) -> Result<Vec<Entry>, TrialError> {
    match log.entries(low, high, BYTES_PER_READ) {
        Ok(entries) if entries.is_empty() => Err(TrialError::Log(StorageError::Unavailable)),
        Ok(entries) => Ok(entries),
        // Since the window was found.
        Err(StorageError::Compacted) => Err(TrialError::Compacted { first: log.first_index() }),
        Err(error) => Err(TrialError::Log(error)),
    }
}

fn each_entry(log: &dyn Storage, low: Index, high: Index, mut on: impl FnMut(Entry)) -> Result<(), TrialError> {
    let mut next = low;
    while next < high {
        let entries = read(log, next, high)?;
        next += entries.len() as u64;
        entries.into_iter().for_each(&mut on);
    }
    Ok(())
}
