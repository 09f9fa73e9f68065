//! For those who write modules: new projects from templates ([`new`]), and their builds ([`build`]).
//!
//! A project is a folder with a `telegraft.toml` ([`Manifest`]). The command line (`telegraft module new`, `telegraft module build`,
//! `telegraft dev --module FOLDER --watch`) is the host's; what it does is here, and knows neither the machine nor gRPC.
//!
//! # Templates
//!
//! `templates/LANGUAGE` is embedded in the binary as it stands, with two rules. A file whose name ends in `.template` loses the
//! ending, and in its text `{{name}}` (`my-poll`) and `{{snake}}` (`my_poll`) are replaced; all other files are copied byte
//! by byte, so they can be run and tested where they are. A part of a path that begins with `dot-` begins with a dot in the
//! project. To each project the folder `telegraft/` is added, with `telegraft/wit/machine.wit` and, for Rust, the guest crate.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
pub mod javascript;
mod manifest;
pub mod python;
pub mod service;
pub mod tool;

pub use error::BuildError;
pub use manifest::{Language, MANIFEST_FILE, Manifest, check_name, wit_folder};
