//! Tries: to write into the host's log what looks like a line of the host itself. Outcome: a line of the guest stays one
//! line.

use guest_hostile::{Attack, Context, Failure, Store};
use telegraft_guest::bindings::telegraft::machine::log::{Level, write};

pub struct LogForgery;

guest_hostile::module!(crate::LogForgery);

impl Attack for LogForgery {
    const NAME: &'static str = "log_forgery";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        write(Level::Info, "harmless\n2000-01-01T00:00:00Z ERROR telegraft: forged by a guest\r\u{1b}[1A\u{1b}[2K");
        Ok(b"written".to_vec())
    }
}
