//! Tries: to fail with a megabyte of text that no header can carry as it is. Outcome: its code, and the beginning of the
//! text.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct HugeFailure;

guest_hostile::module!(crate::HugeFailure);

impl Attack for HugeFailure {
    const NAME: &'static str = "huge_failure";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Err(Failure::already_exists("\u{e9}".repeat(1 << 19)))
    }
}
