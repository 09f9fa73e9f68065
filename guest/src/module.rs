//! What the host asks of a module, and how a type becomes the component's exports.

#[cfg(target_family = "wasm")]
use crate::store::HostStore;
use crate::{Context, Failure, Store};

/// A state machine: what the host asks of a module. [`module!`](crate::module) implements it for a type that implements its
/// service's methods.
///
/// Whatever a call writes is undone where it ends in a [`Failure`].
pub trait Module {
    /// Name of the module: whose data it is. 1 to 64 bytes without white space.
    const NAME: &'static str;
    /// Version of the module, for people.
    const VERSION: &'static str;
    /// Version of the data layout; [`Module::init`] is called when it rises.
    const SCHEMA: u32;
    /// A serialized `google.protobuf.FileDescriptorSet` of the module's service; empty where there is none.
    const SERVICE: &'static [u8];

    /// Makes or migrates the tables; `from_schema` is `None` on an empty store. Called where the module's name is new to the
    /// machine, or its schema has risen.
    ///
    /// # Errors
    ///
    /// Any: the old module and all data stay.
    fn init(store: &dyn Store, context: &Context, from_schema: Option<u32>) -> Result<(), Failure>;

    /// Applies one command. `method` is the full gRPC method name ("chat.v1.Chat/SendMessage").
    ///
    /// # Errors
    ///
    /// Any: the client gets it, and what was written is undone.
    fn apply(store: &dyn Store, context: &Context, method: &str, command: &[u8]) -> Result<Vec<u8>, Failure>;

    /// Answers one read; the store refuses writes. The context is that of the newest applied entry.
    ///
    /// # Errors
    ///
    /// Any: the client gets it.
    fn query(store: &dyn Store, context: &Context, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure>;
}

/// A module that can give its data back to an older version of itself.
pub trait Downgrade: Module {
    /// Turns the data into the layout `to_schema`, which the older version knows. Asked of the newer one, in the entry that
    /// takes the machine back.
    ///
    /// # Errors
    ///
    /// Any: everything stays as it was.
    fn downgrade(store: &dyn Store, context: &Context, to_schema: u32) -> Result<(), Failure>;
}

/// Makes a type that implements [`Module`] the component's exports. Natively it expands to nothing.
/// ([`module!`](crate::module) does it too.)
#[macro_export]
macro_rules! export {
    ($module:ty) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the canonical ABI's entry points")]
        const _: () = {
            type Component = $crate::Component<$module>;
    $crate::bindings::export_state_machine!(Component with_types_in $crate::bindings);
        };
    };
}

/// As [`export!`], for a type that implements [`Downgrade`] too.
#[macro_export]
macro_rules! export_reversible {
    ($module:ty) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the canonical ABI's entry points")]
        const _: () = {
            type Component = $crate::Component<$module>;
    $crate::bindings::export_state_machine!(Component with_types_in $crate::bindings);
    $crate::bindings::reversible::export_way_back!(Component with_types_in $crate::bindings::reversible);
        };
    };
}

/// Joins a [`Module`] with the generated exports; see [`export!`] and [`export_reversible!`].
#[cfg(target_family = "wasm")]
pub struct Component<M>(std::marker::PhantomData<M>);

#[cfg(target_family = "wasm")]
impl<M: Module> crate::bindings::exports::telegraft::machine::machine::Guest for Component<M> {
    fn describe() -> crate::bindings::exports::telegraft::machine::machine::Description {
        crate::bindings::exports::telegraft::machine::machine::Description {
            name: M::NAME.into(),
            version: M::VERSION.into(),
            schema: M::SCHEMA,
            service: M::SERVICE.into(),
        }
    }

    fn init(context: Context, from_schema: Option<u32>) -> Result<(), Failure> {
        report_panics();
        M::init(&HostStore, &context, from_schema)
    }

    fn apply(context: Context, method: String, command: Vec<u8>) -> Result<Vec<u8>, Failure> {
        report_panics();
        M::apply(&HostStore, &context, &method, &command)
    }

    fn query(context: Context, method: String, request: Vec<u8>) -> Result<Vec<u8>, Failure> {
        report_panics();
        M::query(&HostStore, &context, &method, &request)
    }
}

#[cfg(target_family = "wasm")]
impl<M: Downgrade> crate::bindings::reversible::exports::telegraft::machine::downgrade::Guest for Component<M> {
    fn downgrade(context: Context, to_schema: u32) -> Result<(), Failure> {
        report_panics();
        M::downgrade(&HostStore, &context, to_schema)
    }
}

/// A panic is a trap, and a trap carries no text: the host's log gets the text before.
#[cfg(target_family = "wasm")]
fn report_panics() {
    // A closure that captures nothing is boxed without an allocation, so this costs two stores.
    std::panic::set_hook(Box::new(|panic| crate::log(crate::Level::Error, &panic.to_string())));
}
