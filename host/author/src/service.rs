//! The descriptors of a project's protobuf service, compiled in process: no `protoc` is needed.

use std::path::Path;

use prost::Message;

use crate::{BuildError, Manifest};

/// The serialized `google.protobuf.FileDescriptorSet` of the manifest's `.proto` file and all it imports: what a module's
/// `describe` returns as its service.
///
/// # Errors
///
/// What the compiler says of the file.
pub fn file_descriptor_set(project: &Path, manifest: &Manifest) -> Result<Vec<u8>, BuildError> {
    let file = project.join(&manifest.proto);
    let wrong = |error: protox::Error| BuildError::Project { file: file.clone(), message: format!("{error:?}") };
    let mut compiler = protox::Compiler::new([project.join(&manifest.proto_root)]).map_err(wrong)?;
    compiler.include_imports(true).include_source_info(false).open_file(&file).map_err(wrong)?;
    Ok(compiler.file_descriptor_set().encode_to_vec())
}
