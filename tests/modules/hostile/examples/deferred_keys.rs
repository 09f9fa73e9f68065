//! Tries: to leave a foreign key unmet that SQLite looks at only when the host commits, so that the host's COMMIT fails.
//! Outcome: the entry is refused for it. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct DeferredKeys;

guest_hostile::module!(crate::DeferredKeys);

impl Attack for DeferredKeys {
    const NAME: &'static str = "deferred_keys";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)", &[])?;
        store.execute(
            "CREATE TABLE orphans (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)",
            &[],
        )?;
        store.execute("INSERT INTO orphans VALUES (99)", &[])?;
        Ok(b"an orphan".to_vec())
    }
}
