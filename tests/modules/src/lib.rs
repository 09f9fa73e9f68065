//! The guest modules of this repository as components, built with this crate. Owns no logic: the guests are
//! `guest-chat`, `tests/modules/kv` and `tests/modules/poll`, and `build.rs` makes components of them.

#![forbid(unsafe_code)]

/// The chat module (`chat.v1.Chat`), a component for the world `telegraft:machine/state-machine`.
pub const CHAT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chat.wasm"));

/// The key-value module (`kv.v1.Kv`), a component for the world `telegraft:machine/state-machine`.
pub const KV: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kv.wasm"));

/// The poll module (`poll.v1.Polls`), a component for the world `telegraft:machine/state-machine`.
pub const POLL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/poll.wasm"));

/// All modules with the names of their files.
pub const ALL: [(&str, &[u8]); 3] = [("chat.wasm", CHAT), ("kv.wasm", KV), ("poll.wasm", POLL)];
