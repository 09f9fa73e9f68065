//! Interim.
use telegraft_guest::{Context, Failure, Module, Store};
pub struct Counter;
telegraft_guest::export!(crate::Counter);
impl Module for Counter {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SCHEMA: u32 = 1;
    const SERVICE: &'static [u8] = &[];
    fn init(store: &dyn Store, _: &Context, _: Option<u32>) -> Result<(), Failure> {
        store.execute("CREATE TABLE counts (n INTEGER NOT NULL)", &[])?;
        Ok(())
    }
    fn apply(store: &dyn Store, _: &Context, _: &str, _: &[u8]) -> Result<Vec<u8>, Failure> {
        store.execute("INSERT INTO counts VALUES (1)", &[])?;
        Ok(vec![])
    }
    fn query(_: &dyn Store, _: &Context, _: &str, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(vec![])
    }
}
