//! The key-value module: `kv.v1.Kv` as a replicated state machine. Keys are UTF-8 and compared byte by byte.

#![deny(unsafe_code)]

mod operations;
#[cfg(test)]
mod tests;

/// Messages and methods of the service, generated from its .proto file.
mod proto {
    telegraft_guest::include_proto!("kv.v1");
}

use telegraft_guest::Migration;

/// The key-value module.
pub struct Kv;

telegraft_guest::module!(Kv { name: "kv", migrations: MIGRATIONS, services: [proto::KvService] });

// Keys are stored as blobs: their byte order is the listing's order, and a range of bytes is a prefix. The table has row ids,
// so that a value may be long: WITHOUT ROWID the whole row would be a key.
const MIGRATIONS: &[Migration] = &[Migration::new(&[
    "CREATE TABLE pairs (key BLOB NOT NULL PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL)",
])];
