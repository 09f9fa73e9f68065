//! The rehearsal: the newest commands of the log, once more, as they were answered and by the module that is tried.
//!
//! The state from before them is rebuilt from the log, since no older state is kept: a new machine applies all entries up
//! to there, with the modules that were active then. Of this state there are then two copies. One goes on through the log as
//! it was, activations and rollbacks included, and so answers as this host's machine did; at the end the two have the same
//! effects, or the report says that they have not. On the other the candidate is activated first, and goes on whatever
//! modules came in the log. Both meet the same commands at the same indexes, with the same times and entropy. Only what is
//! committed and applied here is read.
//!
//! Where the candidate cannot be activated on so old a state (its `init` may know no way from that layout), the next places are
//! where the data layouts changed since, and last where the present module came: the replay begins at the first that
//! takes it. Commands from before the machine's first module were answered by none, and are not replayed.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use telegraft_node::ports::{Machine, MachineFault};
use telegraft_raft::{Index, Storage};

use super::{
    Candidate, DryRun, ReplayCost, Stop, Trial, TrialError, TrialFolder,
    candidate::{self, stalled},
    copy::{of_trial, open_trial},
    give_up_if,
    replay::{Difference, SideBySide, Switch},
    window::{Start, Window, body_of, changes_the_module, read},
};
use crate::{active::ActiveModule, apply::SqliteMachine, catalog, catalog::ModuleRecord, module::Inspection, verify};

/// Entries that are replayed between two looks at whether to stop, at most. One alone may take a second.
const ENTRIES_PER_STEP_MAX: u64 = 64;
/// The next step is longer after one that took less than this, and shorter after one that took more than ten times it.
const STEP_TIME: Duration = Duration::from_millis(20);
/// Entries of the state's rebuilding that one transaction takes in, and their bytes.
const ENTRIES_PER_TRANSACTION: u64 = 1_024;
/// Differences that are handed over; all are counted.
const DIFFERENCES_MAX: u64 = 1_000;
/// Changes of the module that have a note of their own.
const SWITCHES_NOTED_MAX: u64 = 20;

/// What a rehearsal is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RehearsalStage {
    /// Inspecting the module.
    Compiling,
    /// Applying the log's older entries.
    Rebuilding,
    /// Copying the rebuilt state, and activating the candidate on the copy.
    Copying,
    /// Applying the newest entries by both sides.
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
    /// The module that answered what comes from here on, as it was: one before all differences, and one at each change.
    Module(Arc<ActiveModule>),
    /// A command that was answered differently; the first 1,000.
    Difference(Box<Difference>),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The activation that came before the commands. Where it was refused, nothing was replayed.
    pub activation: DryRun,
    /// The module that is active now.
    pub before: ModuleRecord,
    /// Its serialized `google.protobuf.FileDescriptorSet`.
    pub service_before: Vec<u8>,
    /// Commands replayed.
    pub commands: u64,
    /// The first one's index.
    pub first_index: Index,
    /// Index of the newest entry.
    pub last_index: Index,
    /// Commands that were answered differently.
    pub differing: u64,
    /// What the calls took as they were.
    pub cost_before: ReplayCost,
    /// What the candidate's calls took.
    pub cost_after: ReplayCost,
    /// For people: why there are fewer commands than were asked for, what was left out.
    pub notes: Vec<String>,
}

/// Both sides, ready to replay.
struct Begun {
    old: SqliteMachine,
    new: SqliteMachine,
    start: Start,
    activation: DryRun,
    /// Why it did not begin earlier.
    refused: Option<Refused>,
}

/// An older state that did not take the candidate.
struct Refused {
    index: Index,
    why: String,
    layouts: Vec<(String, u32)>,
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
        let window = Window::find(self.live, log, last, &inspection, self.stop)?;

        // Dropped after the machines that lie in it.
        let folder = TrialFolder::new(self.folder)?;
        let begun = self.begin(candidate, &inspection, log, &window, &folder, on)?;
        let Begun { old, new, start, mut activation, refused } = begun;
        activation.compile_time = compile_time;
        let mut report = Rehearsal {
            before: window.active.record.clone(),
            service_before: window.active.service.clone(),
            commands: 0,
            first_index: start.first,
            last_index: window.last,
            differing: 0,
            cost_before: ReplayCost::default(),
            cost_after: ReplayCost::default(),
            notes: Vec::new(),
            activation,
        };
        if report.activation.activation.refused.is_some() {
            report.notes.push("nothing was replayed: the activation would be refused".to_owned());
            return Ok(report);
        }
        report.notes.extend(why_fewer(last, start, &window, refused));
        let (both, notes) = replay(old, new, log, start.first, &window, self.stop, on)?;
        report.notes.extend(notes);
        report.commands = both.commands;
        report.differing = both.differing;
        report.cost_before = both.before;
        report.cost_after = both.after;
        if both.left_out > 0 {
            let were = if both.left_out == 1 {
                "1 entry among them was"
            } else {
                &format!("{} entries among them were", both.left_out)
            };
            report
                .notes
                .push(format!("{were} left out for the candidate: uploads, refused activations and the hosts' own"));
        }
        if both.old.committed.meta.effects != window.effects {
            report.notes.push(format!(
                "applied once more, this host's log did not come to the effects that its machine has at index {}: what \
                 stands here as answered before is not in every case what clients were answered. Does a module keep something \
                 in memory? `telegraft status` shows whether the hosts agree",
                window.last
            ));
        }
        Ok(report)
    }

    /// Rebuilds the state and activates the candidate on a copy, at the oldest start whose state takes it; at the newest
    /// whether or not.
    fn begin(
        &self,
        candidate: &Candidate,
        inspection: &Inspection,
        log: &dyn Storage,
        window: &Window,
        folder: &TrialFolder,
        on: &mut dyn FnMut(RehearsalEvent),
    ) -> Result<Begun, TrialError> {
        let old_dir = folder.part("old")?;
        // What an operator has decided for the machine holds for its copy.
        if self.live.folder().is_some_and(verify::is_ignored) {
            let cannot = |error| MachineFault(format!("cannot write into {}: {error}", old_dir.display()));
            fs::write(old_dir.join(verify::IGNORE_FILE), []).map_err(cannot)?;
        }
        let mut old = open_trial(self.sandbox, &old_dir)?;
        let mut refused: Option<Refused> = None;
        for (number, start) in window.starts.iter().enumerate() {
            let base = start.first - 1;
            let newest = number + 1 == window.starts.len();
            if start.commands == 0 && number > 0 && refused.is_none() {
                // All that there are came before the first module.
                break;
            }
            advance(&mut old, log, base, self.stop, on)?;
            let layouts = catalog::layouts(old.conn()?)?;
            let as_before = refused.as_ref().is_some_and(|refused| refused.layouts == layouts);
            if old.committed.active.is_none() || (as_before && !newest) {
                continue;
            }
            on(RehearsalEvent::Progress { stage: RehearsalStage::Copying, done: 0, total: 1 });
            let new_dir = folder.part(&format!("new-{number}"))?;
            let begun = Instant::now();
            let database_bytes = of_trial(&old, &new_dir, self.stop)?;
            let copy_time = begun.elapsed();
            let mut new = open_trial(self.sandbox, &new_dir)?;
            // At the time of the state: a later one would show in the commands that follow.
            // And under the budgets of now, as it would be; the commands meet those of their time.
            let budgets = Some(window.active.limits);
            let activation = candidate::activate(&mut new, candidate, inspection, 0, budgets)?;
            if let Some(why) = &activation.refused
                && !newest
            {
                refused = Some(Refused { index: base, why: why.message.clone(), layouts });
                drop(new);
                discard(&new_dir);
                continue;
            }
            candidate::set_back(&mut new, base);
            // Both begin alike: opened a moment ago.
            drop(old);
            let old = open_trial(self.sandbox, &old_dir)?;
            let inspection = inspection.clone();
            let compile_time = Duration::ZERO;
            let activation = DryRun { inspection, activation, index: base, database_bytes, copy_time, compile_time };
            return Ok(Begun { old, new, start: *start, activation, refused });
        }
        Err(TrialError::NoCommands { since: window.active.record.activated_index })
    }
}

/// Disk space is what trials are short of; the rest goes with the trial's folder.
fn discard(copy: &Path) {
    if let Err(error) = fs::remove_dir_all(copy) {
        tracing::warn!(path = %copy.display(), %error, "a copy that is not needed stays until the trial ends");
    }
}

/// Why not all commands that were asked for are replayed, where that is so.
fn why_fewer(wanted: u64, start: Start, window: &Window, refused: Option<Refused>) -> Option<String> {
    let found = start.commands;
    match refused {
        _ if found == wanted => None,
        Some(Refused { index, why, .. }) if found == 0 => Some(format!(
            "nothing was replayed: no command has come since {} was activated at index {}, and on the state of before (at \
             index {index}) the candidate's activation would be refused: {why}",
            window.active.label, window.active.record.activated_index
        )),
        Some(Refused { index, why, .. }) => Some(format!(
            "{wanted} commands were asked for, and the newest {found} are replayed: on older states (at index {index}) the \
             candidate's activation would be refused: {why}"
        )),
        None => {
            let are = if found == 1 { "is" } else { "are" };
            Some(format!(
                "{wanted} commands were asked for, and there {are} {found} since a module was first activated"
            ))
        }
    }
}

/// Has the machine apply the log through an index.
fn advance(
    machine: &mut SqliteMachine,
    log: &dyn Storage,
    through: Index,
    stop: Stop<'_>,
    on: &mut dyn FnMut(RehearsalEvent),
) -> Result<(), TrialError> {
    while machine.applied_index() < through {
        let low = machine.applied_index() + 1;
        on(RehearsalEvent::Progress { stage: RehearsalStage::Rebuilding, done: low - 1, total: through });
        give_up_if(stop)?;
        let entries = read(log, low, (through + 1).min(low + ENTRIES_PER_TRANSACTION))?;
        let outcomes = machine.apply(&entries)?;
        machine.take_proposals();
        if outcomes.len() != entries.len() || machine.halted().is_some() {
            return Err(stalled(machine));
        }
    }
    on(RehearsalEvent::Progress { stage: RehearsalStage::Rebuilding, done: through, total: through });
    Ok(())
}

/// Both sides at the end, and what there is to note of the way there.
fn replay(
    old: SqliteMachine,
    new: SqliteMachine,
    log: &dyn Storage,
    first: Index,
    window: &Window,
    stop: Stop<'_>,
    on: &mut dyn FnMut(RehearsalEvent),
) -> Result<(SideBySide, Vec<String>), TrialError> {
    let mut both = SideBySide::new(old, new);
    let mut notes = Vec::new();
    tell_module(&both, on);
    let total = window.last + 1 - first;
    let (mut low, mut step, mut told, mut switches) = (first, 1, 0, 0);
    while low <= window.last {
        on(RehearsalEvent::Progress { stage: RehearsalStage::Replaying, done: low - first, total });
        give_up_if(stop)?;
        let begun = Instant::now();
        let mut entries = read(log, low, (window.last + 1).min(low + step))?;
        // What follows a change of the module is told after it.
        let change = entries.iter().position(|entry| body_of(entry).is_some_and(|body| changes_the_module(&body)));
        entries.truncate(change.map_or(entries.len(), |at| at + 1));
        low += entries.len() as u64;
        let switch = both.apply(&entries, |difference| {
            told += 1;
            if told <= DIFFERENCES_MAX {
                on(RehearsalEvent::Difference(Box::new(difference)));
            }
        })?;
        if let Some(switch) = switch {
            switches += 1;
            if switches <= SWITCHES_NOTED_MAX {
                notes.push(noted(&switch, &both));
            }
            tell_module(&both, on);
        }
        step = match begun.elapsed() {
            took if took < STEP_TIME => ENTRIES_PER_STEP_MAX.min(step * 2),
            took if took > STEP_TIME * 10 => (step / 2).max(1),
            _ => step,
        };
    }
    if switches > SWITCHES_NOTED_MAX {
        notes.push(format!("and {} more changes of the module", switches - SWITCHES_NOTED_MAX));
    }
    on(RehearsalEvent::Progress { stage: RehearsalStage::Replaying, done: total, total });
    Ok((both, notes))
}

fn tell_module(both: &SideBySide, on: &mut dyn FnMut(RehearsalEvent)) {
    if let Some(active) = &both.old.committed.active {
        on(RehearsalEvent::Module(Arc::clone(active)));
    }
}

fn noted(switch: &Switch, both: &SideBySide) -> String {
    let label = both.old.committed.active.as_ref().map_or("", |active| &active.label);
    let at = switch.at;
    match &switch.rolled_back {
        None => format!("index {at}: {label} was activated; the candidate went on"),
        Some(back) if back.data == "kept-state" => {
            let lost = match back.commands_lost {
                1 => "1 command".to_owned(),
                lost => format!("{lost} commands"),
            };
            format!(
                "index {at}: the machine was rolled back to {label} and its data of then, {lost} discarded; the candidate went \
                 on with what they did"
            )
        }
        Some(_) => format!("index {at}: the machine was rolled back to {label}; the candidate went on"),
    }
}
