//! Tries: to have SQLite draw row ids from its own random generator, which it does after the largest one. Outcome: ABORTED:
//! the largest row id is out of reach. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct RowIds;

guest_hostile::module!(crate::RowIds);

impl Attack for RowIds {
    const NAME: &'static str = "row_ids";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("INSERT INTO kept (id, value) VALUES (9223372036854775807, x'')", &[])?;
        store.execute("INSERT INTO kept (value) VALUES (x'')", &[])?;
        Ok(report(store, ["SELECT id FROM kept ORDER BY id"]))
    }
}
