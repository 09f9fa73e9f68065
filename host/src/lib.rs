//! Telegraft.

pub mod bench;
pub mod cli;
pub mod server;
pub mod settings;
