//! Tries: the same by way of UPDATE, from the id below. Outcome: ABORTED. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct RowIdsByUpdate;

guest_hostile::module!(crate::RowIdsByUpdate);

impl Attack for RowIdsByUpdate {
    const NAME: &'static str = "row_ids_by_update";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("INSERT INTO kept (id, value) VALUES (9223372036854775806, x'')", &[])?;
        store.execute("UPDATE kept SET id = id + 1 WHERE id = 9223372036854775806", &[])?;
        Ok(report(store, ["SELECT max(id) FROM kept"]))
    }
}
