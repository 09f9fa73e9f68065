//! Tries: to fill the cache of compiled statements with 100,000 different ones. Outcome: RESOURCE_EXHAUSTED, the steps.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct ManyStatements;

guest_hostile::module!(crate::ManyStatements);

impl Attack for ManyStatements {
    const NAME: &'static str = "many_statements";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        for number in 0..100_000 {
            store.query(&format!("SELECT {number} + {number} AS a_name_of_some_length"), &[])?;
        }
        Ok(b"all of them".to_vec())
    }
}
