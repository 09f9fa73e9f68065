//! Tests of the core as a whole: clusters under faults, arbitrary messages, single decisions.

mod arbitrary;
mod cluster;
mod decisions;
mod faults;
