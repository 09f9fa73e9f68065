//! Tries: to keep state in memory from one entry to the next. Outcome: each call finds the memory as it was at first.

use std::sync::atomic::{AtomicU64, Ordering};

use guest_hostile::{Attack, Context, Failure, Store};

pub struct StaticCounter;

guest_hostile::module!(crate::StaticCounter);

static CALLS: AtomicU64 = AtomicU64::new(0);

impl Attack for StaticCounter {
    const NAME: &'static str = "static_counter";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(CALLS.fetch_add(1, Ordering::Relaxed).to_string().into_bytes())
    }
}
