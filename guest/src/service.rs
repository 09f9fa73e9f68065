//! From a protobuf service to a module: [`module!`](crate::module) joins what `telegraft-guest-build` generates.

use crate::{Command, Failure, Query};

/// A service whose methods `M` implements. `telegraft-guest-build` generates one such type for each service of a .proto file,
/// beside the trait with the methods.
pub trait Service<M> {
    /// The serialized `google.protobuf.FileDescriptorSet` that describes it.
    const FILE_DESCRIPTOR_SET: &'static [u8];

    /// Runs the command `method` ("chat.v1.Chat/SendMessage"); `None` where the service has none of that name.
    fn apply(command: &Command<'_>, method: &str, request: &[u8]) -> Option<Result<Vec<u8>, Failure>>;

    /// Answers the query `method`; `None` where the service has none of that name.
    fn query(query: &Query<'_>, method: &str, request: &[u8]) -> Option<Result<Vec<u8>, Failure>>;
}

/// Takes in what `telegraft-guest-build` made of a protobuf package: its messages, and for each service a trait.
///
/// ```ignore
/// mod proto {
///     telegraft_guest::include_proto!("poll.v1");
/// }
/// ```
#[macro_export]
macro_rules! include_proto {
    ($package:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}

/// Makes a module of a type that implements the traits of its services: the [`Module`](crate::Module) and the component's
/// exports.
///
/// ```ignore
/// pub struct Poll;
///
/// telegraft_guest::module!(Poll {
///     name: "poll",
///     migrations: MIGRATIONS,
///     services: [proto::PollsService],
/// });
///
/// impl proto::Polls for Poll {
///     // a function for each rpc
/// }
/// ```
///
/// | field | meaning |
/// |---|---|
/// | `name` | whose data it is: 1 to 64 bytes without white space |
/// | `version` | may be left out: the package's version |
/// | `migrations` | a constant list of [`Migration`](crate::Migration); its length is the schema |
/// | `services` | the generated types; all from one run of `telegraft-guest-build` |
/// | `downgrade` | may be left out, and then the module offers no way back; `fn(&Command, to_schema: u32) -> Result<(), Failure>`, usually `\|command, to_schema\| telegraft_guest::downgrade(command, to_schema, MIGRATIONS)` |
#[macro_export]
macro_rules! module {
    ($module:ident {
        name: $name:expr,
        $(version: $version:expr,)?
        migrations: $migrations:expr,
        services: [$first:ty $(, $service:ty)* $(,)?]
        $(, downgrade: $downgrade:expr)? $(,)?
    }) => {
        const _: () = $crate::check_label(<$module as $crate::Module>::NAME);
        const _: () = $crate::check_label(<$module as $crate::Module>::VERSION);

        impl $crate::Module for $module {
            const NAME: &'static str = $name;
            const VERSION: &'static str = $crate::module!(@version $($version)?);
            const SCHEMA: u32 = $crate::schema_of($migrations);
            const SERVICE: &'static [u8] = <$first as $crate::Service<Self>>::FILE_DESCRIPTOR_SET;

            fn init(
                store: &dyn $crate::Store,
                context: &$crate::Context,
                from_schema: ::core::option::Option<u32>,
            ) -> ::core::result::Result<(), $crate::Failure> {
                $crate::migrate(Self::NAME, &$crate::Command::new(store, context), from_schema, $migrations)
            }

            fn apply(
                store: &dyn $crate::Store,
                context: &$crate::Context,
                method: &str,
                command: &[u8],
            ) -> ::core::result::Result<::std::vec::Vec<u8>, $crate::Failure> {
                let call = $crate::Command::new(store, context);
                <$first as $crate::Service<Self>>::apply(&call, method, command)
                    $(.or_else(|| <$service as $crate::Service<Self>>::apply(&call, method, command)))*
                    .unwrap_or_else(|| ::core::result::Result::Err($crate::unknown_method(Self::NAME, "commands", method)))
            }

            fn query(
                store: &dyn $crate::Store,
                context: &$crate::Context,
                method: &str,
                request: &[u8],
            ) -> ::core::result::Result<::std::vec::Vec<u8>, $crate::Failure> {
                let call = $crate::Query::new(store, context);
                <$first as $crate::Service<Self>>::query(&call, method, request)
                    $(.or_else(|| <$service as $crate::Service<Self>>::query(&call, method, request)))*
                    .unwrap_or_else(|| ::core::result::Result::Err($crate::unknown_method(Self::NAME, "queries", method)))
            }
        }

        $crate::module!(@export $module $(, $downgrade)?);
    };
    (@version) => { env!("CARGO_PKG_VERSION") };
    (@version $version:expr) => { $version };
    (@export $module:ident) => { $crate::export!($module); };
    (@export $module:ident, $downgrade:expr) => {
        impl $crate::Downgrade for $module {
            fn downgrade(
                store: &dyn $crate::Store,
                context: &$crate::Context,
                to_schema: u32,
            ) -> ::core::result::Result<(), $crate::Failure> {
                let downgrade: fn(&$crate::Command<'_>, u32) -> ::core::result::Result<(), $crate::Failure> = $downgrade;
                downgrade(&$crate::Command::new(store, context), to_schema)
            }
        }

        $crate::export_reversible!($module);
    };
}

/// Refuses, while the module is compiled, a name or version that the host would refuse at its upload.
#[doc(hidden)]
pub const fn check_label(label: &str) {
    let bytes = label.as_bytes();
    assert!(!bytes.is_empty() && bytes.len() <= 64, "a module's name and version have 1 to 64 bytes");
    let mut at = 0;
    while at < bytes.len() {
        assert!(!bytes[at].is_ascii_whitespace(), "a module's name and version have no white space");
        at += 1;
    }
}
