//! `telegraft.toml`, the manifest of a module's project: what it says, its defaults, and what is refused in it.

use std::{
    fmt, fs,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use crate::BuildError;

/// The file that makes a folder a project.
pub const MANIFEST_FILE: &str = "telegraft.toml";

/// Bytes that a name may have: the host's own limit of a module's name.
const NAME_BYTES_MAX: usize = 64;

/// Names that Cargo, Python or the file systems keep for themselves.
const TAKEN: [&str; 12] =
    ["build", "con", "core", "deps", "guest", "nul", "proc-macro", "self", "std", "super", "telegraft", "test"];

/// A language that modules are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Rust, with the guest crate.
    Rust,
    /// Python, by componentize-py.
    Python,
    /// JavaScript, by componentize-js.
    Javascript,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::Javascript];

    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Javascript => "javascript",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|language| language.as_str() == text);
        known.ok_or_else(|| format!("{text} is no language modules are scaffolded in: rust, python or javascript"))
    }
}

/// What a project's `telegraft.toml` says. All paths are relative to the project, and stay inside it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the project, and by default of the component's file; the scaffolded sources use it as the module's name.
    pub name: String,
    /// Version of the module, where the language has no manifest of its own that says it.
    #[serde(default)]
    pub version: Option<String>,
    /// What it is written in.
    pub language: Language,
    /// The `.proto` file with the module's service. Empty for Rust, where the package's build script names it.
    #[serde(default)]
    pub proto: PathBuf,
    /// The folder that imports in `.proto` files begin at; `proto` where it is not given.
    #[serde(default = "default_proto_root")]
    pub proto_root: PathBuf,
    /// The source file that the build begins with, in languages that need one named.
    #[serde(default)]
    pub main: Option<PathBuf>,
    /// Where the component is written; `NAME.wasm` where it is not given.
    #[serde(default)]
    pub out: Option<PathBuf>,
}

fn default_proto_root() -> PathBuf {
    PathBuf::from("proto")
}

impl Manifest {
    /// Reads the manifest of the project in a folder.
    ///
    /// # Errors
    ///
    /// Where there is none, or it does not say what it must; names the file.
    pub fn load(project: &Path) -> Result<Self, BuildError> {
        let file = project.join(MANIFEST_FILE);
        let wrong = |message: String| BuildError::Project { file: file.clone(), message };
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(wrong(
                    "there is no such file, so this is no module's project; `telegraft module new NAME` makes one"
                        .to_owned(),
                ));
            }
            Err(source) => return Err(BuildError::Io { path: file, source }),
        };
        let manifest: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        check_name(&manifest.name).map_err(&wrong)?;
        if manifest.language == Language::Rust {
            if !manifest.proto.as_os_str().is_empty() {
                return Err(wrong(
                    "proto is for other languages; in Rust the package's build.rs names the file".to_owned(),
                ));
            }
        } else if manifest.proto.as_os_str().is_empty() {
            return Err(wrong("the key proto is missing: the .proto file with the module's service".to_owned()));
        }
        let proto = Some(&manifest.proto).filter(|proto| !proto.as_os_str().is_empty());
        let paths = [proto, Some(&manifest.proto_root), manifest.main.as_ref(), manifest.out.as_ref()];
        for path in paths.into_iter().flatten() {
            let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if !inside || path.as_os_str().is_empty() {
                return Err(wrong(format!(
                    "the path {:?} must be relative and stay inside the project",
                    path.display()
                )));
            }
        }
        Ok(manifest)
    }

    /// Where the component is written.
    pub fn out(&self, project: &Path) -> PathBuf {
        match &self.out {
            Some(out) => project.join(out),
            None => project.join(format!("{}.wasm", self.name)),
        }
    }
}

/// The folder with `machine.wit` in a project, as [`new`](crate::new) writes it.
pub fn wit_folder(project: &Path) -> PathBuf {
    project.join("telegraft").join("wit")
}

/// Whether a project may have this name: it becomes a package's, a file's and a module's.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let shape =
        name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.ends_with('-') && !name.contains("--");
    if !letters || !shape || name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "{name:?} is no name for a module: at most {NAME_BYTES_MAX} lower-case letters, digits and single hyphens, a letter first, as my-poll"
        ));
    }
    if TAKEN.contains(&name) {
        return Err(format!("the name {name:?} is taken by the tools that build it; choose another, as my-{name}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Manifest, BuildError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MANIFEST_FILE), text).unwrap();
        Manifest::load(folder.path())
    }

    #[test]
    fn a_manifest_needs_name_language_and_proto() {
        let manifest = load("name = \"my-poll\"\nlanguage = \"python\"\nproto = \"proto/poll.proto\"").unwrap();
        assert_eq!(manifest.language, Language::Python);
        assert_eq!(manifest.proto_root, Path::new("proto"));
        assert_eq!(manifest.out(Path::new("p")), Path::new("p/my-poll.wasm"));
        for (text, part) in [
            ("name = \"my-poll\"\nlanguage = \"python\"", "key proto is missing"),
            ("name = \"my-poll\"\nlanguage = \"rust\"\nproto = \"a\"", "build.rs"),
            ("name = \"my-poll\"\nlanguage = \"cobol\"\nproto = \"a\"", "cobol"),
            ("name = \"my-poll\"\nlanguage = \"python\"\nproto = \"a\"\ncolour = 1", "colour"),
            ("name = \"My Poll\"\nlanguage = \"rust\"\nproto = \"a\"", "is no name"),
            ("name = \"my-poll\"\nlanguage = \"python\"\nproto = \"../a\"", "inside the project"),
            ("name = \"my-poll\"\nlanguage = \"python\"\nproto = \"a\"\nout = \"\"", "inside the project"),
            ("name = ", "telegraft.toml"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.to_string().contains(part) && error.is_usage(), "{text}: {error}");
        }
    }

    #[test]
    fn a_folder_without_manifest_is_no_project() {
        let folder = tempfile::tempdir().unwrap();
        let error = Manifest::load(folder.path()).unwrap_err();
        assert!(error.to_string().contains("telegraft module new"), "{error}");
    }

    #[test]
    fn names_are_those_of_packages() {
        for good in ["poll", "my-poll", "p2"] {
            check_name(good).unwrap();
        }
        for bad in ["", "Poll", "my_poll", "2poll", "-poll", "poll-", "my--poll", "p/q", "..", "test", &"a".repeat(65)]
        {
            check_name(bad).unwrap_err();
        }
    }
}
