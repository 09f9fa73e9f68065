//! Tries: to end the host's transaction, or to open one of its own. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct Transactions;

guest_hostile::module!(crate::Transactions);

const STATEMENTS: &[&str] = &[
    "BEGIN",
    "BEGIN IMMEDIATE",
    "BEGIN EXCLUSIVE TRANSACTION",
    "COMMIT",
    "END TRANSACTION",
    "ROLLBACK",
    "ROLLBACK TO _telegraft_entry",
    "RELEASE _telegraft_entry",
    "SAVEPOINT mine",
    "RELEASE mine",
    "ROLLBACK TO mine",
    "SELECT 1; COMMIT",
    "COMMIT; SELECT 1",
    "; COMMIT",
    "CREATE TRIGGER harmless AFTER INSERT ON kept BEGIN COMMIT; END",
    "EXPLAIN COMMIT",
];

impl Attack for Transactions {
    const NAME: &'static str = "transactions";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
