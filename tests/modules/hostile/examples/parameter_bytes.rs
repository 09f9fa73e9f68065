//! Tries: to make the host copy one long text for each of many parameters that all point to it. Outcome: ABORTED or
//! RESOURCE_EXHAUSTED: bytes that are handed over cost.

use guest_hostile::{Attack, Context, Failure, Param, Store};

pub struct ParameterBytes;

guest_hostile::module!(crate::ParameterBytes);

impl Attack for ParameterBytes {
    const NAME: &'static str = "parameter_bytes";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let text = "x".repeat(1 << 20);
        let params: Vec<Param<'_>> = (0..100).map(|_| Param::Text(&text)).collect();
        for _ in 0..100_000 {
            let _ = std::hint::black_box(store.execute("SELECT ?1", &params));
        }
        Ok(b"all of them".to_vec())
    }
}
