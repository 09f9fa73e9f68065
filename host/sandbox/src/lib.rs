//! The machine: a Wasm component over one SQLite file, driven by committed log entries. Implements the ports
//! [`Machine`](telegraft_node::ports::Machine) ([`SqliteMachine`]) and [`Queries`](telegraft_node::ports::Queries)
//! ([`MachineReader`]) of a node.
//!
//! # How an entry becomes state
//!
//! [`open`] gives the writing and the reading half. [`SqliteMachine`] applies a batch of entries in one SQLite
//! transaction, which moves the applied index too, and each entry in a savepoint. A call goes to a fresh instance of the
//! active module (its memory is not state), which has two imports: `store`, SQLite, and `log`, lines for people. What the
//! guest says is the entry's outcome; when it refuses, traps, or runs over a budget, its entry is undone alone, and why is
//! the outcome. Nothing in between: what is not the guest's doing is a `MachineFault`, after which the machine refuses all
//! work, and the node stops.
//!
//! # Why replicas agree
//!
//! Commands are replicated, so applying must give the same everywhere: outcomes, data and budgets.
//!
//! - [`engine`]: how Wasm is made deterministic, each setting with its reason.
//! - [`policy`]: what SQL a guest may use; [`database`]: how its budget is counted; [`errors`]: how they are told apart.
//! - [`limits`]: budgets are part of the activation entry. A host's own configuration ([`SandboxOptions`]) decides only
//!   what is refused before it is replicated.
//! - [`sessions`], [`catalog`]: remembered answers and module uploads are bounded by indexes and constants.
//! - Texts of outcomes are results as well: this crate's own words, no addresses, nothing of the engine's. (SQLite's
//!   messages come from the library that is compiled in, so hosts of one cluster run one version of Telegraft.)
//!
//! [`MachineReader::state_digest`] hashes all of it ([`state_digest`]), for comparing replicas.
//!
//! # Modules
//!
//! A module travels through the log in parts ([`catalog`]) and is named by its SHA-256. Its compilation begins in the
//! background when it is complete; an activation entry switches to it, or is refused, at the same index on all replicas.
//! The module's data layout (`schema` in its description) is counted **by the module's name**: activating another name
//! leaves tables and layout of the first as they are, so a machine can go from one module to another and back with the
//! data kept. `init` runs when a name is new to the machine (`from-schema` none) or its schema has risen; a lower schema
//! than the name last had is refused. All modules of a machine share one set of tables: names are theirs to keep apart.
//!
//! What inspection ([`Sandbox::inspect`]) refuses before replication is checked again at activation, since the log must
//! not trust the host that uploaded.
//!
//! # What is remembered of requests
//!
//! With a client id, an answer is kept ([`sessions`]) and given again to the same (client, request) for
//! [`REMEMBERED`] entries.
//!
//! # Durability and snapshots
//!
//! A commit survives a crash of the process at once, and the power's loss after
//! [`make_durable`](telegraft_node::ports::Machine::make_durable): what is lost before, the log has. A [`snapshot`] is
//! the database as bytes with a sum; [`restore`] puts it in the place of another, old or new at any crash.
//!
//! # Trials
//!
//! What another module would do is tried on copies of the state, by the same code: [`trial`].
//!
//! # Not here
//!
//! Wall-clock limits: fuel and SQL steps bound every call; the SQL functions whose work could outgrow a step charge for it
//! ([`functions`]).

#![deny(unsafe_code)]
#![warn(missing_docs)]
#![allow(rustdoc::private_intra_doc_links)]

mod active;
mod administer;
mod apply;
mod audit;
mod cache;
mod calls;
mod catalog;
mod compile;
mod complexity;
mod database;
mod effects;
mod engine;
mod entry;
mod errors;
mod functions;
mod guest;
mod halt;
mod history;
mod kept;
mod keys;
mod limits;
mod measure;
mod module;
mod policy;
mod reach;
mod reader;
mod replay;
mod restore;
mod rows;
mod sandbox;
mod schema;
mod sessions;
mod snapshot;
mod state_digest;
mod statement;
mod store;
mod temporary;
pub mod trial;
mod verify;

pub use active::ActiveModule;
pub use apply::{SqliteMachine, open};
pub use catalog::{MODULE_BYTES_MAX, ModuleRecord, UPLOADS_MAX};
pub use effects::TableChanges;
pub use engine::engine_name;
pub use guest::Cost;
pub use history::{Happened, HistoryRecord, KEPT as HISTORY_KEPT};
pub use limits::Limits;
pub use module::{BadDigest, BadModule, Digest, Inspection, Method, WORLD};
pub use reader::MachineReader;
pub use sandbox::{Sandbox, SandboxError, SandboxOptions};
pub use sessions::{CLIENT_ID_BYTES_MAX, REMEMBERED, REPLY_BYTES_KEPT_MAX};
