//! Tries: to keep the applying thread for ever. Outcome: ABORTED, out of fuel.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct EndlessLoop;

guest_hostile::module!(crate::EndlessLoop);

impl Attack for EndlessLoop {
    const NAME: &'static str = "endless_loop";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut number = 0_u64;
        loop {
            number = std::hint::black_box(number.wrapping_add(1));
        }
    }
}
