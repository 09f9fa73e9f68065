//! Tries: to see what its connection did before, which is another on each host. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct History;

guest_hostile::module!(crate::History);

const STATEMENTS: &[&str] = &[
    "SELECT changes()",
    "SELECT total_changes()",
    "SELECT last_insert_rowid()",
    "SELECT CHANGES() + 1",
    "SELECT * FROM kept WHERE id > total_changes()",
];

impl Attack for History {
    const NAME: &'static str = "history";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
