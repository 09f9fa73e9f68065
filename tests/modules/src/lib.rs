//! The guest modules of this repository as components, built with this crate. Owns no logic: the guests are
//! `guest-chat` and `tests/modules/kv`, and `build.rs` makes components of them.

#![forbid(unsafe_code)]

/// The chat module (`chat.v1.Chat`), a component for the world `telegraft:machine/state-machine`.
pub const CHAT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chat.wasm"));

/// The key-value module (`kv.v1.Kv`), a component for the world `telegraft:machine/state-machine`.
pub const KV: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kv.wasm"));

/// All modules with the names of their files.
pub const ALL: [(&str, &[u8]); 2] = [("chat.wasm", CHAT), ("kv.wasm", KV)];
