//! Tries: to smuggle line ends, NULs and terminal codes through a failure's message into headers. Outcome: its code, and its
//! text as it is.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct FailureWithControls;

guest_hostile::module!(crate::FailureWithControls);

impl Attack for FailureWithControls {
    const NAME: &'static str = "failure_with_controls";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Err(Failure::already_exists("one\r\ngrpc-status: 0\r\n\r\ntwo\0three\u{1b}[2J\u{202e}four%41"))
    }
}
