//! Benchmarks of the commit path live in `benches/`; run them with `cargo bench --workspace --bench commit_path`.

#![forbid(unsafe_code)]
