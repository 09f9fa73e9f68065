//! Tries: to double a text by replace() until it bursts. Outcome: refused as too large, or RESOURCE_EXHAUSTED.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct SqlReplaceBomb;

guest_hostile::module!(crate::SqlReplaceBomb);

impl Attack for SqlReplaceBomb {
    const NAME: &'static str = "sql_replace_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let doubled = "SELECT i + 1, replace(v, 'a', 'aa') FROM n LIMIT 40";
        let sql =
            format!("WITH RECURSIVE n(i, v) AS (SELECT 1, 'aa' UNION ALL {doubled}) SELECT max(length(v)) FROM n");
        Ok(tell(store, &sql, &[]).into())
    }
}
