//! Tries: to make the schema so large that loading it takes for ever: tables of two thousand columns. Outcome:
//! RESOURCE_EXHAUSTED, the steps. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct SchemaBomb;

guest_hostile::module!(crate::SchemaBomb);

impl Attack for SchemaBomb {
    const NAME: &'static str = "schema_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let columns: Vec<String> = (0..1999).map(|number| format!("c{number}")).collect();
        for number in 0..100_000 {
            store.execute(&format!("CREATE TABLE schema_{number} ({})", columns.join(", ")), &[])?;
        }
        Ok(b"made".to_vec())
    }
}
