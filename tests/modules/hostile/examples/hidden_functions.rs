//! Tries: to have a function that differs run from the schema, long after its text was looked at: in a default, a check, a
//! generated column, an index, a view, a trigger. Outcome: what is made, written and answered is equal on every replica. As a
//! query: nothing can be made.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct HiddenFunctions;

guest_hostile::module!(crate::HiddenFunctions);

const FUNCTIONS: &[&str] =
    &["random()", "hex(randomblob(8))", "CURRENT_TIMESTAMP", "datetime('now')", "changes()", "last_insert_rowid()"];

impl Attack for HiddenFunctions {
    const NAME: &'static str = "hidden_functions";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut answer = String::new();
        for (number, function) in FUNCTIONS.iter().enumerate() {
            let trigger = format!("UPDATE kept SET value = {function} WHERE id = NEW.x");
            for (made, used) in [
                (
                    format!("CREATE TABLE d{number} (x, y DEFAULT ({function}))"),
                    format!("INSERT INTO d{number} (x) VALUES (1)"),
                ),
                (
                    format!("CREATE TABLE c{number} (x CHECK (x <> {function}))"),
                    format!("INSERT INTO c{number} VALUES (1)"),
                ),
                (format!("CREATE TABLE g{number} (x, y AS ({function}))"), format!("SELECT y FROM g{number}")),
                (
                    format!("CREATE TABLE s{number} (x, y AS ({function}) STORED)"),
                    format!("INSERT INTO s{number} (x) VALUES (1)"),
                ),
                (format!("CREATE TABLE i{number} (x)"), format!("CREATE INDEX e{number} ON i{number} (x, {function})")),
                (
                    format!("CREATE INDEX p{number} ON i{number} (x) WHERE {function} > 0"),
                    format!("INSERT INTO i{number} VALUES (1)"),
                ),
                (format!("CREATE VIEW v{number} AS SELECT {function} AS f"), format!("SELECT f FROM v{number}")),
                (
                    format!(
                        "CREATE TRIGGER t{number} AFTER INSERT ON i{number} BEGIN {trigger}; INSERT INTO d{number} (x) VALUES (2); END"
                    ),
                    format!("INSERT INTO i{number} VALUES (3)"),
                ),
            ] {
                answer += &format!("{} | {} <= {made}\n", tell(store, &made, &[]), tell(store, &used, &[]));
            }
        }
        Ok(answer.into())
    }
}
