//! Tries: to touch nearly every page of its budget, over and over. Outcome: it may, and the reply is the same on every host.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct MemoryAllOfIt;

guest_hostile::module!(crate::MemoryAllOfIt);

impl Attack for MemoryAllOfIt {
    const NAME: &'static str = "memory_all_of_it";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut sum = 0_u64;
        for round in 0..3_u8 {
            let pages = std::hint::black_box(vec![round; 12 << 20]);
            sum += pages.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>();
        }
        Ok(sum.to_string().into_bytes())
    }
}
