//! What modules written in Rust stand on: the bindings to `wit/machine.wit`, typed access to the store, dispatch of
//! methods, ids and time from the log entry, and page tokens.
//!
//! A module is a type that implements [`Module`], and one line, `telegraft_guest::export!(MyModule);`. Its logic sees the
//! store only as [`Store`], so it runs natively too: with the feature `sqlite`, `MemoryStore` stands in for the host.
//!
//! What a module must not do is keep anything in memory from one call to the next: by default every entry gets a fresh
//! instance, and memory is not replicated.

#![deny(unsafe_code)]

// The generated code names this crate by its outside name, from inside and from the modules alike.
extern crate self as telegraft_guest;

pub mod bindings;
mod context;
mod dispatch;
mod failure;
#[cfg(any(test, all(target_family = "wasm", feature = "arena")))]
mod heap;
mod page;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;

pub use bindings::telegraft::machine::{
    store::{Error as StoreError, ValueParam as Param, ValueResult as Value},
    types::{Context, Failure, FailureCode},
};
pub use context::{Ids, parse_id};
pub use dispatch::{answer, unknown_method};
pub use page::{Cursor, Page, page_limit};
#[cfg(feature = "sqlite")]
pub use sqlite::MemoryStore;
pub use store::{FromRow, FromValue, Rows, Store};

/// A state machine: what the host asks of a module.
///
/// Whatever a call writes is undone where it ends in a [`Failure`].
pub trait Module {
    /// Name of the module, for people.
    const NAME: &'static str;
    /// Version of the module, for people.
    const VERSION: &'static str;
    /// Version of the data layout; [`Module::init`] is called when it rises.
    const SCHEMA: u32;
    /// A serialized `google.protobuf.FileDescriptorSet` of the module's service; empty where there is none.
    const SERVICE: &'static [u8];

    /// Makes or migrates the tables; `from_schema` is `None` on an empty store. Called once per activation.
    fn init(store: &dyn Store, context: &Context, from_schema: Option<u32>) -> Result<(), Failure>;

    /// Applies one command. `method` is the full gRPC method name ("chat.v1.Chat/SendMessage").
    fn apply(store: &dyn Store, context: &Context, method: &str, command: &[u8]) -> Result<Vec<u8>, Failure>;

    /// Answers one read; the store refuses writes. The context is that of the newest applied entry.
    fn query(store: &dyn Store, context: &Context, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure>;
}

/// Makes a type that implements [`Module`] the component's exports. Natively it expands to nothing.
#[macro_export]
macro_rules! export {
    ($module:ty) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the canonical ABI's entry points")]
        mod exports {
            type Component = $crate::Component<$module>;
            $crate::bindings::export_state_machine!(Component with_types_in $crate::bindings);
        }
    };
}

/// Joins a [`Module`] with the generated exports; see [`export!`].
#[cfg(target_family = "wasm")]
pub struct Component<M>(std::marker::PhantomData<M>);

#[cfg(target_family = "wasm")]
impl<M: Module> bindings::exports::telegraft::machine::machine::Guest for Component<M> {
    fn describe() -> bindings::exports::telegraft::machine::machine::Description {
        bindings::exports::telegraft::machine::machine::Description {
            name: M::NAME.into(),
            version: M::VERSION.into(),
            schema: M::SCHEMA,
            service: M::SERVICE.into(),
        }
    }

    fn init(context: Context, from_schema: Option<u32>) -> Result<(), Failure> {
        report_panics();
        M::init(&store::HostStore, &context, from_schema)
    }

    fn apply(context: Context, method: String, command: Vec<u8>) -> Result<Vec<u8>, Failure> {
        report_panics();
        M::apply(&store::HostStore, &context, &method, &command)
    }

    fn query(context: Context, method: String, request: Vec<u8>) -> Result<Vec<u8>, Failure> {
        report_panics();
        M::query(&store::HostStore, &context, &method, &request)
    }
}

/// A panic is a trap, and a trap carries no text: the host's log gets the text before.
#[cfg(target_family = "wasm")]
fn report_panics() {
    // A closure that captures nothing is boxed without an allocation, so this costs two stores.
    std::panic::set_hook(Box::new(|panic| {
        use bindings::telegraft::machine::log::{Level, write};
        write(Level::Error, &panic.to_string());
    }));
}
