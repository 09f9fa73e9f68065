//! Tries: few steps with much work in each: the length of a large text, for each of a hundred thousand rows. Outcome:
//! RESOURCE_EXHAUSTED, the steps.

use guest_hostile::{Attack, Context, Failure, Param, Store, numbers, tell};

pub struct SqlLargeSteps;

guest_hostile::module!(crate::SqlLargeSteps);

impl Attack for SqlLargeSteps {
    const NAME: &'static str = "sql_large_steps";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let text = "x".repeat(500_000);
        let sql = format!("{} SELECT sum(length(?1 || i)) FROM n", numbers(100_000));
        Ok(tell(store, &sql, &[Param::Text(&text)]).into())
    }
}
