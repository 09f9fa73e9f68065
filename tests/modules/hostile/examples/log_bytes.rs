//! Tries: the same by way of the log: lines of 4 MB, without end. Outcome: ABORTED or RESOURCE_EXHAUSTED.

use guest_hostile::{Attack, Context, Failure, Store};
use telegraft_guest::bindings::telegraft::machine::log::{Level, write};

pub struct LogBytes;

guest_hostile::module!(crate::LogBytes);

impl Attack for LogBytes {
    const NAME: &'static str = "log_bytes";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let line = "-".repeat(4 << 20);
        for _ in 0..100_000 {
            write(Level::Debug, &line);
        }
        Ok(b"all of them".to_vec())
    }
}
