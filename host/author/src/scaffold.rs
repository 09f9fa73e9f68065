//! New projects: the embedded files of a template, written into a folder under the project's name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{BuildError, Language, check_name};

/// An embedded file, and its place in a project before [`place_in_project`].
pub(crate) struct File {
    place: &'static str,
    bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// The ending of files whose text carries placeholders.
const TEMPLATE_ENDING: &str = ".template";

/// A project that was made.
#[derive(Clone, Debug)]
pub struct Scaffolded {
    /// Its folder.
    pub folder: PathBuf,
    /// The files in it, relative to the folder, in order of their names.
    pub files: Vec<PathBuf>,
}

/// Makes a project with an example that builds and answers. The folder must not be there yet, or be empty.
///
/// # Errors
///
/// A name that is none, a folder with something in it, or what the file system says.
pub fn new(name: &str, language: Language, folder: &Path) -> Result<Scaffolded, BuildError> {
    check_name(name).map_err(BuildError::Usage)?;
    refuse_what_is_there(folder)?;
    let mut written = Vec::new();
    for file in files_of(language) {
        let (place, bytes) = in_project(file, name)?;
        let path = folder.join(&place);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(BuildError::at(parent))?;
        }
        fs::write(&path, bytes).map_err(BuildError::at(&path))?;
        written.push(place);
    }
    written.sort();
    Ok(Scaffolded { folder: folder.to_owned(), files: written })
}

fn files_of(language: Language) -> impl Iterator<Item = &'static File> {
    let (template, guest): (&[File], &[File]) = match language {
        Language::Rust => (RUST, GUEST),
        Language::Python => (PYTHON, &[]),
        Language::Javascript => (JAVASCRIPT, &[]),
    };
    template.iter().chain(SHARED).chain(guest)
}

fn refuse_what_is_there(folder: &Path) -> Result<(), BuildError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(BuildError::Usage(format!(
                "{} is there already and not empty; name another folder: telegraft module new NAME --language LANGUAGE DIR",
                folder.display()
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(BuildError::Usage(format!("{} is a file; name a folder that is not there yet", folder.display())))
        }
        Err(source) => Err(BuildError::Io { path: folder.to_owned(), source }),
    }
}

/// A file as the project has it: its path and its bytes.
fn in_project(file: &File, name: &str) -> Result<(PathBuf, Vec<u8>), BuildError> {
    let (place, is_template) = match file.place.strip_suffix(TEMPLATE_ENDING) {
        Some(place) => (place, true),
        None => (file.place, false),
    };
    let parts = place.split('/').map(|part| match part.strip_prefix("dot-") {
        Some(rest) => format!(".{rest}"),
        None => part.to_owned(),
    });
    let place: PathBuf = parts.collect();
    if !is_template {
        return Ok((place, file.bytes.to_vec()));
    }
    let text = std::str::from_utf8(file.bytes)
        .map_err(|_| BuildError::Usage(format!("the template {} is no text", file.place)))?;
    let text = text.replace("{{name}}", name).replace("{{snake}}", &name.replace('-', "_"));
    Ok((place, text.into_bytes()))
}
