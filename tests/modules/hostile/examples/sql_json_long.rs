//! Tries: JSON of half a megabyte, parsed anew in every round of a loop without end. Outcome: RESOURCE_EXHAUSTED, the
//! steps.

use guest_hostile::{Attack, Context, Failure, Param, Store};

pub struct SqlJsonLong;

guest_hostile::module!(crate::SqlJsonLong);

impl Attack for SqlJsonLong {
    const NAME: &'static str = "sql_json_long";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let json = format!("[{}1]", "1,".repeat(250_000));
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                   SELECT count(*) FROM n WHERE EXISTS (SELECT 1 FROM json_each(substr('        ', i % 8) || ?1))";
        store.query(sql, &[Param::Text(&json)])?;
        Ok(b"ended".to_vec())
    }
}
