//! Tries: a loop without end that adds texts of 8 KiB as if they were numbers, each read twice in every step. Outcome:
//! RESOURCE_EXHAUSTED, the steps.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct SqlLongNumbers;

guest_hostile::module!(crate::SqlLongNumbers);

impl Attack for SqlLongNumbers {
    const NAME: &'static str = "sql_long_numbers";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let sum = vec!["x"; 200].join(" + ");
        let sql = format!(
            "WITH RECURSIVE l(x) AS MATERIALIZED (SELECT hex(zeroblob(4050))), \
             n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max({sum}) FROM n CROSS JOIN l"
        );
        store.query(&sql, &[])?;
        Ok(b"ended".to_vec())
    }
}
