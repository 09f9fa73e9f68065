//! Tries: to fill the disk, a megabyte a row. Outcome: RESOURCE_EXHAUSTED, the database's bytes. As a query: it cannot
//! write.

use guest_hostile::{Attack, Context, Failure, Store, numbers};

pub struct DatabaseBomb;

guest_hostile::module!(crate::DatabaseBomb);

impl Attack for DatabaseBomb {
    const NAME: &'static str = "database_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE bomb (x)", &[])?;
        for _ in 0..100 {
            store.execute(&format!("{} INSERT INTO bomb SELECT zeroblob(1000000) FROM n", numbers(10)), &[])?;
        }
        Ok(b"stored".to_vec())
    }
}
