//! `telegraft`: gRPC services, peer streams, settings, command line, load command. The only room that knows sockets and
//! tokio; see ARCHITECTURE.md for the others.

#![forbid(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod server;
pub mod settings;
