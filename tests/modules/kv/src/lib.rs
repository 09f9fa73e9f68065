//! The key-value module: `kv.v1.Kv` as a replicated state machine. Keys are UTF-8 and compared byte by byte.

#![deny(unsafe_code)]

mod operations;
#[cfg(test)]
mod tests;

use telegraft_guest::{Context, Failure, Module, Store, answer, unknown_method};

/// The key-value module.
pub struct Kv;

telegraft_guest::export!(crate::Kv);

impl Module for Kv {
    const NAME: &'static str = "kv";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SCHEMA: u32 = 1;
    const SERVICE: &'static [u8] = telegraft_proto::kv::FILE_DESCRIPTOR_SET;

    fn init(store: &dyn Store, _: &Context, from_schema: Option<u32>) -> Result<(), Failure> {
        if let Some(from) = from_schema {
            return Err(Failure::failed_precondition(format!(
                "the key-value module has schema {} and cannot take over a store of schema {from}: \
                 it begins on an empty store",
                Self::SCHEMA
            )));
        }
        // Keys are stored as blobs: their byte order is the listing's order, and a range of bytes is a prefix.
        store.execute(
            "CREATE TABLE pairs (key BLOB NOT NULL PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL) \
             WITHOUT ROWID",
            &[],
        )?;
        Ok(())
    }

    fn apply(store: &dyn Store, _: &Context, method: &str, command: &[u8]) -> Result<Vec<u8>, Failure> {
        match method {
            "kv.v1.Kv/Put" => answer(command, |request| operations::put(store, request)),
            "kv.v1.Kv/Delete" => answer(command, |request| operations::delete(store, request)),
            "kv.v1.Kv/CompareAndSet" => answer(command, |request| operations::compare_and_set(store, request)),
            _ => Err(unknown_method(Self::NAME, "commands", method)),
        }
    }

    fn query(store: &dyn Store, _: &Context, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure> {
        match method {
            "kv.v1.Kv/Get" => answer(request, |request| operations::get(store, request)),
            "kv.v1.Kv/Scan" => answer(request, |request| operations::scan(store, request)),
            _ => Err(unknown_method(Self::NAME, "queries", method)),
        }
    }
}
