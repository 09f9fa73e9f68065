//! Tries: to read and write other files, and to lay the database out anew. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct AttachAndVacuum;

guest_hostile::module!(crate::AttachAndVacuum);

const STATEMENTS: &[&str] = &[
    "ATTACH ':memory:' AS other",
    "ATTACH 'machine.db' AS other",
    "ATTACH DATABASE 'file:other?mode=memory' AS other",
    "DETACH main",
    "DETACH DATABASE temp",
    "VACUUM",
    "VACUUM main",
    "VACUUM INTO 'stolen.db'",
    "SELECT * FROM other.kept",
    "SELECT load_extension('evil')",
    "SELECT readfile('machine.db')",
    "SELECT writefile('evil', 'x')",
    "SELECT edit('x')",
];

impl Attack for AttachAndVacuum {
    const NAME: &'static str = "attach_and_vacuum";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
