//! Tries: searches without end in an index whose keys are as long as they may be. Outcome: RESOURCE_EXHAUSTED, the
//! steps. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct SqlKeySearch;

guest_hostile::module!(crate::SqlKeySearch);

impl Attack for SqlKeySearch {
    const NAME: &'static str = "sql_key_search";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE searched (key BLOB UNIQUE)", &[])?;
        store.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) \
             INSERT INTO searched SELECT zeroblob(7500) || i FROM n",
            &[],
        )?;
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                   SELECT count(*) FROM n WHERE EXISTS (SELECT 1 FROM searched WHERE key = zeroblob(7500) || -i)";
        store.query(sql, &[])?;
        Ok(b"found".to_vec())
    }
}
