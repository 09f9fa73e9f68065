//! Tries: to leave half of its writes behind. Outcome: ABORTED, unreachable code; nothing of it is there. As a query: it cannot
//! write.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct PanicAfterWrites;

guest_hostile::module!(crate::PanicAfterWrites);

impl Attack for PanicAfterWrites {
    const NAME: &'static str = "panic_after_writes";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        for number in 0..100_i64 {
            store.execute("INSERT INTO kept (value) VALUES (?1)", &[number.into()])?;
        }
        store.execute("CREATE TABLE left_behind (x)", &[])?;
        store.execute("DROP TABLE answers", &[])?;
        panic!("in the middle of its writes")
    }
}
