//! Tries: to take memory without end. Outcome: RESOURCE_EXHAUSTED, the memory budget.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct MemoryBomb;

guest_hostile::module!(crate::MemoryBomb);

impl Attack for MemoryBomb {
    const NAME: &'static str = "memory_bomb";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut taken = Vec::new();
        loop {
            taken.push(std::hint::black_box(vec![1_u8; 1 << 20]));
        }
    }
}
