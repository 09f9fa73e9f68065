//! Tries: a join of everything with everything. Outcome: RESOURCE_EXHAUSTED, the steps.

use guest_hostile::{Attack, Context, Failure, Store, numbers, tell};

pub struct SqlCrossJoin;

guest_hostile::module!(crate::SqlCrossJoin);

impl Attack for SqlCrossJoin {
    const NAME: &'static str = "sql_cross_join";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let sql = format!("{} SELECT count(*) FROM n a, n b, n c, n d, n e", numbers(1000));
        Ok(tell(store, &sql, &[]).into())
    }
}
