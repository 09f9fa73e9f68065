//! Tries: to break whoever relays its reply, with bytes that are no message. Outcome: the bytes, as they are.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct GarbageReply;

guest_hostile::module!(crate::GarbageReply);

impl Attack for GarbageReply {
    const NAME: &'static str = "garbage_reply";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(vec![0xff, 0x00, 0x0a, 0x80, 0xc0, 0xfe, 0x07, 0x0d, 0x1b])
    }
}
