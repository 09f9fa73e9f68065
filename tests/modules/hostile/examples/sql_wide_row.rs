//! Tries: one row of 1,999 large columns. Outcome: RESOURCE_EXHAUSTED: too large, or the steps that
//! rows of every length up to there cost. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct SqlWideRow;

guest_hostile::module!(crate::SqlWideRow);

impl Attack for SqlWideRow {
    const NAME: &'static str = "sql_wide_row";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let columns: Vec<String> = (0..1999).map(|number| format!("c{number}")).collect();
        let values = vec!["zeroblob(50000)"; columns.len()];
        store.execute(&format!("CREATE TABLE wide ({})", columns.join(", ")), &[])?;
        store.execute(&format!("INSERT INTO wide VALUES ({})", values.join(", ")), &[])?;
        Ok(b"stored".to_vec())
    }
}
