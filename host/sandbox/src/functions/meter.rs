//! The step budget of a statement: SQLite's VM steps, which its progress handler reports in ticks and the statement's reach
//! ([`crate::reach`]) multiplies, what functions charge on top for work that a step does not tell of, and bytes written to temporary files. All counts are the same on every
//! replica, so where the budget ends is too.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering::Relaxed},
};

use rusqlite::Error as SqlError;
use telegraft_node::ports::Cancellation;

use crate::{database::VALUE_BYTES_HOST, reach, temporary};

/// VM steps between two looks at the step budget. Decides results, in what it costs to look late.
pub(crate) const STEPS_PER_TICK: i64 = 1000;

/// One step of the budget for so many bytes that a statement writes to temporary files. Decides results.
const TEMPORARY_BYTES_PER_STEP: u64 = 32;

/// Atomics only because hooks and functions must be `Send`; one thread uses them at a time.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Whether a statement of the guest is being stepped.
    counting: AtomicBool,
    ticks: AtomicI64,
    charged: AtomicI64,
    steps_max: AtomicI64,
    /// What this thread had written to temporary files when counting began.
    written: AtomicU64,
    exhausted: AtomicBool,
    /// Of the statement, bytes.
    reach: AtomicI32,
    /// Of the query that runs. There is no place for one on a connection that writes: a command ends by what is the same on
    /// every replica, and by nothing else.
    cancellation: Option<Mutex<Cancellation>>,
}

impl Meter {
    /// For a connection that cannot write.
    pub(crate) fn of_queries() -> Meter {
        Meter { cancellation: Some(Mutex::default()), ..Meter::default() }
    }

    /// From now on statements end once this is cancelled, as if their budget were used up; on a connection that cannot write.
    pub(crate) fn end_when(&self, cancelled: &Cancellation) {
        if let Some(place) = &self.cancellation {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = cancelled.clone();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        let place = self.cancellation.as_ref();
        place.is_some_and(|place| place.lock().unwrap_or_else(PoisonError::into_inner).is_cancelled())
    }

    /// Counting begins, of a statement with this reach: it ends at the first tick or charge that exceeds `steps`. It ends in
    /// the thread that begins it.
    pub(crate) fn begin(&self, steps: i64, reach: i32) {
        self.reach.store(reach, Relaxed);
        self.written.store(temporary::written(), Relaxed);
        self.ticks.store(0, Relaxed);
        self.charged.store(0, Relaxed);
        self.exhausted.store(false, Relaxed);
        self.steps_max.store(steps, Relaxed);
        self.counting.store(true, Relaxed);
    }

    /// Charges work that was done. What it uses up shows at the next tick, or at the end.
    pub(crate) fn add(&self, steps: u64) {
        if steps > 0 && self.counting.load(Relaxed) {
            let charged = self.charged.load(Relaxed);
            self.charged.store(charged.saturating_add(i64::try_from(steps).unwrap_or(i64::MAX)), Relaxed);
        }
    }

    /// Steps that the ticks since counting began tell of.
    pub(crate) fn ticked(&self) -> i64 {
        let tick = STEPS_PER_TICK * reach::weight(self.reach.load(Relaxed));
        self.ticks.load(Relaxed).saturating_mul(tick)
    }

    /// Counting ends; what was charged besides VM steps.
    pub(crate) fn end(&self) -> i64 {
        self.counting.store(false, Relaxed);
        self.charged()
    }

    fn charged(&self) -> i64 {
        let written = temporary::written().saturating_sub(self.written.load(Relaxed));
        self.charged.load(Relaxed).saturating_add_unsigned(written / TEMPORARY_BYTES_PER_STEP)
    }

    /// Whether a function found the budget used up.
    pub(crate) fn exhausted(&self) -> bool {
        self.exhausted.load(Relaxed)
    }

    fn over(&self) -> bool {
        self.ticked().saturating_add(self.charged()) > self.steps_max.load(Relaxed) || self.is_cancelled()
    }

    pub(crate) fn is_counting(&self) -> bool {
        self.counting.load(Relaxed)
    }

    /// One tick more; true where the budget is used up.
    pub(crate) fn tick(&self) -> bool {
        self.ticks.fetch_add(1, Relaxed);
        self.over()
    }

    /// Charges work that is about to be done. An error ends the statement: unlike an interrupt it leaves the transaction.
    pub(crate) fn charge(&self, steps: u64) -> Result<(), SqlError> {
        if steps == 0 || !self.counting.load(Relaxed) {
            return Ok(());
        }
        let charged = self.charged.load(Relaxed);
        self.charged.store(charged.saturating_add(i64::try_from(steps).unwrap_or(i64::MAX)), Relaxed);
        if self.over() {
            self.exhausted.store(true, Relaxed);
            return Err(SqlError::UserFunctionError("the SQL budget is used up".into()));
        }
        Ok(())
    }

    /// Bytes of the largest value that a function may answer.
    pub(crate) fn value_bytes(&self) -> u64 {
        let bytes = if self.is_counting() { self.reach.load(Relaxed) } else { VALUE_BYTES_HOST };
        bytes.unsigned_abs().into()
    }
}
