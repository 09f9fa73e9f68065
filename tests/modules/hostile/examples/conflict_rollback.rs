//! Tries: to throw the host's whole transaction away by ON CONFLICT ROLLBACK, with the entries of others in it. Outcome:
//! ABORTED, and nothing else is lost. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct ConflictRollback;

guest_hostile::module!(crate::ConflictRollback);

impl Attack for ConflictRollback {
    const NAME: &'static str = "conflict_rollback";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("INSERT INTO kept (id, value) VALUES (-1, x'')", &[])?;
        let sql = "INSERT OR ROLLBACK INTO kept (id, value) VALUES (-2, x''), (-1, x'')";
        Ok(tell(store, sql, &[]).into())
    }
}
