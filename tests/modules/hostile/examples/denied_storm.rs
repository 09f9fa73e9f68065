//! Tries: millions of statements that are refused before they are compiled. Outcome: ABORTED or RESOURCE_EXHAUSTED, fuel or
//! steps: a refusal costs too.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct DeniedStorm;

guest_hostile::module!(crate::DeniedStorm);

impl Attack for DeniedStorm {
    const NAME: &'static str = "denied_storm";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        for _ in 0..10_000_000 {
            let _ = std::hint::black_box(store.query("SELECT * FROM _telegraft_meta", &[]));
        }
        Ok(b"all of them".to_vec())
    }
}
