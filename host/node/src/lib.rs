//! One turn of a node: the stages in order, and the ports they go through.
//!
//! A [`Node`] joins the consensus core to a log, a machine and a network. It owns no thread, clock or socket: whoever runs
//! it (the host's threads, or the simulator) collects [`Input`]s, calls [`Node::turn`], and does what the [`Ports`] were
//! asked to do. The turn reads top to bottom:
//!
//! ```text
//! receive(inbox)                    client writes, peer messages, ticks, completions  →  core
//! ready = core.ready()
//! send(ready.messages)              these need no durability of ours
//! persist(ready)                    one fsync for all that waits; may run beside the next turns
//! apply(ready.committed_entries)    one transaction a batch; may run beside the next turns
//! ```
//!
//! and, when a completion comes back as an input:
//!
//! ```text
//! persisted  →  send(messages_after_append), count our own vote and acknowledgement
//! applied    →  answer the clients whose writes these were, and those whose reads waited for them
//! ```
//!
//! Ordering promises the node relies on: writes are persisted in the order they were handed over, entries are applied (and
//! snapshots restored) in the order they were handed over, and completions come back in that order too. Across the two
//! the node itself keeps order where it matters (`order.rs`).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod lease;
mod node;
mod order;
mod pending;
pub mod ports;
mod reads;

pub use node::{AppliedEntry, Input, Node, NodeConfig, NodeFault, Ports, Write};
pub use pending::{ReadOutcome, Responder, WriteOutcome};
