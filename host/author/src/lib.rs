//! For those who write modules: new projects from templates ([`new`]), and their builds ([`build`]).
//!
//! A project is a folder with a `telegraft.toml` ([`Manifest`]). The command line (`telegraft module new`, `telegraft module build`,
//! `telegraft dev --module FOLDER --watch`) is the host's; what it does is here, and knows neither the machine nor gRPC.
//!
//! # Templates
//!
//! `templates/LANGUAGE` is embedded in the binary as it stands, with two rules. A file whose name ends in `.template` loses the
//! ending, and in its text `{{name}}` (`my-poll`) and `{{snake}}` (`my_poll`) are replaced; all other files are copied byte
//! by byte, so they can be run and tested where they are. A part of a path that begins with `dot-` begins with a dot in the
//! project. To each project the folder `telegraft/` is added, with `telegraft/wit/machine.wit` and, for Rust, the guest crate.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod component;
mod error;
mod generated;
pub mod javascript;
mod manifest;
pub mod python;
pub mod rust;
mod scaffold;
pub mod service;
mod sources;
pub mod tool;

use std::{fs, path::Path};

pub use component::{Built, check};
pub use error::BuildError;
pub use manifest::{Language, MANIFEST_FILE, Manifest, check_name, wit_folder};
pub use scaffold::{Scaffolded, new};
pub use sources::{Sources, project_of};

/// Builds the project in a folder, and checks what comes of it. The component's file is replaced as a whole, once the new one
/// is known to be good. What happens is told to `say`, a line at a time.
///
/// # Errors
///
/// A missing tool, a manifest that says nonsense, sources that do not compile, or a component that no host would take.
pub fn build(project: &Path, say: &mut dyn FnMut(&str)) -> Result<Built, BuildError> {
    let manifest = Manifest::load(project)?;
    let out = manifest.out(project);
    let folder = out.parent().unwrap_or(project);
    fs::create_dir_all(folder).map_err(BuildError::at(folder))?;
    // Hidden, and of the same folder, so that it can be renamed in one step.
    let unfinished = folder.join(format!(".{}.unfinished.wasm", manifest.name));
    let built = (match manifest.language {
        Language::Rust => rust::build(project, &manifest, &unfinished, say),
        Language::Python => python::build(project, &manifest, &unfinished, say),
        Language::Javascript => javascript::build(project, &manifest, &unfinished, say),
    })
    .and_then(|()| check(&unfinished));
    match built {
        Ok(built) => {
            fs::rename(&unfinished, &out).map_err(BuildError::at(&out))?;
            Ok(Built { file: out, ..built })
        }
        Err(error) => {
            // It may never have been written; what went wrong is said by the error.
            let _ = fs::remove_file(&unfinished);
            Err(error)
        }
    }
}
