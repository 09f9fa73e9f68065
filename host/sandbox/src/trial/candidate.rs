//! The module that is tried: its upload and activation, as entries, on a machine over a copy.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use prost::Message;
use telegraft_node::ports::{Machine, Outcome, Rejection};
use telegraft_proto::internal::{Activate, Command, Limits, ModuleChunk, SetLimits, command::Body};
use telegraft_raft::{Entry, EntryKind, Index};

use super::{SchemaChange, TrialError, schema_changes::Schema};
use crate::{
    apply::SqliteMachine, catalog, effects::TableChanges, guest::Cost, module::Inspection, store::database_lost,
};

/// A module, and how it would be activated.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The component.
    pub bytes: Bytes,
    /// One instance for many entries.
    pub reuse: bool,
    /// What the host that proposes an activation puts into it.
    pub limits: Option<Limits>,
    /// Time of the activation in a dry run, microseconds since the Unix epoch.
    pub time_us: u64,
    /// Its entropy.
    pub entropy: (u64, u64),
}

/// What an activation did.
#[derive(Clone, Debug, Default)]
pub struct Activation {
    /// The data layout that the module's name had; none where the name was new to the machine.
    pub from_schema: Option<u32>,
    /// Whether `init` runs.
    pub init_runs: bool,
    /// Why it would be refused, where it would; then there are no changes.
    pub refused: Option<Rejection>,
    /// What `init` did to the schema.
    pub schema_changes: Vec<SchemaChange>,
    /// What `init` did to rows, by table.
    pub table_changes: BTreeMap<String, TableChanges>,
    /// What `init` took.
    pub cost: Cost,
}

/// Uploads and activates the candidate at the next indexes; `time_us` as the entries carry it. Where `budgets` are given, they
/// hold meanwhile, in the place of the machine's.
pub(super) fn activate(
    machine: &mut SqliteMachine,
    candidate: &Candidate,
    inspection: &Inspection,
    time_us: u64,
    budgets: Option<crate::limits::Limits>,
) -> Result<Activation, TrialError> {
    let own = machine.limits();
    if let Some(budgets) = budgets {
        set_limits(machine, budgets)?;
    }
    let conn = machine.database.as_deref().ok_or_else(database_lost)?.host();
    let before = Schema::read(conn)?;
    let from_schema = catalog::layout(conn, &inspection.name)?;
    let digest = Bytes::copy_from_slice(&inspection.digest.0);
    let upload = Body::ModuleChunk(ModuleChunk {
        digest: digest.clone(),
        size: inspection.size,
        offset: 0,
        data: candidate.bytes.clone(),
        name: inspection.name.clone(),
        version: inspection.version.clone(),
        schema: inspection.schema,
    });
    let activate = Body::Activate(Activate {
        digest,
        reuse: candidate.reuse,
        limits: candidate.limits,
        // This host's own, which is what an activation through it names.
        ..Activate::default()
    });
    machine.measure(true);
    let mut done = Activation {
        from_schema,
        init_runs: from_schema.is_none_or(|from| from < inspection.schema),
        ..Activation::default()
    };
    for body in [upload, activate] {
        let (entropy_high, entropy_low) = candidate.entropy;
        let command = Command { time_us, entropy_high, entropy_low, body: Some(body), ..Command::default() };
        if let Err(rejection) = apply_one(machine, &command)? {
            done.refused = Some(rejection);
            break;
        }
    }
    // An activation runs no other guest code than `init` that counts.
    for (_, cost) in machine.take_costs() {
        done.cost.fuel += cost.fuel;
        done.cost.sql_steps += cost.sql_steps;
        done.cost.time += cost.time;
    }
    let table_changes = machine.take_table_changes();
    machine.measure(false);
    if budgets.is_some() {
        set_limits(machine, own)?;
    }
    if done.refused.is_none() {
        let conn = machine.database.as_deref().ok_or_else(database_lost)?.host();
        done.schema_changes = before.changes(&Schema::read(conn)?);
        done.table_changes = table_changes;
    }
    Ok(done)
}

fn set_limits(machine: &mut SqliteMachine, limits: crate::limits::Limits) -> Result<(), TrialError> {
    let body = Body::SetLimits(SetLimits { limits: Some(limits.into()) });
    let set = apply_one(machine, &Command { body: Some(body), ..Command::default() })?;
    set.map(drop).map_err(|refused| TrialError::Halted(refused.message))
}

fn apply_one(machine: &mut SqliteMachine, command: &Command) -> Result<Outcome, TrialError> {
    let index = machine.applied_index() + 1;
    let entry = Entry { term: 1, index, kind: EntryKind::Normal, data: command.encode_to_vec().into() };
    let mut outcomes = machine.apply(&[entry])?;
    outcomes.pop().ok_or_else(|| halted(machine))
}

/// The machine did not take the candidate's entries.
fn halted(machine: &SqliteMachine) -> TrialError {
    TrialError::Halted(why_halted(machine))
}

/// The machine answered fewer entries of the log than it was given.
pub(super) fn stalled(machine: &SqliteMachine) -> TrialError {
    TrialError::Stalled { at: machine.applied_index() + 1, why: why_halted(machine) }
}

fn why_halted(machine: &SqliteMachine) -> String {
    machine.halted().unwrap_or_else(|| "it does not say why".to_owned())
}

/// Sets the machine's applied index back, so that what comes next comes at its own index.
///
/// The state keeps what the entries beyond did. Guests see an entry's index, so a module that is compared with another
/// must meet each command where the other does.
pub(super) fn set_back(machine: &mut SqliteMachine, to: Index) {
    machine.now.meta.applied = to;
    machine.committed.meta.applied = to;
}

/// For reports: the whole time in one unit.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
