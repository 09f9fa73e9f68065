//! Tries: to gather one huge text by group_concat(). Outcome: refused as too large, or RESOURCE_EXHAUSTED.

use guest_hostile::{Attack, Context, Failure, Store, numbers, tell};

pub struct SqlGroupBomb;

guest_hostile::module!(crate::SqlGroupBomb);

impl Attack for SqlGroupBomb {
    const NAME: &'static str = "sql_group_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let sql = format!("{} SELECT length(group_concat(hex(zeroblob(50000)))) FROM n", numbers(1000));
        Ok(tell(store, &sql, &[]).into())
    }
}
