//! Tries: to fill the folder for temporary files, by sorting 15 GB in rows with large values. Outcome: RESOURCE_EXHAUSTED,
//! the same everywhere.

use guest_hostile::{Attack, Context, Failure, Store, numbers, tell};

pub struct SqlSortBomb;

guest_hostile::module!(crate::SqlSortBomb);

impl Attack for SqlSortBomb {
    const NAME: &'static str = "sql_sort_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let sql = format!(
            "{} SELECT length(z) FROM (SELECT zeroblob(500000) AS z, i FROM n ORDER BY -i LIMIT 30000) LIMIT 1",
            numbers(30_000)
        );
        Ok(tell(store, &sql, &[]).into())
    }
}
