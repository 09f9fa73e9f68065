//! Raft as a pure function: messages and ticks go in, work comes out.
//!
//! This crate decides; it does nothing. It has no clock, no thread, no socket, no file and no source of randomness of its
//! own: time is [`Raft::tick`], randomness a seed in [`Config`], and all I/O is the host's, told by [`Ready`] what to do.
//! The same inputs give the same outputs, which is what makes a failing simulation replayable.
//!
//! The sources are Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm* (2014; "Raft" in the
//! comments) and Ongaro's thesis, *Consensus: Bridging Theory and Practice* (2014; "thesis").
//!
//! # The protocol
//!
//! A group of nodes keeps one log. Every node applies the same entries in the same order to its state machine, so every
//! state machine passes through the same states. The trouble is to agree on the log while nodes crash and messages are
//! lost, late, repeated and out of order.
//!
//! **Terms and elections** (Raft §5.2). Time is cut into *terms*, each with at most one *leader*. A follower that hears
//! nothing for a random number of ticks becomes a candidate: it enters the next term, votes for itself and asks the others.
//! Each node votes once in a term, and writes its vote down before it answers, so two candidates of a term cannot both
//! find a majority. A node grants its vote only to a log at least as current as its own (§5.4.1): an entry that a majority
//! holds is then held by one of any majority's voters, and so by every later leader.
//!
//! With *pre-vote* (thesis §9.6) a node first asks whether it would win, and leaves the term alone until it would: one that
//! comes back from a partition disturbs nobody. With *check-quorum* (thesis §6.2) a leader that does not hear from a
//! majority steps down, and in turn nobody votes while it hears from a leader (§4.2.3).
//!
//! **Replication** (Raft §5.3). The leader orders what is proposed and sends it on. Every append names the entry before it;
//! a follower that does not hold that entry refuses, and says where to look (its last entry that can match, and its term),
//! so that a long divergence is skipped term by term. A follower whose matching index is known is streamed to: messages
//! leave before earlier ones are acknowledged, within a window ([`Progress`], [`Inflights`]). One that needs what is
//! compacted away gets a snapshot.
//!
//! **Commitment** (Raft §5.4.2). An entry of the leader's own term is committed once a quorum holds it durably, and all
//! before it with it. Entries of earlier terms are never committed by counting: figure 8 shows how they could still be
//! lost. That is why a new leader opens its term with an empty entry. A leader counts itself only once its own disk has
//! answered; its appends to others need not wait for that (thesis §10.2.1).
//!
//! **Membership** (Raft §6, thesis §4). The configuration is in the log too, and is in force on a node once it is *applied*
//! there (the thesis has it in force once it is appended; applying is safe as long as one change at a time is under way,
//! which a leader ensures by refusing the next until the last is applied). A change of one voter is made directly, since
//! two such majorities overlap. A change of more passes through a *joint* configuration, in which majorities of both the old
//! and the new voters are needed. Learners receive the log without a vote.
//!
//! **Reads** (thesis §6.4). A leader answers a read without a log entry by noting its commit index and proving, by a round of
//! heartbeats, that it still leads; or by its lease, if clocks can be trusted that far.
//!
//! **Handing over** (thesis §3.10). A leader brings its successor's log level, tells it to campaign at once, and takes no
//! proposals meanwhile; after an election timeout it gives the attempt up.
//!
//! # Running it
//!
//! ```
//! use bytes::Bytes;
//! use telegraft_raft::{ConfState, Config, MemStorage, Raft};
//!
//! let members = ConfState { voters: vec![1], ..Default::default() };
//! let mut raft = Raft::new(Config::new(1, 42), MemStorage::with_conf_state(members)).unwrap();
//! raft.campaign();
//! let mut applied = Vec::new();
//! while raft.has_ready() {
//!     let ready = raft.ready();
//!     // Persist (one atomic write), then hand the ticket back. A real host does this while the next round runs.
//!     raft.storage_mut().append(&ready.entries).unwrap();
//!     if let Some(hard_state) = ready.hard_state {
//!         raft.storage_mut().set_hard_state(hard_state);
//!     }
//!     if let Some(ticket) = ready.append {
//!         raft.persisted(ticket);
//!     }
//!     // Apply.
//!     if let Some(last) = ready.committed_entries.last() {
//!         raft.applied(last.index);
//!     }
//!     applied.extend(ready.committed_entries);
//!     if raft.last_index() == 1 {
//!         raft.propose(vec![Bytes::from_static(b"hello")]).unwrap();
//!     }
//! }
//! assert_eq!(applied.last().unwrap().data, "hello");
//! ```
//!
//! # Where to look
//!
//! `step.rs` examines messages and compares terms; `follower.rs`, `candidate.rs`, `leader.rs` and `replication.rs` (the
//! leader's dealings with one follower) decide; `raft.rs` hands work out; `log.rs` and `unstable.rs` keep the log;
//! `quorum.rs`, `tracker.rs` and `confchange.rs` count and change the members; [`invariants`] says what must always hold.
//!
//! # Caveats
//!
//! - Nodes are trusted to follow the protocol. Messages are examined and impossible claims refused, which catches bugs and
//!   lost disks, not malice.
//! - A node that lost its disk must come back under a new id. Under the old one it could vote twice.
//! - A ticket given back before its write is durable voids every guarantee. So does a disk that lies about that.
//! - Tickets must come back in order. A failed write must never be retried as if it had not happened: stop the node.
//! - Lease-based reads are as sound as the bound on clock drift and pauses, which nobody here can check.
//! - Answers of [`Raft::propose`] say where an entry was placed, not that it will stay: another leader may overwrite it. It
//!   is safe only once it comes out as a committed entry with the same term.
//! - A change that cannot be applied to the configuration it meets is ignored by all nodes alike. A leader with
//!   `conf_change_validation` does not let one into the log.
//! - `step_down_on_removal = false` leaves a removed leader leading, and refusing proposals, until it is told to transfer
//!   its leadership or is no longer heard.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod candidate;
mod confchange;
mod config;
#[doc(hidden)]
pub mod defects;
mod error;
mod follower;
mod inflights;
pub mod invariants;
mod leader;
mod log;
mod message;
mod progress;
pub mod quorum;
mod raft;
mod read_only;
mod ready;
mod replication;
mod step;
mod storage;
mod tracker;
mod types;
mod unstable;

pub use confchange::{
    Changed, Changer, ConfChange, ConfChangeDecodeError, ConfChangeError, ConfChangeKind, ConfChangeSingle,
    ConfChangeTransition, ConfChangeV2,
};
pub use config::{Config, ConfigError, ReadOnly};
pub use error::{Error, ProposeError, StepError};
pub use inflights::{InflightLimits, Inflights};
pub use message::{CAMPAIGN_TRANSFER, Message, MessageKind};
pub use progress::{Progress, ProgressState};
pub use raft::Raft;
pub use ready::{AppendTicket, PeerProgress, Ready, StableMark, Status};
pub use storage::{MemStorage, Storage, StorageError};
pub use tracker::{Configuration, ProgressMap};
pub use types::{
    ConfState, Entry, EntryKind, HardState, Index, NodeId, ReadState, Role, Snapshot, SnapshotMeta, SoftState, Term,
};

#[cfg(test)]
mod tests;
