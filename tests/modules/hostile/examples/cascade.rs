//! Tries: a chain of foreign keys so long that deleting its first row overflows a stack. Outcome: RESOURCE_EXHAUSTED, the
//! steps, or SQLite's own bound. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, numbers, tell};

pub struct Cascade;

guest_hostile::module!(crate::Cascade);

impl Attack for Cascade {
    const NAME: &'static str = "cascade";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute(
            "CREATE TABLE chain (id INTEGER PRIMARY KEY, before INTEGER REFERENCES chain (id) ON DELETE CASCADE)",
            &[],
        )?;
        store.execute("CREATE INDEX chained ON chain (before)", &[])?;
        store.execute(&format!("{} INSERT INTO chain SELECT i, nullif(i - 1, 0) FROM n", numbers(5000)), &[])?;
        Err(Failure::already_exists(tell(store, "DELETE FROM chain WHERE id = 1", &[])))
    }
}
