//! Tries: values that are larger than a value may be, by the functions that make one. Outcome: each is refused as too large.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct SqlValueBomb;

guest_hostile::module!(crate::SqlValueBomb);

const STATEMENTS: &[&str] = &[
    "SELECT zeroblob(1000000000)",
    "SELECT zeroblob(9223372036854775807)",
    "SELECT printf('%*c', 2147483647, 'x')",
    "SELECT printf('%.*f', 2147483647, 1.0)",
    "SELECT length(printf('%1000000000d', 1))",
    "SELECT hex(hex(hex(hex(zeroblob(500000)))))",
];

impl Attack for SqlValueBomb {
    const NAME: &'static str = "sql_value_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
