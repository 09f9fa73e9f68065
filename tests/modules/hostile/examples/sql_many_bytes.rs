//! Tries: a result of more bytes than the budget. Outcome: RESOURCE_EXHAUSTED, bytes.

use guest_hostile::{Attack, Context, Failure, Store, numbers, tell};

pub struct SqlManyBytes;

guest_hostile::module!(crate::SqlManyBytes);

impl Attack for SqlManyBytes {
    const NAME: &'static str = "sql_many_bytes";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(tell(store, &format!("{} SELECT zeroblob(50000) FROM n", numbers(1000)), &[]).into())
    }
}
