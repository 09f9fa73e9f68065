//! Tries: to fail in its activation, after it has changed the data of others. Outcome: the activation is refused, and nothing
//! of it is there.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct PoisonedInit;

guest_hostile::module!(crate::PoisonedInit);

impl Attack for PoisonedInit {
    const NAME: &'static str = "poisoned_init";

    fn prepare(store: &dyn Store) -> Result<(), Failure> {
        store.execute("DELETE FROM kept", &[])?;
        store.execute("CREATE TABLE left_behind (x)", &[])?;
        panic!("in the activation")
    }

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, ["SELECT 1"]))
    }
}
