//! Tries: parameters that add up to more than the host takes in one call: 600 texts of 1 MB, all the same. Outcome:
//! ABORTED or RESOURCE_EXHAUSTED.

use guest_hostile::{Attack, Context, Failure, Param, Store, tell};

pub struct ParameterBomb;

guest_hostile::module!(crate::ParameterBomb);

impl Attack for ParameterBomb {
    const NAME: &'static str = "parameter_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let text = "x".repeat(1 << 20);
        let params: Vec<Param<'_>> = (0..600).map(|_| Param::Text(&text)).collect();
        Ok(tell(store, "SELECT ?1", &params).into_bytes())
    }
}
