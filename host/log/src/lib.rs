//! The durable log of a node, twice behind one port (`telegraft_node::ports::{LogReader, LogWriter}`).
//!
//! * [`rocks`] keeps it in RocksDB: one atomic, synced write a batch; survives `kill -9` at any moment; a damaged entry is
//!   an error that names it, never an entry that silently was not there.
//! * [`memory`] keeps it in memory, for tests and for clusters that may forget everything (`log = "memory"`).
//!
//! Both obey the same rules, which stand in `plan.rs`: what a batch of writes may do to a log is decided there, once, and
//! each twin only carries out the result. After any error a log is poisoned: it refuses every later write, because a
//! failed fsync may have thrown dirty pages away, and a caller that broke a rule cannot be trusted to know the log's
//! state.

#![forbid(unsafe_code)]

mod codec;
mod error;
mod memory;
mod plan;
mod rocks;
mod tail;

pub use error::OpenError;
pub use memory::{MemoryReader, MemoryWriter, memory};
pub use rocks::{Options, RocksReader, RocksWriter, open};

/// The size of a log, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Entries in the log.
    pub entries: u64,
    /// Newest entries held in memory.
    pub cached_entries: u64,
    /// Bytes of payload and bookkeeping of these.
    pub cached_bytes: u64,
    /// Bytes of table files on disk, and of what waits in memory to become one (approximate). 0 for the log in memory.
    pub stored_bytes: u64,
}
