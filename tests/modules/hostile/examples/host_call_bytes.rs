//! Tries: to make the host copy megabytes again and again, for a handful of the guest's own instructions: a statement of 4
//! MB that is refused. Outcome: ABORTED or RESOURCE_EXHAUSTED: bytes that are handed over cost.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct HostCallBytes;

guest_hostile::module!(crate::HostCallBytes);

impl Attack for HostCallBytes {
    const NAME: &'static str = "host_call_bytes";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut sql = "-".repeat(4 << 20);
        sql.push_str("_telegraft_");
        for _ in 0..100_000 {
            let _ = std::hint::black_box(store.execute(&sql, &[]));
        }
        Ok(b"all of them".to_vec())
    }
}
