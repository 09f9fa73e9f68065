//! The guest modules of this repository as components, built with this crate. Owns no logic: the guests are
//! `guest-chat` and those beside this crate, and `build.rs` makes components of them.

#![forbid(unsafe_code)]

/// The chat module (`chat.v1.Chat`), a component for the world `telegraft:machine/state-machine`.
pub const CHAT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chat.wasm"));

/// The key-value module (`kv.v1.Kv`), a component for the world `telegraft:machine/state-machine`.
pub const KV: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kv.wasm"));

/// The poll module (`poll.v1.Polls`), a component for the world `telegraft:machine/state-machine`.
pub const POLL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/poll.wasm"));

/// The module of `guest/README.md` (`greetings.v1.Greetings`), a component for the world
/// `telegraft:machine/reversible-state-machine`.
pub const GREETINGS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/greetings.wasm"));
/// The hostile modules of `tests/modules/hostile`, by name; what each tries, and what must come of it, stands in its file.
pub const HOSTILE: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/hostile.rs"));

/// All modules with the names of their files.
pub const ALL: [(&str, &[u8]); 4] =
    [("chat.wasm", CHAT), ("greetings.wasm", GREETINGS), ("kv.wasm", KV), ("poll.wasm", POLL)];
