//! Tries: to tell one build of the engine from another. Outcome: each is refused, or there is no such thing.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct Engine;

guest_hostile::module!(crate::Engine);

const STATEMENTS: &[&str] = &[
    "SELECT sqlite_version()",
    "SELECT sqlite_source_id()",
    "SELECT sqlite_compileoption_used('THREADSAFE')",
    "SELECT sqlite_compileoption_get(0)",
    "SELECT sqlite_log(1, 'x')",
    "SELECT id FROM kept ORDER BY value COLLATE icu",
    "SELECT 'a' REGEXP 'a'",
    "SELECT sin(1)",
    "SELECT pow(2, 0.5)",
    "SELECT ln(2)",
    "SELECT icu_load_collation('x', 'y')",
];

impl Attack for Engine {
    const NAME: &'static str = "engine";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
