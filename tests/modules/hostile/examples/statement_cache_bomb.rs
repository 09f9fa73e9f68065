//! Tries: to fill the host's memory with compiled statements, each of several megabytes, kept for the next time. Outcome:
//! RESOURCE_EXHAUSTED, or refused as invalid. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct StatementCacheBomb;

guest_hostile::module!(crate::StatementCacheBomb);

impl Attack for StatementCacheBomb {
    const NAME: &'static str = "statement_cache_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE VIEW nested_0 AS SELECT 1 AS x", &[])?;
        for (number, before) in (1..=12).zip(0..) {
            let nested = format!("SELECT (SELECT x FROM nested_{before}) + (SELECT x FROM nested_{before}) AS x");
            store.execute(&format!("CREATE VIEW nested_{number} AS {nested}"), &[])?;
        }
        let mut answer = String::new();
        for number in 0..100 {
            answer = tell(store, &format!("SELECT x FROM nested_12 LIMIT 1 -- {number}"), &[]);
        }
        Err(Failure::already_exists(answer))
    }
}
