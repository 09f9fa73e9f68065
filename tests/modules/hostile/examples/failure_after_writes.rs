//! Tries: to fail with its writes done. Outcome: the failure it chose; nothing of it is there. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct FailureAfterWrites;

guest_hostile::module!(crate::FailureAfterWrites);

impl Attack for FailureAfterWrites {
    const NAME: &'static str = "failure_after_writes";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE left_behind (x)", &[])?;
        store.execute("INSERT INTO left_behind VALUES (1)", &[])?;
        store.execute("ALTER TABLE kept RENAME TO taken", &[])?;
        store.execute("DELETE FROM taken", &[])?;
        Err(Failure::already_exists("chosen by the module"))
    }
}
