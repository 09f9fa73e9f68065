//! Room for the simulator: whole nodes in a simulated world of one seed. Empty so far; see ARCHITECTURE.md.

#![forbid(unsafe_code)]
