//! Tries: to reach the host's tables through objects of its own, or to make objects with the host's names. Outcome: each is
//! refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct HostTablesHidden;

guest_hostile::module!(crate::HostTablesHidden);

const STATEMENTS: &[&str] = &[
    "CREATE VIEW harmless AS SELECT * FROM _telegraft_meta",
    "CREATE TRIGGER harmless AFTER INSERT ON kept BEGIN DELETE FROM _telegraft_sessions; END",
    "CREATE TRIGGER harmless AFTER UPDATE ON _telegraft_meta BEGIN SELECT 1; END",
    "CREATE INDEX harmless ON _telegraft_meta (applied)",
    "CREATE TABLE harmless AS SELECT * FROM _telegraft_meta",
    "CREATE TABLE harmless (x REFERENCES _telegraft_modules (digest) ON DELETE CASCADE)",
    "CREATE TABLE _telegraft_mine (x)",
    r#"CREATE TABLE "_Telegraft_Mine" (x)"#,
    "CREATE VIEW _telegraft_mine AS SELECT 1",
    "CREATE INDEX _telegraft_mine ON kept (value)",
    "CREATE TRIGGER _telegraft_mine AFTER INSERT ON kept BEGIN SELECT 1; END",
    "CREATE TABLE IF NOT EXISTS _telegraft_meta (x)",
    "ALTER TABLE kept RENAME TO _telegraft_kept",
    "ALTER TABLE kept RENAME COLUMN value TO _telegraft_value",
    "ALTER TABLE kept ADD COLUMN x CHECK (x IN (SELECT applied FROM _telegraft_meta))",
    "WITH _telegraft_meta AS (SELECT 1 AS applied) SELECT * FROM _telegraft_meta",
    "SELECT 1 AS _telegraft_meta",
    "SELECT '_telegraft_meta'",
];

impl Attack for HostTablesHidden {
    const NAME: &'static str = "host_tables_hidden";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
