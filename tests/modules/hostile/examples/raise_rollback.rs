//! Tries: to throw the host's whole transaction away by a trigger that raises ROLLBACK. Outcome: ABORTED, and nothing else
//! is lost. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct RaiseRollback;

guest_hostile::module!(crate::RaiseRollback);

impl Attack for RaiseRollback {
    const NAME: &'static str = "raise_rollback";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE trap (x UNIQUE ON CONFLICT ROLLBACK)", &[])?;
        store.execute("CREATE TRIGGER sprung AFTER INSERT ON trap BEGIN SELECT RAISE(ROLLBACK, 'sprung'); END", &[])?;
        Ok(tell(store, "INSERT INTO trap VALUES (1)", &[]).into())
    }
}
