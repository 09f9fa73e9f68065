//! Tries: to fill the host's disk with one log line. Outcome: it may call, but a line is cut at 1 KiB.

use guest_hostile::{Attack, Context, Failure, Store};
use telegraft_guest::bindings::telegraft::machine::log::{Level, write};

pub struct LogHugeLine;

guest_hostile::module!(crate::LogHugeLine);

impl Attack for LogHugeLine {
    const NAME: &'static str = "log_huge_line";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        write(Level::Error, &"huge ".repeat(1 << 20));
        Ok(b"written".to_vec())
    }
}
