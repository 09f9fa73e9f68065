//! What a module is made of, watched for changes: a project's files without what builds leave behind, or one file.
//!
//! Looked at again and again rather than told by the kernel: a project is some dozens of files, and this works the same on
//! every file system, in containers and over networks.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{MANIFEST_FILE, Manifest};

/// Folders that builds and tools write to, wherever in the project they are.
const GENERATED: [&str; 4] = ["target", "node_modules", "__pycache__", "telegraft-dev"];

/// Files that builds write themselves.
const LOCKS: [&str; 2] = ["Cargo.lock", "package-lock.json"];

/// Files of a project that are looked at, at most: beyond, it is no module's project.
const FILES_MAX: usize = 10_000;

/// The state of all sources at one time. Equal, where nothing has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<PathBuf, (Option<SystemTime>, u64)>);

impl Sources {
    /// Looks at a project's folder or a file. What cannot be read is not there. Whatever lies in `except` does not count: a
    /// folder that something else writes to, wherever it is.
    pub fn look(at: &Path, except: Option<&Path>) -> Self {
        let mut seen = BTreeMap::new();
        match fs::metadata(at) {
            Ok(metadata) if metadata.is_dir() => {
                // As the file system knows them, whatever way they were named.
                let at = at.canonicalize().unwrap_or_else(|_| at.to_owned());
                let except = except.and_then(|except| except.canonicalize().ok());
                let out = Manifest::load(&at).ok().map(|manifest| manifest.out(&at));
                let passed_over = |path: &Path| Some(path) == except.as_deref() || Some(path) == out.as_deref();
                look_into(&at, &at, &passed_over, &mut seen);
            }
            Ok(metadata) => {
                seen.insert(at.to_owned(), stamp(&metadata));
            }
            Err(_) => {}
        }
        Self(seen)
    }

    /// The files that are new, gone or other than in an earlier look; a project's relative to it.
    pub fn changed_since(&self, earlier: &Self) -> Vec<PathBuf> {
        let other = |(path, stamp): (&PathBuf, _)| (earlier.0.get(path) != Some(stamp)).then(|| path.clone());
        let gone = earlier.0.keys().filter(|path| !self.0.contains_key(*path)).cloned();
        self.0.iter().filter_map(other).chain(gone).collect()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The project's folder, where this is a folder or a manifest rather than a component.
pub fn project_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let is_manifest = path.file_name().is_some_and(|name| name == MANIFEST_FILE);
    // A bare file name's parent is the empty path.
    is_manifest
        .then(|| path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned())
}

fn stamp(metadata: &Metadata) -> (Option<SystemTime>, u64) {
    (metadata.modified().ok(), metadata.len())
}

fn look_into(
    folder: &Path,
    root: &Path,
    passed_over: &impl Fn(&Path) -> bool,
    seen: &mut BTreeMap<PathBuf, (Option<SystemTime>, u64)>,
) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else { continue };
        let generated = GENERATED.contains(&name)
            || LOCKS.contains(&name)
            || name.starts_with('.')
            || name.ends_with(".wasm")
            || name.ends_with('~');
        if generated || passed_over(&path) || seen.len() >= FILES_MAX {
            continue;
        }
        // Links are not followed: they could lead in circles.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => look_into(&path, root, passed_over, seen),
            Ok(metadata) => {
                seen.insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), stamp(&metadata));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_count_and_what_builds_leave_behind_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["src", "target/release", "node_modules/a", ".git"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let manifest = "name = \"my-poll\"\nlanguage = \"rust\"\nout = \"made.bin\"";
        fs::write(at(MANIFEST_FILE), manifest).unwrap();
        fs::write(at("src/lib.rs"), "one").unwrap();
        let first = Sources::look(folder.path(), None);
        assert_eq!(first.0.len(), 2, "{first:?}");
        for path in ["target/release/x.rs", "node_modules/a/index.js", ".git/HEAD", "made.bin", "my-poll.wasm"] {
            fs::write(at(path), "made").unwrap();
        }
        assert_eq!(Sources::look(folder.path(), None), first);

        fs::write(at("src/lib.rs"), "two and more").unwrap();
        let second = Sources::look(folder.path(), None);
        assert_eq!(second.changed_since(&first), [Path::new("src/lib.rs")]);
        fs::remove_file(at("src/lib.rs")).unwrap();
        assert_eq!(Sources::look(folder.path(), None).changed_since(&second), [Path::new("src/lib.rs")]);
    }

    #[test]
    fn a_folder_that_others_write_to_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data/host-1");
        let look = || Sources::look(folder.path(), Some(&folder.path().join("x/../data")));
        let first = Sources::look(folder.path(), Some(&folder.path().join("data")));
        fs::create_dir_all(&data).unwrap();
        fs::create_dir(folder.path().join("x")).unwrap();
        fs::write(data.join("log"), "text").unwrap();
        assert_eq!(look(), first);
        assert_ne!(Sources::look(folder.path(), None), first);
    }

    #[test]
    fn one_file_is_watched_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.wasm");
        assert!(Sources::look(&file, None).is_empty());
        fs::write(&file, "a").unwrap();
        let first = Sources::look(&file, None);
        fs::write(&file, "ab").unwrap();
        assert_eq!(Sources::look(&file, None).changed_since(&first), [file]);
    }
}
