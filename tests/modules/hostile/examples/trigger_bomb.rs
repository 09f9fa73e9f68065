//! Tries: triggers that each write twice into the next one's table, thirty tables long. Outcome: RESOURCE_EXHAUSTED, the
//! steps. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct TriggerBomb;

guest_hostile::module!(crate::TriggerBomb);

impl Attack for TriggerBomb {
    const NAME: &'static str = "trigger_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        for number in 0..30 {
            store.execute(&format!("CREATE TABLE fork_{number} (x)"), &[])?;
        }
        for (number, next) in (0..29).zip(1..) {
            let write = format!("INSERT INTO fork_{next} VALUES (1), (2)");
            let forks = format!("CREATE TRIGGER forks_{number} AFTER INSERT ON fork_{number} BEGIN {write}; END");
            store.execute(&forks, &[])?;
        }
        store.execute("INSERT INTO fork_0 VALUES (1)", &[])?;
        Ok(b"written".to_vec())
    }
}
