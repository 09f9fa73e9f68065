//! Words for people who debug. They go to the host's log, are not replicated, and no method can read them back.

pub use crate::bindings::telegraft::machine::log::Level;

/// Writes a line to the log of the host that runs the call; natively to standard error.
pub fn log(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::telegraft::machine::log::write(level, message);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {message}");
}
