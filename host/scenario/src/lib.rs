//! Tests for modules: a cluster in one process, made of one seed, that loses its leaders, links and replies for you.
//!
//! The hosts are real: the consensus core, node loop, Wasm engine and SQLite of Telegraft. Network, disks, clocks and
//! chance are simulated, and made of a seed: the same seed gives the same events, a hundred seeds a hundred different runs,
//! many in a second. After each of them the replicas must be equal and every write applied once, whatever the module is.
//!
//! There are two ways to write a test. As a file, for `telegraft module test FILE --scenario S` and [`Scenario`]; or in
//! Rust, with a [`Cluster`] in a `#[test]`.
//!
//! # A scenario's file
//!
//! TOML: steps in order; each is a call, a read, an event, or several things at the same time. What is expected must come
//! true with every seed.
//!
//! ```toml
//! hosts = 3                          # 1 to 9; 3 is usual
//! reuse = false                      # activate with one instance for many entries
//!
//! [modules]                          # to upgrade to, beside this file
//! v2 = "poll-v2.wasm"
//!
//! [chaos]                            # what chance brings while a call is under way; the section alone: the usual rates
//! kill = 0.05
//! lose-replies = 0.2
//!
//! [[step]]
//! call = "CreatePoll"                # or its full name, poll.v1.Poll/CreatePoll; a query is read linearizably
//! request = { question = "tea?", options = ["yes", "no"] }
//! expect = { }                       # fields that the reply must have; it may have more
//! save = { poll = "pollId", first = "options.0.id" }
//!
//! [[step]]
//! event = "kill-leader"
//! lasting = "1s"
//!
//! [[step]]
//! call = "Vote"
//! request = { pollId = "$poll", option = "$first", voter = "{{client}}-{{round}}" }
//! expect_error = { code = "NOT_FOUND", message = "no poll" }
//!
//! [[step]]
//! parallel = [
//!   { call = "Vote", request = { pollId = "$poll", voter = "{{client}}" }, clients = 5, times = 10 },
//!   { event = "upgrade", module = "v2", after = "100ms" },
//!   { clients = 2, steps = [{ read = "GetPoll", request = { pollId = "$poll" } }, { event = "wait", lasting = "10ms" }] },
//! ]
//!
//! [[step]]
//! read = "GetPoll"
//! request = '{"pollId": "$poll"}'    # a text of JSON does as well
//! consistency = "local"              # some host's own state, or that of host = 2: it comes to be as expected
//! expect = { votes = 50 }
//! ```
//!
//! - **Requests and replies** are protobuf's JSON, by the descriptors that the module carries. 64-bit integers are strings
//!   there; a number in `expect` means the same.
//! - **Variables**: `save` takes them from a reply by a path. `"$poll"` alone is the value, `{{poll}}` stands inside a text,
//!   `$$` for a dollar. `{{client}}` and `{{round}}` count from 1 within `parallel`; `{{seed}}` is the seed.
//! - **Refusals**: `expect_error` wants one, by its code and a part of its message; `may_fail = ["ABORTED"]` allows some.
//!   Without either, a refusal fails the test.
//! - **Retries** are not yours to write: every write carries a session and is sent again, wherever the leader went, until it
//!   is answered, for 60 simulated seconds.
//! - **Events**: `kill-leader`, `kill`, `restart`, `lose-power`, `pause` (with `host` and `lasting`), `partition` (`host` or a
//!   list of them, apart from the others; `lasting`, or until `heal`), `bad-network`, `lose-replies`, `duplicate-replies` (with
//!   `percent`, `lasting`), `heal` (all faults end and all hosts run), `snapshot` (the log is dropped up to it), `transfer-leader`
//!   (`to`), `upgrade` (`module`, and `expect_error` where it must be refused), `wait` (`lasting`). A `host` is `"leader"`,
//!   `"follower"`, a number, or for kills, restarts and snapshots `"all"`.
//!
//! # In Rust
//!
//! ```
//! use telegraft_scenario::{Module, NotPassed, Scenario};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = Module::new(telegraft_modules::KV)?;
//! let text = r#"
//!     [chaos]
//!     [[step]]
//!     call = "Put"
//!     request = { key = "a", value = "b25l" }
//!     expect = { version = 1 }
//! "#;
//! let scenario = Scenario::from_text("kv.toml", text, &module, &|file| Err(format!("no {file} here")))?;
//! let report = scenario.run(0..5)?;
//! assert_eq!(report.passed, 5);
//! # Ok(())
//! # }
//! ```
//!
//! [`Scenario::from_file`] reads a file; [`Cluster`] has an example of a test without one.
//!
//! # Where to look
//!
//! | file | owns |
//! |---|---|
//! | `file.rs`, `scenario.rs` | a scenario's file, and what it comes to |
//! | `play.rs`, `seeds.rs` | one seed; many |
//! | `cluster.rs`, `client.rs`, `event.rs`, `strike.rs` | the cluster, those who call it, and what happens to it |
//! | `check.rs` | what must hold for every module |
//! | `service.rs`, `matching.rs`, `template.rs` | JSON and protobuf; expectations; variables |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod check;
mod client;
mod cluster;
mod event;
mod failure;
mod file;
mod matching;
mod play;
mod scenario;
mod seeds;
mod service;
mod strike;
mod tally;
mod template;

pub use cluster::{Call, Cluster, Setup};
pub use event::{Chaos, Event, Host, RESTART};
pub use failure::{Failure, code_name};
pub use play::Played;
pub use scenario::{Mistake, Scenario, Wrong};
pub use seeds::{Failed, NotPassed, Report, Seeds, quiet_panics};
pub use service::{Module, keep_compiled_in};
pub use tally::Tally;
pub use telegraft_node::ports::{Code, Rejection};
