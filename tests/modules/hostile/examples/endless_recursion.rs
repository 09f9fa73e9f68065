//! Tries: to overflow the call stack. Outcome: ABORTED, the call stack is exhausted.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct EndlessRecursion;

guest_hostile::module!(crate::EndlessRecursion);

/// No local of it needs memory, so nothing but the engine's own stack is used up.
#[inline(never)]
fn descend(left: u64) -> u64 {
    if left == 0 { 1 } else { descend(left - 1).rotate_left(7) ^ left }
}

impl Attack for EndlessRecursion {
    const NAME: &'static str = "endless_recursion";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(descend(u64::MAX).to_string().into_bytes())
    }
}
