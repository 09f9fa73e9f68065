//! Modules before they run: naming by digest, and every check that refuses one before anything is replicated.

use std::{fmt, str::FromStr, sync::Arc};

use prost_reflect::DescriptorPool;
use sha2::{Digest as _, Sha256};
use telegraft_node::ports::{Code, MachineFault};
use wasmtime::{
    Engine,
    component::{Component, types::ComponentItem},
};

use crate::guest::{Description, Ended, rejection};

/// The world a module must be made for.
pub const WORLD: &str = "telegraft:machine/state-machine@0.1.0";

/// The interface a module must export.
const MACHINE_INTERFACE: &str = "telegraft:machine/machine@0.1.0";

/// The interface a module may export besides.
pub(crate) const DOWNGRADE_INTERFACE: &str = "telegraft:machine/downgrade@0.1.0";

/// What a module may import; the versions are what this host offers.
const OFFERED: &[&str] =
    &["telegraft:machine/types@0.1.0", "telegraft:machine/store@0.1.0", "telegraft:machine/log@0.1.0"];

/// Bytes of a module's name and of its version.
const LABEL_BYTES_MAX: usize = 64;

/// Bytes of a module's service descriptors.
const SERVICE_BYTES_MAX: usize = 1 << 20;

/// Packages of services that every host serves itself.
const HOSTS_OWN: [&str; 2] = ["telegraft.", "grpc."];

/// Bytes of an engine's error text that are kept.
const DETAIL_BYTES_MAX: usize = 1 << 10;

/// SHA-256 of a module's bytes: its name in the log and on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a module's digest is 64 hexadecimal digits or 32 bytes")]
pub struct BadDigest;

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(BadDigest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let nibble = |i: usize| pair.get(i).and_then(|c| char::from(*c).to_digit(16)).ok_or(BadDigest);
            *byte = u8::try_from(nibble(0)? << 4 | nibble(1)?).map_err(|_| BadDigest)?;
        }
        Ok(Digest(bytes))
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = BadDigest;

    fn try_from(bytes: &[u8]) -> Result<Self, BadDigest> {
        bytes.try_into().map(Digest).map_err(|_| BadDigest)
    }
}

/// Why a module is refused, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadModule {
    /// Over the size limit.
    #[error(
        "the module has {size} bytes, over the limit of {max}; build it for release, strip it, or raise module_bytes_max"
    )]
    TooLarge {
        /// Bytes of the file.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// No Wasm at all.
    #[error("this is no Wasm file ({0}); upload the component that the build makes, a .wasm file")]
    NotWasm(&'static str),
    /// A core module.
    #[error(
        "this is a core Wasm module, not a component; make a component of it, with the crate wit-component or \
         `wasm-tools component new`, from a module built against wit/machine.wit"
    )]
    CoreModule,
    /// It would take too long to compile.
    #[error("the module is too hard to compile ({0}); split large functions, or build it with optimisation for size")]
    TooComplex(String),
    /// The engine does not accept it.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// An import this host does not offer.
    #[error(
        "the module imports {name}, which is not offered to state machines{hint}; a module may import {} only",
        OFFERED.join(", ")
    )]
    ForeignImport {
        /// The import's full name.
        name: String,
        /// What to do, for well-known imports; begins with "; ".
        hint: &'static str,
    },
    /// Lacks the export.
    #[error(
        "the component is for another world: it exports {exports}, not {MACHINE_INTERFACE}; build it against the world {WORLD}"
    )]
    WrongWorld {
        /// What it exports, or "nothing".
        exports: String,
    },
    /// Has the names but not the types.
    #[error("the component does not fit the world {WORLD}: {0}; build it against this host's wit/machine.wit")]
    WrongTypes(String),
    /// `describe` did not give an answer.
    #[error("the module cannot be described: {0}")]
    Undescribed(String),
    /// `describe` said what cannot be.
    #[error("the module describes itself badly: {0}")]
    BadDescription(String),
    /// This host could not check it; nothing is said about the module.
    #[error("this host could not check the module: {0}")]
    NotChecked(String),
}

/// A method of the service that a module declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// As calls carry it: `chat.v1.Chat/SendMessage`.
    pub name: String,
    /// Full name of the request message.
    pub input: String,
    /// Full name of the reply message.
    pub output: String,
    /// Whether it is a read (`idempotency_level = NO_SIDE_EFFECTS`).
    pub query: bool,
}

/// What the checks found in a module that passed them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// The module's own name; data layouts are counted by it.
    pub name: String,
    /// The module's own version, for people.
    pub version: String,
    /// Version of its data layout.
    pub schema: u32,
    /// The world it fits.
    pub world: String,
    /// Names of its imports.
    pub imports: Vec<String>,
    /// Names of its exports.
    pub exports: Vec<String>,
    /// The methods of its services, in the order of the descriptors.
    pub methods: Vec<Method>,
    /// Its serialized `google.protobuf.FileDescriptorSet`, empty where it declares no service.
    pub service: Vec<u8>,
}

/// Checks the first bytes: 8 bytes of magic, version and layer.
pub(crate) fn check_preamble(bytes: &[u8]) -> Result<(), BadModule> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => Ok(()),
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Err(BadModule::CoreModule),
        Some([0, b'a', b's', b'm', ..]) => Err(BadModule::NotWasm("an unknown version of the binary format")),
        _ if bytes.is_empty() => Err(BadModule::NotWasm("the file is empty")),
        _ if bytes.first() == Some(&b'(') => Err(BadModule::NotWasm("it looks like WebAssembly text")),
        _ => Err(BadModule::NotWasm("it does not begin with \\0asm")),
    }
}

/// Imports and exports of a component, by name; refuses foreign ones.
pub(crate) fn check_world(engine: &Engine, component: &Component) -> Result<(Vec<String>, Vec<String>), BadModule> {
    let ty = component.component_type();
    let imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    if let Some(name) = imports.iter().find(|name| !OFFERED.contains(&name.as_str())) {
        return Err(BadModule::ForeignImport { name: name.clone(), hint: hint(name) });
    }
    let machine = ty.get_export(engine, MACHINE_INTERFACE).map(|export| export.ty);
    if !matches!(machine, Some(ComponentItem::ComponentInstance(_))) {
        let exports = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
        return Err(BadModule::WrongWorld { exports: short(&exports) });
    }
    Ok((imports, exports))
}

fn hint(import: &str) -> &'static str {
    if import.starts_with("wasi:clocks") {
        "; the time comes with the context of each call"
    } else if import.starts_with("wasi:random") {
        "; randomness comes with the context of each call"
    } else if import.starts_with("wasi:") {
        "; build for wasm32-unknown-unknown instead of a WASI target"
    } else if import.starts_with("telegraft:machine/") {
        "; it is made for another version of the contract"
    } else {
        ""
    }
}

/// An engine's error, bounded.
pub(crate) fn short(text: &str) -> String {
    crate::guest::cut(text, DETAIL_BYTES_MAX).to_owned()
}

/// What a module says of itself, checked.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub bytes: Vec<u8>,
    pub pool: DescriptorPool,
    pub methods: Vec<Method>,
}

/// Checks a description; the same answer on every replica.
pub(crate) fn check_description(description: &Description) -> Result<Service, BadModule> {
    for (what, text) in [("name", &description.name), ("version", &description.version)] {
        let problem = if text.is_empty() {
            "is empty"
        } else if text.len() > LABEL_BYTES_MAX {
            "is longer than 64 bytes"
        } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            "contains white space or control characters"
        } else {
            continue;
        };
        return Err(BadModule::BadDescription(format!("its {what} {problem}")));
    }
    decode_service(&description.service)
}

/// Decodes the descriptors of a service.
pub(crate) fn decode_service(bytes: &[u8]) -> Result<Service, BadModule> {
    if bytes.len() > SERVICE_BYTES_MAX {
        return Err(BadModule::BadDescription(format!(
            "its service descriptors have {} bytes, over the limit of {SERVICE_BYTES_MAX}",
            bytes.len()
        )));
    }
    let pool = DescriptorPool::decode(bytes).map_err(|e| {
        BadModule::BadDescription(format!(
            "its service is no complete FileDescriptorSet, with every imported file in it: {}",
            short(&e.to_string())
        ))
    })?;
    let mut methods = Vec::new();
    for service in pool.services() {
        if let Some(prefix) = HOSTS_OWN.iter().find(|prefix| service.full_name().starts_with(**prefix)) {
            return Err(BadModule::BadDescription(format!(
                "its service {} is in the package {prefix}*, which is the host's own; choose another package",
                service.full_name()
            )));
        }
        for method in service.methods() {
            let name = format!("{}/{}", service.full_name(), method.name());
            if method.is_client_streaming() || method.is_server_streaming() {
                return Err(BadModule::BadDescription(format!("its method {name} streams; methods must be unary")));
            }
            let options = method.method_descriptor_proto().options.as_ref();
            let query = options.is_some_and(|o| {
                o.idempotency_level() == prost_reflect::prost_types::method_options::IdempotencyLevel::NoSideEffects
            });
            let (input, output) = (method.input().full_name().to_owned(), method.output().full_name().to_owned());
            methods.push(Method { name, input, output, query });
        }
    }
    Ok(Service { bytes: bytes.to_vec(), pool, methods })
}

/// The label of a module in log lines.
pub(crate) fn label(name: &str, version: &str) -> Arc<str> {
    format!("{name} {version}").into()
}

/// Why a module cannot be activated. What its bytes alone decide is a rejection, in words that are the same on every host.
/// Where the engine does not take sound bytes, this host is the odd one (out of memory, say): it stops rather than stay
/// with the old module while the others swap.
pub(crate) fn unusable(digest: &Digest, bad: BadModule) -> Ended {
    match bad {
        BadModule::NotChecked(_) => MachineFault(format!(
            "module {digest} cannot be activated here, though its bytes are sound: {bad}. Is this host out of memory?"
        ))
        .into(),
        BadModule::Invalid(_) | BadModule::WrongTypes(_) => {
            tracing::warn!(%digest, %bad, "a module cannot be activated");
            let why = "it is no valid component for this version of the host; inspect the file for the details";
            rejection(Code::FailedPrecondition, format!("module {digest} cannot be activated: {why}")).into()
        }
        bad => rejection(Code::FailedPrecondition, format!("module {digest} cannot be activated: {bad}")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_back_what_they_print() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().len(), 64);
        assert_eq!("00".parse::<Digest>(), Err(BadDigest));
        assert_eq!("zz".repeat(32).parse::<Digest>(), Err(BadDigest));
        assert_eq!("é".repeat(32).parse::<Digest>(), Err(BadDigest));
    }

    #[test]
    fn the_preamble_tells_core_modules_and_texts_apart() {
        assert_eq!(check_preamble(b"\0asm\x01\0\0\0"), Err(BadModule::CoreModule));
        assert_eq!(check_preamble(b"\0asm\x0d\0\x01\0rest"), Ok(()));
        for junk in [&b""[..], b"(module)", b"\0asm", b"\0asm\x02\0\0\0", b"#!/bin/sh"] {
            assert!(matches!(check_preamble(junk), Err(BadModule::NotWasm(_))), "{junk:?}");
        }
    }
}
