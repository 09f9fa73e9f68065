//! Tries: JSON functions that read a text of 8 KiB once for each of 31 paths, in one step, without end. Outcome:
//! RESOURCE_EXHAUSTED, the steps.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct SqlJsonPaths;

guest_hostile::module!(crate::SqlJsonPaths);

impl Attack for SqlJsonPaths {
    const NAME: &'static str = "sql_json_paths";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let paths: Vec<String> = (0..31).map(|number| format!("'$[80{number}]'")).collect();
        let sql = format!(
            "WITH RECURSIVE l(x) AS MATERIALIZED (SELECT '[' || replace(hex(zeroblob(4050)), '00', '1,') || '1]'), \
             n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
             SELECT max(length(json_remove(x, {}))) FROM n CROSS JOIN l",
            paths.join(", ")
        );
        store.query(&sql, &[])?;
        Ok(b"ended".to_vec())
    }
}
