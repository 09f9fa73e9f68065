//! Tries: a writing statement without end: SQLite throws the whole transaction away when it is interrupted, with the
//! entries of others in it. Outcome: RESOURCE_EXHAUSTED, the steps, and nothing else is lost. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct SqlEndlessWrite;

guest_hostile::module!(crate::SqlEndlessWrite);

impl Attack for SqlEndlessWrite {
    const NAME: &'static str = "sql_endless_write";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
        store.execute(&format!("{endless} INSERT INTO kept (value) SELECT i FROM n"), &[])?;
        Ok(b"written".to_vec())
    }
}
