//! One guest instance and the calls into it: budgets before, classification of every way a call can end after. Owns the
//! bindings generated from `wit/machine.wit` and the state that a Wasmtime store carries.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use telegraft_node::ports::{Code, MachineFault, Rejection};
use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, component::Instance};

use crate::{
    database::Database,
    engine::{HOSTCALL_BYTES_MAX, INSTANTIATION_FUEL, TABLE_ELEMENTS_MAX},
    limits::Limits,
    sandbox::Prepared,
};

pub(crate) mod bindings {
    //! Generated from the contract.
    #![allow(clippy::all, missing_docs)]
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "state-machine",
        imports: { default: trappable },
    });
}

use bindings::{StateMachine, telegraft::machine::types};

use crate::module::DOWNGRADE_INTERFACE;

pub(crate) use bindings::exports::telegraft::machine::machine::{Context, Description};

/// Bytes of a guest's failure message that are kept. It travels in headers, twice: with a percent sign and two digits for each
/// byte that is no printable ASCII, and within the details, in base64. Together with the rest that must stay below the 16 KiB
/// that clients take as headers (hyper's default): beyond it they never see the answer, only that none comes.
const FAILURE_MESSAGE_BYTES_MAX: usize = 2 << 10;

/// Lines that one guest call may log.
pub(crate) const LOG_LINES_PER_CALL_MAX: u32 = 100;

/// How something ended that did not give its own answer. Classed once, here and in `database`, and never again.
#[derive(Debug)]
pub(crate) enum Ended {
    /// A result, the same on every replica.
    Rejected(Rejection),
    /// This host's own defect.
    Fault(MachineFault),
}

impl From<MachineFault> for Ended {
    fn from(fault: MachineFault) -> Self {
        Ended::Fault(fault)
    }
}

impl From<Rejection> for Ended {
    fn from(rejection: Rejection) -> Self {
        Ended::Rejected(rejection)
    }
}

/// A rejection in one line.
pub(crate) fn rejection(code: Code, message: impl Into<String>) -> Rejection {
    Rejection { code, message: message.into() }
}

/// `text`, cut at a character boundary to at most `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// What a Wasmtime store carries: the database while a call may use it, and the budgets.
pub(crate) struct GuestState {
    /// Lent for the duration of a call; none during `describe` and instantiation.
    pub database: Option<Box<Database>>,
    pub limits: Limits,
    /// Why the host ended the call, when it did.
    pub ended: Option<Ended>,
    pub log_lines: u32,
    /// Memory or a table could not grow, which the guest was told.
    pub refused_growth: bool,
    /// Bytes that the running call has handed to the host.
    pub bytes_taken: usize,
    /// For the guest's log lines.
    pub module: Arc<str>,
    memory_used: u64,
}

impl GuestState {
    /// Ends the guest's call for `reason`. The error is only the vehicle that unwinds the guest.
    pub(crate) fn end(&mut self, reason: Ended) -> wasmtime::Error {
        if self.ended.is_none() {
            self.ended = Some(reason);
        }
        wasmtime::Error::msg("the host ended the call")
    }
}

/// Failed growth ends the call instead of telling the guest: to a guest, memory that runs out looks like a panic in the
/// middle of anything, and how it copes is one more thing that would have to be equal.
impl ResourceLimiter for GuestState {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|max| desired > max) {
            // The module's own declaration; the guest sees -1, on every host.
            self.refused_growth = true;
            return Ok(false);
        }
        let used = self.memory_used.saturating_add((desired.saturating_sub(current)) as u64);
        if used > self.limits.memory_bytes {
            let message =
                format!("the module used up its memory budget of {} bytes (memory_bytes)", self.limits.memory_bytes);
            return Err(self.end(rejection(Code::ResourceExhausted, message).into()));
        }
        self.memory_used = used;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // Within the budget and within the type, so it is the operating system that said no; or beyond what the memory's
        // type can express, which is the same everywhere and is reported before `memory_growing` is asked.
        if error.to_string().contains("memory type's limits") {
            self.refused_growth = true;
            return Ok(());
        }
        Err(self.end(Ended::Fault(MachineFault(format!("this host could not give a guest memory: {error:#}")))))
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grows = desired <= TABLE_ELEMENTS_MAX && maximum.is_none_or(|max| desired <= max);
        self.refused_growth |= !grows;
        Ok(grows)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(self.end(Ended::Fault(MachineFault(format!("this host could not give a guest a table: {error:#}")))))
    }
}

/// A live instance. After a call that ended badly it is dead: [`Guest::is_dead`].
pub(crate) struct Guest {
    store: Store<GuestState>,
    bindings: StateMachine,
    instance: Instance,
    dead: bool,
}

/// What a guest's call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Wasm fuel.
    pub fuel: u64,
    /// SQL steps.
    pub sql_steps: u64,
    /// On this host's clock, instantiation and all.
    pub time: Duration,
}

/// What a guest is asked.
pub(crate) enum Ask<'a> {
    Apply {
        method: &'a str,
        payload: &'a [u8],
    },
    Query {
        method: &'a str,
        payload: &'a [u8],
    },
    Init {
        from_schema: Option<u32>,
    },
    /// Only of a module that [offers](crate::sandbox::Prepared::downgrades) it.
    Downgrade {
        to_schema: u32,
    },
}

impl Guest {
    /// A fresh instance. `fuel` bounds start functions; see [`INSTANTIATION_FUEL`].
    pub(crate) fn instantiate(
        prepared: &Prepared,
        limits: Limits,
        module: Arc<str>,
        fuel: Option<u64>,
    ) -> Result<Guest, Ended> {
        let Prepared { pre, indices, .. } = prepared;
        let state = GuestState {
            database: None,
            limits,
            ended: None,
            log_lines: 0,
            refused_growth: false,
            bytes_taken: 0,
            module,
            memory_used: 0,
        };
        let mut store = Store::new(pre.engine(), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.set_fuel(fuel.unwrap_or(INSTANTIATION_FUEL)).map_err(engine_fault)?;
        let instantiated = pre.instance_pre().instantiate(&mut store).and_then(|instance| {
            let bindings = indices.load(&mut store, &instance)?;
            Ok((instance, bindings))
        });
        match instantiated {
            Ok((instance, bindings)) => Ok(Guest { store, bindings, instance, dead: false }),
            Err(error) => Err(match store.data_mut().ended.take() {
                Some(ended) => ended,
                None => match error.downcast_ref::<Trap>() {
                    Some(trap) => trapped(*trap, "while it was instantiated").into(),
                    None if error.is::<PoolConcurrencyLimitError>() => {
                        MachineFault(format!("too many guest instances at once: {error:#}")).into()
                    }
                    None => MachineFault(format!("a guest could not be instantiated: {error:#}")).into(),
                },
            }),
        }
    }

    /// Whether the instance must not be called again.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether memory or a table could not grow in the last call, which the guest is told and may take as it likes.
    pub(crate) fn was_refused_growth(&self) -> bool {
        self.store.data().refused_growth
    }

    /// Fuel that the last call burnt.
    pub(crate) fn fuel_used(&self) -> u64 {
        self.store.data().limits.fuel.saturating_sub(self.store.get_fuel().unwrap_or(0))
    }

    /// Asks the module for its description; it has no store meanwhile.
    pub(crate) fn describe(&mut self) -> Result<Description, Ended> {
        self.call(None, |store, bindings, _| bindings.telegraft_machine_machine().call_describe(store)).1
    }

    /// One call with the database lent. The database comes back however the call ended.
    pub(crate) fn ask(
        &mut self,
        database: Box<Database>,
        ctx: Context,
        ask: &Ask<'_>,
    ) -> (Option<Box<Database>>, Result<Bytes, Ended>) {
        let reply_bytes_max = self.store.data().limits.reply_bytes;
        let (database, answer) = self.call(Some(database), |store, bindings, instance| {
            let machine = bindings.telegraft_machine_machine();
            match *ask {
                Ask::Apply { method, payload } => machine.call_apply(store, ctx, method, payload),
                Ask::Query { method, payload } => machine.call_query(store, ctx, method, payload),
                Ask::Init { from_schema } => {
                    machine.call_init(store, ctx, from_schema).map(|answer| answer.map(|()| Vec::new()))
                }
                Ask::Downgrade { to_schema } => {
                    call_downgrade(store, instance, ctx, to_schema).map(|answer| answer.map(|()| Vec::new()))
                }
            }
        });
        let answer = match answer {
            Ok(Ok(reply)) if reply.len() as u64 > reply_bytes_max => Err(rejection(
                Code::ResourceExhausted,
                format!(
                    "the module's reply of {} bytes is over the budget of {reply_bytes_max} (reply_bytes)",
                    reply.len()
                ),
            )
            .into()),
            Ok(Ok(reply)) => Ok(Bytes::from(reply)),
            Ok(Err(failure)) => Err(refused(&failure).into()),
            Err(ended) => Err(ended),
        };
        (database, answer)
    }

    fn call<R>(
        &mut self,
        database: Option<Box<Database>>,
        run: impl FnOnce(&mut Store<GuestState>, &StateMachine, &Instance) -> wasmtime::Result<R>,
    ) -> (Option<Box<Database>>, Result<R, Ended>) {
        let state = self.store.data_mut();
        state.database = database;
        state.ended = None;
        state.log_lines = 0;
        state.bytes_taken = 0;
        state.refused_growth = false;
        let fuel = state.limits.fuel;
        // Set here, after instantiation, whose cost is no part of the budget.
        if let Err(error) = self.store.set_fuel(fuel) {
            return (self.store.data_mut().database.take(), Err(engine_fault(error).into()));
        }
        let result = run(&mut self.store, &self.bindings, &self.instance);
        let state = self.store.data_mut();
        let database = state.database.take();
        let ended = state.ended.take();
        let result = match (result, ended) {
            (Ok(value), None) => Ok(value),
            (_, Some(ended)) => Err(ended),
            (Err(error), None) => Err(match error.downcast_ref::<Trap>() {
                Some(Trap::OutOfFuel) => {
                    rejection(Code::Aborted, format!("the module ran out of fuel (budget {fuel})")).into()
                }
                Some(trap) => trapped(*trap, "").into(),
                None => {
                    tracing::warn!(error = format!("{error:#}"), "a guest broke a rule of the component model");
                    rejection(Code::Aborted, "the module trapped: it broke a rule of the component model").into()
                }
            }),
        };
        self.dead |= result.is_err();
        (database, result)
    }
}

/// The optional export; the bindings know only those that every module has.
fn call_downgrade(
    store: &mut Store<GuestState>,
    instance: &Instance,
    ctx: Context,
    to_schema: u32,
) -> wasmtime::Result<Result<(), types::Failure>> {
    let missing = || wasmtime::Error::msg("the module offers no downgrade");
    let interface = instance.get_export_index(&mut *store, None, DOWNGRADE_INTERFACE).ok_or_else(missing)?;
    let export = instance.get_export_index(&mut *store, Some(&interface), "downgrade").ok_or_else(missing)?;
    let downgrade = instance.get_typed_func::<(Context, u32), (Result<(), types::Failure>,)>(&mut *store, export)?;
    downgrade.call(store, (ctx, to_schema)).map(|(answer,)| answer)
}

fn engine_fault(error: wasmtime::Error) -> MachineFault {
    MachineFault(format!("the Wasm engine failed: {error:#}"))
}

/// The text of a trap is a result: our own words, which do not change with the engine's version.
fn trapped(trap: Trap, when: &str) -> Rejection {
    let why = match trap {
        Trap::UnreachableCodeReached => "unreachable code was reached (a panic or an abort)",
        Trap::StackOverflow => "its call stack is exhausted",
        Trap::MemoryOutOfBounds => "it accessed memory out of bounds",
        Trap::HeapMisaligned => "it made a misaligned access",
        Trap::TableOutOfBounds | Trap::IndirectCallToNull => "it called through an undefined table element",
        Trap::BadSignature => "an indirect call had the wrong type",
        Trap::IntegerOverflow => "an integer operation overflowed",
        Trap::IntegerDivisionByZero => "it divided an integer by zero",
        Trap::BadConversionToInteger => "a float could not be converted to an integer",
        Trap::OutOfFuel => "it ran out of fuel",
        Trap::AllocationTooLarge => "an allocation was too large",
        _ => "it broke a rule of the component model",
    };
    let space = if when.is_empty() { "" } else { " " };
    rejection(Code::Aborted, format!("the module trapped{space}{when}: {why}"))
}

fn refused(failure: &types::Failure) -> Rejection {
    use types::FailureCode as F;
    let code = match failure.code {
        F::InvalidArgument => Code::InvalidArgument,
        F::NotFound => Code::NotFound,
        F::AlreadyExists => Code::AlreadyExists,
        F::PermissionDenied => Code::PermissionDenied,
        F::FailedPrecondition => Code::FailedPrecondition,
        F::OutOfRange => Code::OutOfRange,
        F::ResourceExhausted => Code::ResourceExhausted,
        F::Unimplemented => Code::Unimplemented,
        F::Unauthenticated => Code::Unauthenticated,
        F::Aborted => Code::Aborted,
        F::Internal => Code::Internal,
    };
    rejection(code, cut(&failure.message, FAILURE_MESSAGE_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("é", 1), "");
    }
}
