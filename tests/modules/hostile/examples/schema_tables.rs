//! Tries: to read and write SQLite's own tables. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct SchemaTables;

guest_hostile::module!(crate::SchemaTables);

const STATEMENTS: &[&str] = &[
    "SELECT * FROM sqlite_schema",
    "SELECT sql FROM main.sqlite_master",
    r#"SELECT * FROM "SQLITE_MASTER""#,
    "SELECT * FROM sqlite_temp_master",
    "SELECT * FROM sqlite_temp_schema",
    "UPDATE sqlite_schema SET sql = ''",
    "DELETE FROM sqlite_master WHERE name = 'kept'",
    "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x (y)')",
    "SELECT * FROM sqlite_stat1",
    "SELECT * FROM sqlite_stmt",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM sqlite_dbdata",
    "CREATE TABLE sqlite_mine (x)",
    "CREATE VIEW sqlite_mine AS SELECT 1",
    "ALTER TABLE kept RENAME TO sqlite_mine",
    "DROP TABLE sqlite_schema",
    "CREATE TRIGGER harmless AFTER INSERT ON sqlite_schema BEGIN SELECT 1; END",
    "CREATE INDEX harmless ON sqlite_schema (sql)",
];

impl Attack for SchemaTables {
    const NAME: &'static str = "schema_tables";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
