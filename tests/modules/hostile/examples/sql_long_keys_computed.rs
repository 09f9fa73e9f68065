//! Tries: to fill an index with long keys that no column shows, by an expression. Outcome: ABORTED, the index, and
//! nothing is written. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct SqlLongKeysComputed;

guest_hostile::module!(crate::SqlLongKeysComputed);

impl Attack for SqlLongKeysComputed {
    const NAME: &'static str = "sql_long_keys_computed";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE computed (text TEXT)", &[])?;
        store.execute("CREATE INDEX computed_by ON computed (printf('%.*c', 100000, text))", &[])?;
        store.execute("INSERT INTO computed VALUES ('a')", &[])?;
        Ok(b"written".to_vec())
    }
}
