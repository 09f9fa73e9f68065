//! Tries: to keep state in a connection, where no replica has it: temporary tables, views, triggers. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct Temporary;

guest_hostile::module!(crate::Temporary);

const STATEMENTS: &[&str] = &[
    "CREATE TEMP TABLE mine (x)",
    "CREATE TEMPORARY TABLE mine AS SELECT 1",
    "CREATE TABLE temp.mine (x)",
    "CREATE TEMP VIEW mine AS SELECT 1",
    "CREATE VIEW temp.mine AS SELECT 1",
    "CREATE TEMP TRIGGER mine AFTER INSERT ON kept BEGIN SELECT 1; END",
    "CREATE TRIGGER temp.mine AFTER INSERT ON kept BEGIN SELECT 1; END",
    "CREATE UNIQUE INDEX temp.mine ON kept (id)",
    "SELECT * FROM temp.kept",
    "DROP TABLE temp.kept",
    "INSERT INTO temp.kept VALUES (1, 1)",
];

impl Attack for Temporary {
    const NAME: &'static str = "temporary";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
