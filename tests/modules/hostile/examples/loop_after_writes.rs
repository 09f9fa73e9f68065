//! Tries: to run out of fuel with its writes done. Outcome: ABORTED, out of fuel; nothing of it is there. As a query: it cannot
//! write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct LoopAfterWrites;

guest_hostile::module!(crate::LoopAfterWrites);

impl Attack for LoopAfterWrites {
    const NAME: &'static str = "loop_after_writes";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("DELETE FROM kept", &[])?;
        let mut number = 0_u64;
        loop {
            number = std::hint::black_box(number.wrapping_add(1));
        }
    }
}
