//! Tries: to overflow the stack that the compiler keeps in linear memory, and to run on over the data behind it. Outcome:
//! ABORTED, memory out of bounds: memory ends below that stack.

#![allow(unconditional_recursion, reason = "that is the attack")]

use guest_hostile::{Attack, Context, Failure, Store};

pub struct ShadowStack;

guest_hostile::module!(crate::ShadowStack);

#[inline(never)]
fn descend(seed: u8) -> u8 {
    let frame = std::hint::black_box([seed; 512]);
    let below = descend(frame[usize::from(seed)].wrapping_add(1));
    std::hint::black_box(frame)[0] ^ below
}

impl Attack for ShadowStack {
    const NAME: &'static str = "shadow_stack";

    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(vec![descend(1)])
    }
}
