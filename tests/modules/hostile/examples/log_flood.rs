//! Tries: to fill the host's disk with log lines. Outcome: it may call, but of one call's lines those beyond the hundredth are
//! dropped.

use guest_hostile::{Attack, Context, Failure, Store};
use telegraft_guest::bindings::telegraft::machine::log::{Level, write};

pub struct LogFlood;

guest_hostile::module!(crate::LogFlood);

impl Attack for LogFlood {
    const NAME: &'static str = "log_flood";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        for number in 0..20_000_u32 {
            write(Level::Error, &format!("flood {number}"));
        }
        Ok(b"flooded".to_vec())
    }
}
