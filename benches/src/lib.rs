//! Benchmarks of the commit path live in `benches/`; run them with `cargo bench -p telegraft-benches`.

#![forbid(unsafe_code)]
