//! Whole clusters for the tests and the demo: real processes of the real `telegraft` binary, real sockets, real files.
//! Owns starting, stopping, pausing and asking them; what must hold is said in `tests/` and in `bin/demo.rs`.
//!
//! A host runs with the settings a user would run it with. What a cluster needs beside that is kept out of the way of
//! whatever else runs on the machine: ports are reserved with a lock (see [`ports`]), data lives in a temporary folder that
//! is kept when a test fails, and a child dies with its parent, however the parent ends (see [`process`]).

#![deny(unsafe_code)]

pub mod chat;
pub mod client;
pub mod cluster;
pub mod command;
pub mod dev;
pub mod host;
pub mod http;
pub mod polling;
pub mod ports;
pub mod probe;
pub mod process;
