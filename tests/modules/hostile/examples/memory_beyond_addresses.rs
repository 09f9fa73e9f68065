//! Tries: to grow memory by more than 32 bits can address, in the hope that the host fails at it. Outcome: the instruction
//! answers -1, as its definition says, and the module goes on.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct MemoryBeyondAddresses;

guest_hostile::module!(crate::MemoryBeyondAddresses);

#[cfg(target_family = "wasm")]
fn grow(pages: usize) -> isize {
    std::arch::wasm32::memory_grow::<0>(pages).cast_signed()
}

#[cfg(not(target_family = "wasm"))]
fn grow(_: usize) -> isize {
    -1
}

impl Attack for MemoryBeyondAddresses {
    const NAME: &'static str = "memory_beyond_addresses";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(grow(65_536).to_string().into_bytes())
    }
}
