//! Tries: to spend the host's time instead of its own, by a million small statements. Outcome: RESOURCE_EXHAUSTED, the steps.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct HostCallStorm;

guest_hostile::module!(crate::HostCallStorm);

impl Attack for HostCallStorm {
    const NAME: &'static str = "host_call_storm";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        for _ in 0..1_000_000 {
            store.query("SELECT 1", &[])?;
        }
        Ok(b"all of them".to_vec())
    }
}
