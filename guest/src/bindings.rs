//! The Rust side of `wit/machine.wit`, generated. The generated code needs `unsafe` for the canonical ABI; nothing else
//! in a module does.
#![allow(missing_docs, unsafe_code, clippy::all)]

wit_bindgen::generate!({
    path: "../wit",
    world: "state-machine",
    // Parameters borrow what they carry, so a statement's parameters are not copied before they are handed over.
    ownership: Borrowing { duplicate_if_necessary: true },
    pub_export_macro: true,
    export_macro_name: "export_state_machine",
    default_bindings_module: "telegraft_guest::bindings",
    runtime_path: "telegraft_guest::bindings::runtime",
});
pub use wit_bindgen::rt as runtime;

/// What the world `reversible-state-machine` has beside `state-machine`, as a world of its own: the two together are that
/// world, and what a module does not export is not in its component.
pub mod reversible {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package telegraft:guest; world way-back { export telegraft:machine/downgrade@0.1.0; }",
        world: "telegraft:guest/way-back",
        ownership: Borrowing { duplicate_if_necessary: true },
        pub_export_macro: true,
        export_macro_name: "export_way_back",
        default_bindings_module: "telegraft_guest::bindings::reversible",
        runtime_path: "telegraft_guest::bindings::runtime",
        with: { "telegraft:machine/types@0.1.0": crate::bindings::telegraft::machine::types },
    });
}
