//! Tries: to see or to change how SQLite plans, which statistics may change on one replica alone. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct Plans;

guest_hostile::module!(crate::Plans);

const STATEMENTS: &[&str] = &[
    "EXPLAIN SELECT 1",
    "EXPLAIN QUERY PLAN SELECT * FROM kept",
    "ANALYZE",
    "ANALYZE kept",
    "ANALYZE main.kept",
    "SELECT stat_init(1, 1, 1)",
    "SELECT sqlite_offset(id) FROM kept",
];

impl Attack for Plans {
    const NAME: &'static str = "plans";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
