//! Tries: to fill an index with keys of 100 KB, each of which a search reads whole. Outcome: ABORTED, the key, and
//! nothing is written. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct SqlLongKeys;

guest_hostile::module!(crate::SqlLongKeys);

impl Attack for SqlLongKeys {
    const NAME: &'static str = "sql_long_keys";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE keys (key BLOB UNIQUE)", &[])?;
        store.execute("INSERT INTO keys VALUES (x'00'), (zeroblob(100000))", &[])?;
        Ok(b"written".to_vec())
    }
}
