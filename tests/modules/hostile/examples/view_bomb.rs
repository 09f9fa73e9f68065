//! Tries: views that each name the one before twice, so that compiling a statement takes for ever, without one step of it.
//! Outcome: RESOURCE_EXHAUSTED, or refused as invalid. As a query: it cannot write.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct ViewBomb;

guest_hostile::module!(crate::ViewBomb);

impl Attack for ViewBomb {
    const NAME: &'static str = "view_bomb";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("CREATE TABLE doubled_0 (x)", &[])?;
        for (number, before) in (1..=14).zip(0..) {
            let doubled = format!("SELECT x FROM doubled_{before} UNION ALL SELECT x FROM doubled_{before}");
            store.execute(&format!("CREATE VIEW doubled_{number} AS {doubled}"), &[])?;
        }
        let answer = tell(store, "SELECT count(*) FROM doubled_14", &[]);
        Err(Failure::already_exists(answer))
    }
}
