//! A project's folder `.telegraft`: what builds make, and use again until what it was made from changes. May be removed at any
//! time.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::BuildError;

/// Folders of a project that hold no sources.
const NO_SOURCES: [&str; 4] = ["target", "node_modules", "__pycache__", "telegraft-dev"];

/// The folder, absolute.
pub(crate) struct Generated {
    folder: PathBuf,
}

impl Generated {
    /// Of a project; makes it where there is none.
    pub(crate) fn of(project: &Path) -> Result<Self, BuildError> {
        let folder = project.canonicalize().map_err(BuildError::at(project))?.join(".telegraft");
        fs::create_dir_all(&folder).map_err(BuildError::at(&folder))?;
        Ok(Self { folder })
    }

    /// A file or folder in it, there or not.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether `what` was last made from exactly these texts, and at this place: what tools install often carries its path.
    pub(crate) fn is_made_from(&self, what: &str, texts: &[&str]) -> bool {
        fs::read_to_string(self.stamp(what)).is_ok_and(|stamp| stamp == self.digest(texts))
    }

    /// Notes what `what` was made from. To be called once it is whole.
    pub(crate) fn made_from(&self, what: &str, texts: &[&str]) -> Result<(), BuildError> {
        self.write(&format!("{what}.stamp"), &self.digest(texts))
    }

    fn stamp(&self, what: &str) -> PathBuf {
        self.path(&format!("{what}.stamp"))
    }

    fn digest(&self, texts: &[&str]) -> String {
        let mut hash = Sha256::new();
        for text in [self.folder.to_string_lossy().as_ref()].iter().chain(texts) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes a file in it, and its folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), BuildError> {
        let file = self.path(name);
        let folder = file.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(BuildError::at(folder))?;
        fs::write(&file, text).map_err(BuildError::at(&file))
    }

    /// Removes a folder in it with all it holds, if it is there.
    pub(crate) fn clear(&self, name: &str) -> Result<PathBuf, BuildError> {
        let folder = self.path(name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(BuildError::Io { path: folder, source: error })
            }
            _ => Ok(folder),
        }
    }

    /// Copies the project's sources into the folder `name`, in place of what it held: all files but hidden ones, components and
    /// what tools leave behind.
    pub(crate) fn copy_sources(&self, project: &Path, name: &str) -> Result<(), BuildError> {
        let folder = self.clear(name)?;
        copy(project, &folder)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), BuildError> {
    fs::create_dir_all(to).map_err(BuildError::at(to))?;
    for entry in fs::read_dir(from).map_err(BuildError::at(from))? {
        let entry = entry.map_err(BuildError::at(from))?;
        let (path, name) = (entry.path(), entry.file_name());
        let shown = name.to_string_lossy();
        if shown.starts_with('.') || shown.ends_with(".wasm") || NO_SOURCES.contains(&shown.as_ref()) {
            continue;
        }
        // Links to folders are not followed: they could lead in circles.
        if entry.file_type().map_err(BuildError::at(&path))?.is_dir() {
            copy(&path, &to.join(&name))?;
        } else if path.is_file() {
            fs::copy(&path, to.join(&name)).map_err(BuildError::at(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_made_again_where_its_inputs_or_its_place_differ() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("one");
        fs::create_dir(&project).unwrap();
        let made = Generated::of(&project).unwrap();
        assert!(!made.is_made_from("venv", &["a", "b"]));
        made.made_from("venv", &["a", "b"]).unwrap();
        assert!(made.is_made_from("venv", &["a", "b"]));
        assert!(!made.is_made_from("venv", &["ab", ""]) && !made.is_made_from("other", &["a", "b"]));

        fs::rename(&project, folder.path().join("two")).unwrap();
        assert!(!Generated::of(&folder.path().join("two")).unwrap().is_made_from("venv", &["a", "b"]));
    }

    #[test]
    fn sources_are_copied_and_what_tools_leave_is_not() {
        let project = tempfile::tempdir().unwrap();
        let made = Generated::of(project.path()).unwrap();
        for (folder, file) in [("telegraft", "a.py"), ("__pycache__", "a.pyc"), (".git", "HEAD"), ("data", "m.wasm")] {
            fs::create_dir_all(project.path().join(folder)).unwrap();
            fs::write(project.path().join(folder).join(file), "text").unwrap();
        }
        fs::create_dir_all(made.path("sources/gone")).unwrap();
        made.copy_sources(project.path(), "sources").unwrap();
        let mut names: Vec<_> =
            fs::read_dir(made.path("sources")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["data", "telegraft"]);
        assert!(made.path("sources/telegraft/a.py").is_file() && !made.path("sources/data/m.wasm").exists());
    }
}
