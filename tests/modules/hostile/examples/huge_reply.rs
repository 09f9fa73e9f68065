//! Tries: to answer with more than the budget for replies. Outcome: RESOURCE_EXHAUSTED, with both figures.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct HugeReply;

guest_hostile::module!(crate::HugeReply);

impl Attack for HugeReply {
    const NAME: &'static str = "huge_reply";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(vec![b'x'; 3 << 19])
    }
}
