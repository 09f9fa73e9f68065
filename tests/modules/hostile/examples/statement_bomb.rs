//! Tries: one statement of 3 MB. Outcome: refused as too large, or RESOURCE_EXHAUSTED.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct StatementBomb;

guest_hostile::module!(crate::StatementBomb);

impl Attack for StatementBomb {
    const NAME: &'static str = "statement_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let sql = format!("SELECT '{}'", "x".repeat(3 << 20));
        Ok(tell(store, &sql, &[]).into_bytes())
    }
}
