//! Builds modules written in JavaScript.

use std::path::Path;

use crate::{BuildError, Manifest};

/// Builds the project's component into the file `out`; what happens is told to `say`, a line at a time.
///
/// # Errors
///
/// A missing tool, or what the tools say of the sources.
pub fn build(project: &Path, manifest: &Manifest, out: &Path, say: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    let _ = (project, manifest, out, say);
    Err(BuildError::Usage("modules in JavaScript cannot be built yet".to_owned()))
}
