//! What modules written in Rust stand on.
#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

// The generated code names this crate by its outside name, from inside and from the modules alike.
extern crate self as telegraft_guest;

pub mod bindings;
mod call;
mod context;
mod dispatch;
mod failure;
#[cfg(any(test, all(target_family = "wasm", feature = "arena")))]
mod heap;
mod log;
mod migrations;
mod module;
mod page;
mod params;
mod random;
mod rows;
mod service;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
#[cfg(feature = "sqlite")]
mod testing;

pub use bindings::telegraft::machine::{
    store::{Error as StoreError, ValueParam as Param, ValueResult as Value},
    types::{Context, Failure, FailureCode},
};
pub use call::{Command, Query};
pub use context::{Ids, parse_id};
pub use dispatch::{answer, unknown_method};
pub use log::{Level, log};
#[doc(hidden)]
pub use migrations::schema_of;
pub use migrations::{Migration, Step, downgrade, migrate};
#[cfg(target_family = "wasm")]
pub use module::Component;
pub use module::{Downgrade, Module};
pub use page::{Cursor, Page, page_limit};
#[doc(hidden)]
pub use params::collect_params;
pub use params::{OutOfRange, Params, ToParam};
// What generated code and modules use of these, so that a module needs no dependency but this crate.
pub use prost;
pub use random::Random;
pub use rows::{FromRow, FromValue, column};
pub use service::Service;
#[doc(hidden)]
pub use service::check_label;
#[cfg(feature = "sqlite")]
pub use sqlite::MemoryStore;
pub use store::{Rows, Store};
#[cfg(feature = "sqlite")]
pub use testing::TestMachine;
pub use uuid::Uuid;
