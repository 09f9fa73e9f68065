//! Tries: to draw numbers that no other replica draws. Outcome: each is refused, or drawn from the entry's entropy: what is
//! written and answered is equal on every replica.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct Randomness;

guest_hostile::module!(crate::Randomness);

const STATEMENTS: &[&str] = &[
    "SELECT random()",
    "SELECT hex(randomblob(16))",
    "SELECT group_concat(id, ' ') FROM (SELECT id FROM kept ORDER BY random() LIMIT 5)",
    "SELECT abs(random()) % 1000 + length(randomblob(random() & 15))",
];

impl Attack for Randomness {
    const NAME: &'static str = "randomness";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
