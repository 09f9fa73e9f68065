//! The same commands by two machines, side by side: what each answered, and what it took. One goes through the log as it
//! was, with every change of its module; the other has the candidate throughout.

use bytes::Bytes;
use prost::Message;
use telegraft_node::ports::{Code, Machine, Outcome, Rejection};
use telegraft_proto::{internal::command::Body, v1::RolledBack};
use telegraft_raft::{Entry, EntryKind, Index};

use super::{
    TrialError,
    candidate::{nanoseconds, stalled},
    window::body_of,
};
use crate::{apply::SqliteMachine, guest::Cost};

/// Bytes of a command's payload and of a reply that a [`Difference`] carries.
const BYTES_SHOWN_MAX: usize = 64 << 10;

/// One command that the two modules answered differently.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The command's index.
    pub index: Index,
    /// Its method.
    pub method: String,
    /// Its payload, of which at most 64 KiB.
    pub payload: Bytes,
    /// Of the module that was active then.
    pub before: Answer,
    /// Of the candidate.
    pub after: Answer,
}

/// What one module answered, and what it took.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The reply, of which at most 64 KiB, or the rejection.
    pub outcome: Outcome,
    /// Bytes of the whole reply.
    pub reply_bytes: u64,
    /// What it took; nothing where no guest ran, as for a request that was answered before.
    pub cost: Cost,
}

/// What all commands took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCost {
    /// Commands that gave a reply.
    pub replies: u64,
    /// Those that were rejected, by the module or by the machine.
    pub rejections: u64,
    /// Of these: traps.
    pub traps: u64,
    /// Of these: budgets that ran out.
    pub exhausted: u64,
    /// Wasm fuel of all of them.
    pub fuel: u64,
    /// Of the dearest.
    pub fuel_max: u64,
    /// Steps of SQLite's virtual machine, of all of them.
    pub sql_steps: u64,
    /// Nanoseconds, of all of them.
    pub time_ns: u64,
    /// Of the longest.
    pub time_ns_max: u64,
}

impl ReplayCost {
    fn add(&mut self, outcome: &Outcome, cost: &Cost) {
        match outcome {
            Ok(_) => self.replies += 1,
            Err(rejection) => {
                self.rejections += 1;
                self.traps += u64::from(is_trap(rejection));
                self.exhausted += u64::from(is_exhausted(rejection));
            }
        }
        self.fuel += cost.fuel;
        self.fuel_max = self.fuel_max.max(cost.fuel);
        self.sql_steps += cost.sql_steps;
        let time = nanoseconds(cost.time);
        self.time_ns += time;
        self.time_ns_max = self.time_ns_max.max(time);
    }
}

/// The words are this crate's own, of [`crate::guest`]; a module that refuses in the same ones is counted with them.
fn is_trap(rejection: &Rejection) -> bool {
    rejection.code == Code::Aborted && rejection.message.starts_with("the module trapped")
}

fn is_exhausted(rejection: &Rejection) -> bool {
    let out_of_fuel = rejection.code == Code::Aborted && rejection.message.starts_with("the module ran out of fuel");
    out_of_fuel || rejection.code == Code::ResourceExhausted
}

/// The old side has another module from this entry on.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    /// The activation or the rollback.
    pub at: Index,
    /// What the rollback did, where it is one.
    pub rolled_back: Option<RolledBack>,
}

/// Two machines at the same index, and what they have taken so far.
pub(super) struct SideBySide {
    /// Goes through the log as it was.
    pub old: SqliteMachine,
    /// Has the candidate, whatever the log says.
    pub new: SqliteMachine,
    pub before: ReplayCost,
    pub after: ReplayCost,
    /// Commands replayed.
    pub commands: u64,
    /// Commands that were answered differently.
    pub differing: u64,
    /// Entries that the new side did without, but for changes of the module.
    pub left_out: u64,
}

impl SideBySide {
    pub(super) fn new(mut old: SqliteMachine, mut new: SqliteMachine) -> SideBySide {
        old.measure(true);
        new.measure(true);
        let (before, after) = <(ReplayCost, ReplayCost)>::default();
        SideBySide { old, new, before, after, commands: 0, differing: 0, left_out: 0 }
    }

    /// Applies these; hands over what is answered differently. An entry that may change the module must be the last of them.
    pub(super) fn apply(
        &mut self,
        entries: &[Entry],
        mut on: impl FnMut(Difference),
    ) -> Result<Option<Switch>, TrialError> {
        let bodies: Vec<Option<Body>> = entries.iter().map(body_of).collect();
        let for_new: Vec<Entry> = entries.iter().zip(&bodies).map(|(entry, body)| self.for_new(entry, body)).collect();
        let active_since = self.old.committed.meta.activated;
        let old = answers(&mut self.old, entries)?;
        let new = answers(&mut self.new, &for_new)?;
        let mut switch = None;
        let now_since = self.old.committed.meta.activated;
        for (((entry, body), before), after) in entries.iter().zip(bodies).zip(old).zip(new) {
            if entry.index == now_since && now_since != active_since {
                self.left_out -= 1;
                switch = Some(Switch { at: entry.index, rolled_back: rolled_back(body.as_ref(), &before.0) });
            }
            let Some(Body::Call(call)) = body else { continue };
            self.commands += 1;
            self.before.add(&before.0, &before.1);
            self.after.add(&after.0, &after.1);
            if before.0 != after.0 {
                self.differing += 1;
                on(Difference {
                    index: entry.index,
                    method: call.method,
                    payload: shown(&call.payload),
                    before: answer(before),
                    after: answer(after),
                });
            }
        }
        Ok(switch)
    }

    /// The entry as the new side gets it: nothing, at the same index, where it would mean something else there. That are uploads,
    /// changes of the module, and the replicas' talk about their digests.
    fn for_new(&mut self, entry: &Entry, body: &Option<Body>) -> Entry {
        if matches!(body, Some(Body::Call(_) | Body::SetLimits(_) | Body::EndReuse(_))) {
            return entry.clone();
        }
        self.left_out += u64::from(entry.kind == EntryKind::Normal && !entry.data.is_empty());
        Entry { data: Bytes::new(), ..entry.clone() }
    }
}

fn rolled_back(body: Option<&Body>, outcome: &Outcome) -> Option<RolledBack> {
    match (body, outcome) {
        (Some(Body::Rollback(_)), Ok(reply)) => RolledBack::decode(reply.clone()).ok(),
        _ => None,
    }
}

/// One outcome and cost for each entry.
fn answers(machine: &mut SqliteMachine, entries: &[Entry]) -> Result<Vec<(Outcome, Cost)>, TrialError> {
    let outcomes = machine.apply(entries)?;
    // Nobody proposes them; kept, they would only grow.
    machine.take_proposals();
    machine.take_table_changes();
    let mut costs = machine.take_costs();
    // Where an entry ran twice, because a later one cost the transaction, the last run counts.
    costs.reverse();
    if outcomes.len() != entries.len() {
        return Err(stalled(machine));
    }
    let cost = |index: Index| costs.iter().find(|(at, _)| *at == index).map(|(_, cost)| *cost).unwrap_or_default();
    Ok(entries.iter().zip(outcomes).map(|(entry, outcome)| (outcome, cost(entry.index))).collect())
}

fn answer((outcome, cost): (Outcome, Cost)) -> Answer {
    let reply_bytes = outcome.as_ref().map_or(0, |reply| reply.len() as u64);
    Answer { outcome: outcome.map(|reply| shown(&reply)), reply_bytes, cost }
}

fn shown(bytes: &Bytes) -> Bytes {
    bytes.slice(..bytes.len().min(BYTES_SHOWN_MAX))
}
