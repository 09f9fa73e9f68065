//! Which entries a rehearsal replays: the newest commands of the log, whichever modules were active, and the places among
//! them from which the replay may begin.

use std::sync::Arc;

use prost::Message;
use telegraft_proto::internal::{Command, command::Body};
use telegraft_raft::{Entry, EntryKind, Index, Storage, StorageError};

use super::{Stop, TrialError, give_up_if};
use crate::{active::ActiveModule, catalog, effects::EffectDigest, module::Inspection, reader::MachineReader};

/// Bytes of entries read at a time.
const BYTES_PER_READ: u64 = 4 << 20;
/// Entries that the search for commands reads at a time.
const ENTRIES_PER_LOOK: u64 = 1_024;

/// A place from which the replay may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The first command that is replayed; the candidate is activated on the state from before it. Where no command has come
    /// since the newest change of the module: the index behind the newest entry.
    pub first: Index,
    /// Commands from there on.
    pub commands: u64,
}

/// The entries that are replayed.
#[derive(Debug)]
pub(super) struct Window {
    /// The module that is active now.
    pub active: Arc<ActiveModule>,
    /// The newest entry that is applied.
    pub last: Index,
    /// The live machine's effects up to there.
    pub effects: EffectDigest,
    /// The oldest first: at the first of the commands, and at the first after each entry that may have changed the module. The
    /// last one is under the module that is active now. Never empty.
    pub starts: Vec<Start>,
}

impl Window {
    /// The newest `wanted` commands.
    pub(super) fn find(
        live: &MachineReader,
        log: &dyn Storage,
        wanted: u64,
        candidate: &Inspection,
        stop: Stop<'_>,
    ) -> Result<Window, TrialError> {
        let (active, (last, effects)) = loop {
            let generation = live.generation();
            let (active, effects) = (live.active(), live.effect_digest());
            // A module is published before its index: no later activation is at or below this one.
            if live.generation() == generation {
                break (active.ok_or(TrialError::NoModule)?, effects);
            }
        };
        let first = log.first_index();
        if first > 1 {
            return Err(TrialError::Compacted { first });
        }
        let since = active.record.activated_index;
        let mut starts = starts(log, wanted, since, last, stop)?;
        if starts.is_empty() {
            return Err(TrialError::NoCommands { since });
        }
        let layout = live.read(|database, _| catalog::layout(database.host(), &candidate.name))?;
        if layout.is_some_and(|layout| layout > candidate.schema) {
            // It could not be activated now: that older states would take it helps nobody.
            starts.drain(..starts.len() - 1);
        }
        Ok(Window { active, last, effects, starts })
    }
}

/// See [`Window::starts`]; none where there is no command at all.
fn starts(log: &dyn Storage, wanted: u64, since: Index, last: Index, stop: Stop<'_>) -> Result<Vec<Start>, TrialError> {
    let mut starts: Vec<Start> = Vec::new();
    let mut oldest = Start { first: last + 1, commands: 0 };
    let mut high = last + 1;
    while oldest.commands < wanted && high > 1 {
        give_up_if(stop)?;
        let low = high.saturating_sub(ENTRIES_PER_LOOK).max(1);
        let mut found = Vec::new();
        each_entry(log, low, high, |entry| match body_of(&entry) {
            Some(Body::Call(_)) => found.push((entry.index, true)),
            // What came after the newest change was refused.
            Some(body) if changes_the_module(&body) && entry.index <= since => found.push((entry.index, false)),
            _ => (),
        })?;
        for (index, is_call) in found.into_iter().rev() {
            if oldest.commands == wanted {
                break;
            } else if is_call {
                oldest = Start { first: index, commands: oldest.commands + 1 };
            } else if starts.last() != Some(&oldest) {
                starts.push(oldest);
            }
        }
        high = low;
    }
    if oldest.commands == 0 {
        return Ok(Vec::new());
    }
    if starts.last() != Some(&oldest) {
        starts.push(oldest);
    }
    starts.reverse();
    Ok(starts)
}

/// What an entry has for the machine.
pub(super) fn body_of(entry: &Entry) -> Option<Body> {
    if entry.kind != EntryKind::Normal || entry.data.is_empty() {
        return None;
    }
    Command::decode(entry.data.clone()).ok()?.body
}

/// Whether another module may be active after this.
pub(super) fn changes_the_module(body: &Body) -> bool {
    matches!(body, Body::Activate(_) | Body::Rollback(_))
}

/// Some of the entries `low..high`, from the first on; at least one.
pub(super) fn read(log: &dyn Storage, low: Index, high: Index) -> Result<Vec<Entry>, TrialError> {
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
