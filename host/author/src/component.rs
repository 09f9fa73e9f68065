//! A built component: what it imports, whether a host would take it, and its digest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use wit_component::{ComponentEncoder, DecodedWasm};
use wit_parser::{Resolve, WorldItem, WorldKey};

use crate::BuildError;

/// What a module may import, as `wit/machine.wit` has it.
const OFFERED: [&str; 3] =
    ["telegraft:machine/log@0.1.0", "telegraft:machine/store@0.1.0", "telegraft:machine/types@0.1.0"];

/// What a module must export.
const MACHINE: &str = "telegraft:machine/machine@0.1.0";

/// What it may export beside that.
const DOWNGRADE: &str = "telegraft:machine/downgrade@0.1.0";

/// A component that hosts take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Its file.
    pub file: PathBuf,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal, by which hosts name it.
    pub digest: String,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The interfaces that it exports.
    pub exports: Vec<String>,
}

/// Makes a component of a core module that carries its world, as `wit-bindgen` leaves it.
///
/// # Errors
///
/// Why it is none.
pub(crate) fn encode(core: &[u8], file: &Path) -> Result<Vec<u8>, BuildError> {
    let encoded = ComponentEncoder::default().validate(true).module(core).and_then(|encoder| encoder.encode());
    encoded.map_err(|error| BuildError::Component { file: file.to_owned(), message: format!("{error:#}") })
}

/// Checks a component by its shape: a host will look at it again, and at what its `describe` says.
///
/// # Errors
///
/// What a host would refuse it for, and what to do.
pub fn check(file: &Path) -> Result<Built, BuildError> {
    let wrong = |message: String| BuildError::Component { file: file.to_owned(), message };
    let bytes = fs::read(file).map_err(BuildError::at(file))?;
    let (resolve, world) = match wit_component::decode(&bytes) {
        Ok(DecodedWasm::Component(resolve, world)) => (resolve, world),
        Ok(DecodedWasm::WitPackage(..)) => return Err(wrong("it is a WIT package in place of a component".to_owned())),
        Err(error) => return Err(wrong(format!("{error:#}"))),
    };
    let world = &resolve.worlds[world];
    let imports = names(&resolve, world.imports.iter());
    let exports = names(&resolve, world.exports.iter());
    if let Some(foreign) = imports.iter().find(|name| !OFFERED.contains(&name.as_str())) {
        return Err(wrong(format!(
            "it imports {foreign}, which is not offered to state machines: clocks, files, sockets and random sources \
             would differ between hosts. Take time and ids from the context, and data from the store"
        )));
    }
    // Interfaces, that is; componentize-py leaves an instance of its own behind, which no one can name.
    let is_foreign = |name: &&String| name.contains(':') && *name != MACHINE && *name != DOWNGRADE;
    if let Some(foreign) = exports.iter().find(is_foreign) {
        return Err(wrong(format!("it exports {foreign}, which no host asks for")));
    }
    if !exports.iter().any(|name| name == MACHINE) {
        return Err(wrong(format!(
            "it does not export {MACHINE}; in Rust, `telegraft_guest::module!` makes it of a type"
        )));
    }
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Built { file: file.to_owned(), size: bytes.len() as u64, digest, imports, exports })
}

/// The full names of interfaces, the plain ones of anything else.
fn names<'a>(resolve: &Resolve, items: impl Iterator<Item = (&'a WorldKey, &'a WorldItem)>) -> Vec<String> {
    let name = |key: &WorldKey| match key {
        WorldKey::Interface(id) => resolve.id_of(*id).unwrap_or_else(|| "an interface without a name".to_owned()),
        WorldKey::Name(name) => name.clone(),
    };
    let mut names: Vec<String> = items.map(|(key, _)| name(key)).collect();
    names.sort();
    names
}
