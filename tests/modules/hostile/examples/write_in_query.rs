//! Tries: to write in a query, by every statement that can. Outcome: as a query, each is refused. As a command it may, and
//! then undoes it.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct WriteInQuery;

guest_hostile::module!(crate::WriteInQuery);

const STATEMENTS: &[&str] = &[
    "INSERT INTO kept (value) VALUES (x'00')",
    "INSERT INTO kept (value) VALUES (x'00') RETURNING id",
    "REPLACE INTO kept (id, value) VALUES (1, x'00')",
    "INSERT INTO kept (id, value) VALUES (1, x'00') ON CONFLICT (id) DO UPDATE SET value = excluded.value",
    "UPDATE kept SET value = x'00'",
    "DELETE FROM kept",
    "WITH gone AS (SELECT id FROM kept) DELETE FROM kept WHERE id IN gone",
    "CREATE TABLE mine (x)",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE VIEW seen AS SELECT * FROM kept",
    "CREATE INDEX fast ON kept (value)",
    "CREATE TRIGGER sly INSTEAD OF INSERT ON seen BEGIN DELETE FROM kept; END",
    "INSERT INTO seen VALUES (1, 1)",
    "DROP TABLE answers",
    "ALTER TABLE kept ADD COLUMN more",
    "ALTER TABLE kept RENAME TO taken",
    "REINDEX kept",
];

impl Attack for WriteInQuery {
    const NAME: &'static str = "write_in_query";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let answer = report(store, STATEMENTS.iter().copied());
        if answer.starts_with(b"done") {
            return Err(Failure::already_exists("undone"));
        }
        Ok(answer)
    }
}
