//! Tries: to read and write the host's own tables by their names, however they are written. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct HostTables;

guest_hostile::module!(crate::HostTables);

const STATEMENTS: &[&str] = &[
    "SELECT * FROM _telegraft_meta",
    "SELECT * FROM main._telegraft_sessions",
    r#"SELECT * FROM "_TELEGRAFT_modules""#,
    "SELECT * FROM [_telegraft_chunks]",
    "SELECT * FROM `_telegraft_active`",
    r#"SELECT * FROM main . "_telegraft_meta" AS harmless"#,
    "SELECT * FROM kept, _telegraft_layouts",
    "SELECT (SELECT applied FROM _telegraft_meta)",
    "UPDATE _telegraft_meta SET applied = 0",
    "UPDATE main._telegraft_meta SET applied = 0",
    "DELETE FROM _telegraft_sessions",
    "INSERT INTO _telegraft_modules VALUES (1)",
    "REPLACE INTO _telegraft_active VALUES (1)",
    "INSERT INTO kept (value) SELECT digest FROM _telegraft_modules",
    "DROP TABLE _telegraft_meta",
    "ALTER TABLE _telegraft_meta RENAME TO mine",
    "ALTER TABLE _telegraft_meta ADD COLUMN mine",
    "REINDEX _telegraft_sessions",
    "/* harmless */ SELECT * FROM/**/_telegraft_meta",
    "WITH harmless AS (SELECT * FROM _telegraft_meta) SELECT * FROM harmless",
    "SELECT * FROM kept WHERE id IN _telegraft_meta",
    "SELECT * FROM kept WHERE EXISTS (SELECT 1 FROM _telegraft_meta)",
];

impl Attack for HostTables {
    const NAME: &'static str = "host_tables";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
