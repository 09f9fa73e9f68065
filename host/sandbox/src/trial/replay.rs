//! The same commands by two machines, side by side: what each answered, and what it took.

use bytes::Bytes;
use prost::Message;
use telegraft_node::ports::{Code, Machine, Outcome, Rejection};
use telegraft_proto::internal::{Call, Command, command::Body};
use telegraft_raft::{Entry, EntryKind, Index};

use super::{
    TrialError,
    candidate::{halted, nanoseconds},
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
    /// Of the active module.
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

/// Two machines at the same index, and what they have taken so far.
pub(super) struct SideBySide {
    pub old: SqliteMachine,
    pub new: SqliteMachine,
    pub before: ReplayCost,
    pub after: ReplayCost,
    /// Commands replayed.
    pub commands: u64,
    /// Commands that were answered differently.
    pub differing: u64,
    /// Entries that were left out.
    pub left_out: u64,
}

impl SideBySide {
    pub(super) fn new(mut old: SqliteMachine, mut new: SqliteMachine) -> SideBySide {
        old.measure(true);
        new.measure(true);
        let (before, after) = <(ReplayCost, ReplayCost)>::default();
        SideBySide { old, new, before, after, commands: 0, differing: 0, left_out: 0 }
    }

    /// Applies these on both; hands over what is answered differently.
    pub(super) fn apply(&mut self, entries: Vec<Entry>, mut on: impl FnMut(Difference)) -> Result<(), TrialError> {
        let mut calls = Vec::with_capacity(entries.len());
        let mut replayed = Vec::with_capacity(entries.len());
        for entry in entries {
            let call = call_of(&entry);
            replayed.push(if call.is_some() || decides_calls(&entry) { entry } else { self.leave_out(entry) });
            calls.push(call);
        }
        let old = answers(&mut self.old, &replayed)?;
        let new = answers(&mut self.new, &replayed)?;
        for ((entry, call), (before, after)) in replayed.iter().zip(calls).zip(old.into_iter().zip(new)) {
            let Some(call) = call else { continue };
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
        Ok(())
    }

    fn leave_out(&mut self, entry: Entry) -> Entry {
        self.left_out += u64::from(entry.kind == EntryKind::Normal && !entry.data.is_empty());
        Entry { data: Bytes::new(), ..entry }
    }
}

/// The command for the guest in an entry, if it is one.
pub(super) fn call_of(entry: &Entry) -> Option<Call> {
    match body_of(entry)? {
        Body::Call(call) => Some(call),
        _ => None,
    }
}

fn body_of(entry: &Entry) -> Option<Body> {
    if entry.kind != EntryKind::Normal || entry.data.is_empty() {
        return None;
    }
    Command::decode(entry.data.clone()).ok()?.body
}

/// Entries other than commands that decide what commands give: budgets, and whether instances live on. Uploads,
/// activations that were refused, and the replicas' talk about their digests would mean something else on a copy.
fn decides_calls(entry: &Entry) -> bool {
    matches!(body_of(entry), Some(Body::SetLimits(_) | Body::EndReuse(_)))
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
        return Err(halted(machine));
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
