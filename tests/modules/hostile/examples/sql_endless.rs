//! Tries: a query without end. Outcome: RESOURCE_EXHAUSTED, the steps.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct SqlEndless;

guest_hostile::module!(crate::SqlEndless);

impl Attack for SqlEndless {
    const NAME: &'static str = "sql_endless";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        Ok(tell(store, endless, &[]).into())
    }
}
