//! Tries: a result of more rows than the budget. Outcome: RESOURCE_EXHAUSTED, rows.

use guest_hostile::{Attack, Context, Failure, Store, numbers, tell};

pub struct SqlManyRows;

guest_hostile::module!(crate::SqlManyRows);

impl Attack for SqlManyRows {
    const NAME: &'static str = "sql_many_rows";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(tell(store, &format!("{} SELECT i FROM n", numbers(20_000)), &[]).into())
    }
}
