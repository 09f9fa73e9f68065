//! New projects in every language: that all is there under the right name, and that a Rust one builds and passes its tests
//! outside this repository.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use telegraft_author::{BuildError, Language, Manifest, Scaffolded, build, check, new};

/// A project in a folder that goes away with the first value.
fn scaffold(language: Language, name: &str) -> Result<(tempfile::TempDir, Scaffolded)> {
    let folder = tempfile::tempdir()?;
    let project = new(name, language, &folder.path().join(name))?;
    Ok((folder, project))
}

fn texts(project: &Scaffolded) -> Result<Vec<(PathBuf, String)>> {
    let read = |file: &PathBuf| {
        let path = project.folder.join(file);
        Ok((file.clone(), fs::read_to_string(&path).with_context(|| path.display().to_string())?))
    };
    project.files.iter().map(read).collect()
}

#[test]
fn a_project_has_all_its_files_under_its_own_name() -> Result<()> {
    for language in Language::ALL {
        let (_folder, project) = scaffold(language, "ship-log")?;
        let texts = texts(&project)?;
        let names: BTreeSet<&Path> = project.files.iter().map(PathBuf::as_path).collect();
        for needed in ["README.md", "telegraft.toml", ".gitignore", "telegraft/wit/machine.wit", "telegraft/LICENSE"] {
            ensure!(names.contains(Path::new(needed)), "{language}: no {needed} in {names:?}");
        }
        for (file, text) in texts {
            let name = file.to_string_lossy();
            ensure!(!name.ends_with(".template") && !name.contains("dot-"), "{language}: {name}");
            for placeholder in ["{{name}}", "{{snake}}"] {
                ensure!(!text.contains(placeholder), "{language}: {name} has {placeholder}");
            }
        }
        let manifest = Manifest::load(&project.folder)?;
        ensure!((manifest.name.as_str(), manifest.language) == ("ship-log", language), "{manifest:?}");
        let readme = fs::read_to_string(project.folder.join("README.md"))?;
        for part in ["# ship-log", "telegraft module build", "telegraft dev --module . --watch"] {
            ensure!(readme.contains(part), "{language}: the README does not say {part:?}");
        }
    }
    Ok(())
}

#[test]
fn what_is_no_name_or_no_empty_folder_is_refused_and_nothing_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for name in ["", "Ship", "ship_log", "../ship", "1st", "test"] {
        let place = folder.path().join("new");
        let error = new(name, Language::Rust, &place).unwrap_err();
        ensure!(error.is_usage() && !place.exists(), "{name}: {error}");
    }
    let taken = folder.path().join("taken");
    fs::create_dir(&taken)?;
    fs::write(taken.join("mine"), "text")?;
    for (place, part) in [(taken.clone(), "not empty"), (taken.join("mine"), "is a file")] {
        let error = new("ship", Language::Rust, &place).unwrap_err();
        ensure!(error.is_usage() && error.to_string().contains(part), "{error}");
    }
    ensure!(fs::read_dir(&taken)?.count() == 1, "something was written");
    fs::remove_file(taken.join("mine"))?;
    new("ship", Language::Rust, &taken)?;
    Ok(())
}

/// A new project at a place that is always the same, with the target folder of the run before: its dependencies are compiled
/// once for all runs. The lock keeps another run out.
fn scaffold_where_dependencies_are_compiled(name: &str) -> Result<(File, Scaffolded)> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("projects");
    fs::create_dir_all(&root)?;
    let lock = File::create(root.join("lock"))?;
    lock.lock()?;
    let (project, kept) = (root.join(name), root.join("kept"));
    if project.join("target").exists() {
        fs::rename(project.join("target"), &kept)?;
    }
    if project.exists() {
        fs::remove_dir_all(&project)?;
    }
    let scaffolded = new(name, Language::Rust, &project)?;
    if kept.exists() {
        fs::rename(&kept, project.join("target"))?;
    }
    Ok((lock, scaffolded))
}

/// One project for all that needs the compiler.
#[test]
fn a_rust_project_builds_outside_this_repository_again_and_again() -> Result<()> {
    let (_lock, project) = scaffold_where_dependencies_are_compiled("ship-log")?;
    let mut said = String::new();
    let built = build(&project.folder, &mut |line| said.push_str(&format!("{line}\n")))?;
    ensure!(
        built.file == project.folder.join("ship-log.wasm") && said.contains("Compiling ship-log"),
        "{built:?}\n{said}"
    );
    ensure!(check(&built.file)? == built, "the file is not what was checked");
    ensure!(built.exports == ["telegraft:machine/machine@0.1.0"], "{built:?}");
    ensure!(built.size < 160 * 1024, "the module has {} bytes", built.size);
    let bytes = fs::read(&built.file)?;
    let path = project.folder.to_string_lossy().into_owned();
    ensure!(!bytes.windows(path.len()).any(|bytes| bytes == path.as_bytes()), "the module carries {path}");

    // The same sources elsewhere give the same module: its digest is its name.
    let elsewhere = Scaffolded { folder: project.folder.with_file_name("elsewhere"), ..project.clone() };
    fs::rename(&project.folder, &elsewhere.folder)?;
    let moved = build(&elsewhere.folder, &mut |_| {});
    fs::rename(&elsewhere.folder, &project.folder)?;
    ensure!(moved?.digest == built.digest, "another folder, another digest");

    // Sources that do not compile leave the module as it was.
    let library = project.folder.join("src/lib.rs");
    let source = fs::read_to_string(&library)?;
    fs::write(&library, format!("{source}\nfn broken( {{}}\n"))?;
    let error = build(&project.folder, &mut |_| {}).unwrap_err();
    ensure!(matches!(&error, BuildError::ToolFailed { output, .. } if output.contains("src/lib.rs")), "{error}");
    ensure!(!error.is_usage() && fs::read(&built.file)? == bytes, "the old module is gone");

    // A library that makes nothing a module is none.
    let (head, rest) = source.split_once("telegraft_guest::module!(").context("no module! in src/lib.rs")?;
    let (_, tail) = rest.split_once("});").context("no end of module! in src/lib.rs")?;
    let without = format!("{head}{tail}");
    fs::write(&library, without)?;
    let error = build(&project.folder, &mut |_| {}).unwrap_err();
    ensure!(matches!(&error, BuildError::Component { .. }) && error.to_string().contains("module!"), "{error}");
    fs::write(&library, source)?;

    // A package whose library is no cdylib says what to add.
    let manifest = project.folder.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    fs::write(&manifest, text.replace("crate-type = [\"cdylib\", \"rlib\"]", ""))?;
    let error = build(&project.folder, &mut |_| {}).unwrap_err();
    ensure!(error.is_usage() && error.to_string().contains("crate-type"), "{error}");
    fs::write(&manifest, text)?;

    // The project's own tests run natively.
    let tested =
        Command::new("cargo").args(["test", "--target-dir", "target"]).current_dir(&project.folder).output()?;
    let printed = String::from_utf8_lossy(&tested.stdout);
    ensure!(
        tested.status.success() && printed.contains("test result: ok. "),
        "{printed}{}",
        String::from_utf8_lossy(&tested.stderr)
    );
    Ok(())
}

#[test]
fn a_folder_that_is_no_project_says_how_to_make_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let error = build(folder.path(), &mut |_| {}).unwrap_err();
    ensure!(error.is_usage() && error.to_string().contains("telegraft module new"), "{error}");
    Ok(())
}
