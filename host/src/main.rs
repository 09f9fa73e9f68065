//! The `telegraft` binary. Everything is in the library, where tests can reach it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    telegraft::cli::run()
}
