//! Tries: to fill the folder for temporary files with rows just small enough for cheap steps. Outcome: RESOURCE_EXHAUSTED,
//! the same everywhere.

use guest_hostile::{Attack, Context, Failure, Store, numbers, tell};

pub struct SqlTemporaryFiles;

guest_hostile::module!(crate::SqlTemporaryFiles);

impl Attack for SqlTemporaryFiles {
    const NAME: &'static str = "sql_temporary_files";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        // 450 MB, and some 400,000 steps without them.
        let sql = format!(
            "{} SELECT length(z) FROM (SELECT ?1 AS z, i FROM n ORDER BY -i LIMIT 30000) LIMIT 1",
            numbers(30_000)
        );
        let text = "x".repeat(15_000);
        Ok(tell(store, &sql, &[guest_hostile::Param::Text(&text)]).into())
    }
}
