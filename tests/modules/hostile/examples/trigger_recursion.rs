//! Tries: two triggers that call each other for ever. Outcome: a trigger that is running does not start again, so it ends by
//! itself. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct TriggerRecursion;

guest_hostile::module!(crate::TriggerRecursion);

impl Attack for TriggerRecursion {
    const NAME: &'static str = "trigger_recursion";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE ping (x)", &[])?;
        store.execute("CREATE TABLE pong (x)", &[])?;
        store.execute("CREATE TRIGGER to_pong AFTER INSERT ON ping BEGIN INSERT INTO pong VALUES (1); END", &[])?;
        store.execute("CREATE TRIGGER to_ping AFTER INSERT ON pong BEGIN INSERT INTO ping VALUES (1); END", &[])?;
        store.execute("INSERT INTO ping VALUES (1)", &[])?;
        let answer = report(store, ["SELECT count(*) FROM ping", "SELECT count(*) FROM pong"]);
        store.execute("DROP TABLE ping", &[])?;
        store.execute("DROP TABLE pong", &[])?;
        Ok(answer)
    }
}
