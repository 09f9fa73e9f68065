//! The calls that entries make to the module: to which instance, with which budgets, and what they take.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use telegraft_node::ports::{Code, MachineFault, Rejection};
use telegraft_raft::defects::{self, Defect};

use crate::{
    active::ActiveModule,
    apply::SqliteMachine,
    guest::{Ask, Context, Cost, Ended, Guest, rejection},
    limits::Limits,
    schema::Meta,
    store::database_lost,
};

impl SqliteMachine {
    /// Asks the active module, `kept`: the instance that is kept where reuse is allowed, else a fresh one.
    pub(crate) fn call(&mut self, ask: &Ask<'_>, kept: bool) -> Result<Bytes, Ended> {
        let Some(active) = self.now.active.clone() else {
            return Err(no_module().into());
        };
        (self.worn, self.died) = (false, false);
        let begun = self.costs.is_some().then(Instant::now);
        let kept = kept && self.reuses(self.now.meta.applied);
        let mut reused = if kept { self.instance.take() } else { None };
        let was_reused = reused.is_some();
        let mut limits = active.limits;
        if defects::active(Defect::NondeterministicGuest) {
            limits.sql_steps = self.own_budget();
        }
        let mut care = None;
        let (guest, answer) = loop {
            let guest = match reused.take() {
                Some(guest) => guest,
                None => Guest::instantiate(&active.prepared, active.limits, Arc::clone(&active.label), None)?,
            };
            let asked = self.ask(guest, &limits, ask, care);
            care = self.database()?.wants_care();
            // A reused instance has died of it, and a fresh one is to decide.
            if care.is_none() || was_reused {
                break asked;
            }
            self.rewind("_telegraft_entry")?;
        };
        if let (Some(begun), Some((_, cost))) = (begun, self.costs.as_mut().and_then(|costs| costs.last_mut())) {
            cost.time = begun.elapsed();
        }
        self.worn = was_reused && (guest.fuel_used() > limits.fuel / 2 || guest.was_refused_growth());
        self.died = was_reused && guest.is_dead();
        if kept && !guest.is_dead() {
            self.instance = Some(guest);
        }
        answer
    }

    /// Asks a fresh instance of this module, within the open entry.
    pub(crate) fn ask_fresh(&mut self, module: &ActiveModule, limits: &Limits, ask: &Ask<'_>) -> Result<Bytes, Ended> {
        self.execute("SAVEPOINT _telegraft_ask")?;
        let mut care = None;
        let answer = loop {
            let guest = Guest::instantiate(&module.prepared, *limits, Arc::clone(&module.label), None)?;
            let (_, answer) = self.ask(guest, limits, ask, care);
            care = self.database()?.wants_care();
            if care.is_none() {
                break answer;
            }
            self.rewind("_telegraft_ask")?;
        };
        // Some errors have taken the whole transaction with them.
        if !self.conn()?.is_autocommit() {
            self.execute("RELEASE _telegraft_ask")?;
        }
        answer
    }

    /// The open call is to begin again: what it has done since this savepoint is undone.
    fn rewind(&mut self, savepoint: &str) -> Result<(), MachineFault> {
        let effects = self.database()?.effects();
        effects.forget();
        effects.take_tables();
        self.execute(&format!("ROLLBACK TO {savepoint}"))?;
        self.database()?.after_undo(false)
    }

    /// One call with the database lent. `care`: it begins again, with statements that can be taken back.
    fn ask(
        &mut self,
        mut guest: Guest,
        limits: &Limits,
        ask: &Ask<'_>,
        care: Option<i32>,
    ) -> (Guest, Result<Bytes, Ended>) {
        let Some(mut database) = self.database.take() else {
            return (guest, Err(database_lost().into()));
        };
        let begun = self.costs.is_some().then(Instant::now);
        let context = context(&self.now.meta);
        database.enter_guest(limits, &context, care);
        let (database, answer) = guest.ask(database, context, ask);
        self.database = database;
        let Some(database) = &mut self.database else {
            return (guest, Err(database_lost().into()));
        };
        database.leave_guest();
        if let (Some(begun), Some(costs)) = (begun, &mut self.costs) {
            let cost = Cost { fuel: guest.fuel_used(), sql_steps: database.steps_used(), time: begun.elapsed() };
            costs.push((self.now.meta.applied, cost));
        }
        (guest, answer)
    }

    /// A budget that is this host's own instead of the activation's. Only for the bug that does so.
    fn own_budget(&self) -> u64 {
        let name =
            self.dir.as_os_str().as_encoded_bytes().iter().fold(0_u64, |sum, byte| sum * 31 % 1009 + u64::from(*byte));
        if (name + self.now.meta.applied).is_multiple_of(16) { 1 } else { Limits::DEFAULT.sql_steps }
    }
}

/// The answer of a machine without a module.
pub(crate) fn no_module() -> Rejection {
    rejection(Code::FailedPrecondition, "no module is active: upload and activate one")
}

/// The context of a call at this point of the log.
pub(crate) fn context(meta: &Meta) -> Context {
    Context { index: meta.applied, time_us: meta.time_us, entropy: meta.entropy }
}
