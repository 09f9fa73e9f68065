//! Tries: to wind SQLite's own count of ids forward to its end, where an insert fails as if the disk were full. Outcome: the
//! count cannot be written, and using it up by hand is ABORTED. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct Sequence;

guest_hostile::module!(crate::Sequence);

const STATEMENTS: &[&str] = &[
    "UPDATE sqlite_sequence SET seq = 9223372036854775807",
    "INSERT INTO sqlite_sequence VALUES ('counted', 9223372036854775807)",
    "REPLACE INTO sqlite_sequence (rowid, name, seq) VALUES (1, 'counted', 9223372036854775807)",
    "DROP TABLE sqlite_sequence",
    "ALTER TABLE sqlite_sequence RENAME TO mine",
    "CREATE TRIGGER mine AFTER INSERT ON sqlite_sequence BEGIN SELECT 1; END",
];

impl Attack for Sequence {
    const NAME: &'static str = "sequence";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)", &[])?;
        store.execute("INSERT INTO counted DEFAULT VALUES", &[])?;
        let answer = report(store, STATEMENTS.iter().copied());
        if String::from_utf8_lossy(&answer).lines().any(|line| line.starts_with("done")) {
            return Ok(answer);
        }
        store.execute("INSERT INTO counted VALUES (9223372036854775806)", &[])?;
        store.execute("INSERT INTO counted DEFAULT VALUES", &[])?;
        store.execute("INSERT INTO counted DEFAULT VALUES", &[])?;
        Ok(b"done: the end".to_vec())
    }
}
