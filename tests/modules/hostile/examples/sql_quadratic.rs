//! Tries: functions whose work grows with the product of their arguments, in a single step: instr() of a text that nearly
//! fits everywhere. Outcome: RESOURCE_EXHAUSTED, the steps, or the answer, by a function whose work is linear.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct SqlQuadratic;

guest_hostile::module!(crate::SqlQuadratic);

impl Attack for SqlQuadratic {
    const NAME: &'static str = "sql_quadratic";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let sql = "WITH v(h) AS (SELECT replace(hex(zeroblob(250000)), '0', 'a')) \
                   SELECT instr(h, substr(h, 1, 200000) || 'b') FROM v";
        Ok(tell(store, sql, &[]).into())
    }
}
