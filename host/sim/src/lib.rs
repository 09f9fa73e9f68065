//! The simulator: whole nodes in a world made of one seed.
//!
//! A node here is the real consensus core, the real node loop and the real machine (a Wasm guest over SQLite; or, many
//! times faster, a plain map with the same commands). Around it everything is a model that behaves as badly as the real
//! thing can: the network drops, delays, repeats and reorders; disks lose what was not synced, tear, fail, fill up and
//! flip bits; clocks drift; processes are paused, killed and started again; operators change members, move the leadership,
//! take snapshots, compact logs and swap modules; clients lose replies and try again elsewhere.
//!
//! # A run
//!
//! [`settings`] and [`plan`] are drawn from the seed: what the world is like, and what goes wrong when. [`world`] takes
//! events from one queue, in the order of simulated time, until the faults have ended and the group serves again. The
//! checkers in [`judge`] watch each step and, at the end, all that clients saw. Everything that is chance comes from the
//! seed, and nothing else does: the same seed gives the same events, which [`trace`] proves by a digest.
//!
//! A violation is shrunk ([`shrink`]): faults are left out as long as the same rule still breaks, and what remains is told
//! as a readable trace.
//!
//! The feature `campaigns` (on by default) is all that draws such worlds. Without it the world is still there, to be
//! filled from outside ([`outside`]): `telegraft module test` runs modules of users in it.
//!
//! # Where to look
//!
//! | file | owns |
//! |---|---|
//! | `run.rs`, `shrink.rs` | one seed from beginning to end; fewer faults with the same outcome |
//! | `world.rs`, `phases.rs` | the event queue and time; healing and convergence |
//! | `faults.rs` | what faults and operators do |
//! | `process.rs`, `stages.rs` | one node: its disks, node loop, log and machine stage; what each does when it is due |
//! | `disk/`, `machine/` | the log's model disk; the machines and what power losses leave of them |
//! | `network.rs` | links and weather |
//! | `clients.rs`, `talk.rs` | what clients ask and remember; how requests and answers travel |
//! | `outside.rs` | the world for others: their clients, their modules, faults when they say so |
//! | `judge/`, `linearizability/` | the checkers |
//! | `defects.rs` | known bugs that can be put back, to see that the checkers find them |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod clients;
#[cfg(feature = "defects")]
pub mod defects;
pub mod disk;
mod faults;
pub mod judge;
pub mod linearizability;
pub mod machine;
pub mod network;
pub mod outside;
pub mod panics;
mod phases;
pub mod plan;
pub mod process;
#[cfg(feature = "campaigns")]
pub mod run;
pub mod settings;
#[cfg(feature = "campaigns")]
pub mod shrink;
mod stages;
mod talk;
pub mod trace;
pub mod world;
