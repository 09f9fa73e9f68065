//! Gathers what projects are made of, and embeds it: the templates, the contract, the guest crate, and the workspace
//! manifest that the guest crate's own manifests inherit from.

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Where a template's files come from, from the root of the repository: the constant's name, and pairs of a file or folder
/// with its place in the project.
const TEMPLATES: [(&str, &[(&str, &str)]); 3] = [
    (
        "RUST",
        &[
            ("host/author/templates/rust", ""),
            ("tests/modules/poll/build.rs", "build.rs"),
            ("tests/modules/poll/proto", "proto"),
            ("tests/modules/poll/src", "src"),
        ],
    ),
    ("PYTHON", &[("host/author/templates/python", ""), ("tests/modules/poll/proto", "proto")]),
    ("JAVASCRIPT", &[("host/author/templates/javascript", ""), ("tests/modules/poll/proto", "proto")]),
];

/// Where our own poll speaks of itself: the place in the projects that have it, and what stands there instead, as a template has it.
/// Whoever changes the poll is told here.
const ADAPTED: [(&str, &[(&str, &str)]); 3] = [
    (
        "src/lib.rs",
        &[
            (
                "//! The poll module: `poll.v1.Polls` as a replicated state machine. The same module is written in Python and JavaScript, and\n\
                 //! gives the same replies there.\n",
                "//! A poll, `poll.v1.Polls`, as a replicated state machine: people put a question, vote, and change their vote until\n\
                 //! the poll is closed.\n",
            ),
            ("guest_poll", "{{snake}}"),
            ("    name: \"poll\",\n    version: \"0.1.0\",\n", "    name: \"{{name}}\",\n"),
        ],
    ),
    (
        "src/tests.rs",
        &[
            (
                "//! Every method and every refusal, with the words that the module has in every language.",
                "//! Every method and every refusal.",
            ),
            ("(\"poll\", \"0.1.0\", 1)", "(\"{{name}}\", env!(\"CARGO_PKG_VERSION\"), 1)"),
            ("module poll has no", "module {{name}} has no"),
        ],
    ),
    (
        "proto/poll.proto",
        &[(
            "// Polls: the example module, written in Rust, Python and JavaScript alike.\n",
            "// The service of this module.\n",
        )],
    ),
];

/// What every project gets.
const SHARED: &[(&str, &str)] = &[
    ("wit", "telegraft/wit"),
    ("LICENSE", "telegraft/LICENSE"),
    ("tests/modules/poll/scenarios/poll.toml", "scenarios/poll.toml"),
];

/// The guest crate and what it is built with.
const GUEST: &[(&str, &str)] = &[("guest", "telegraft/guest")];

/// What is never a project's: left behind by tools that were run in a template.
const LEFT_BEHIND: [&str; 6] = ["target", "node_modules", "__pycache__", ".venv", "tests", "Cargo.lock"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut code = String::new();
    let mut adapted = BTreeSet::new();
    for (name, sources) in TEMPLATES.iter().chain(&[("SHARED", SHARED), ("GUEST", GUEST)]) {
        let mut files = Vec::new();
        for (source, place) in *sources {
            println!("cargo::rerun-if-changed={}", root.join(source).display());
            gather(&root.join(source), place, &mut files)?;
        }
        adapt(&mut files, &out, &mut adapted)?;
        if *name == "GUEST" {
            let manifest = out.join("guest-workspace.toml");
            fs::write(&manifest, workspace_of(&root, &files)?)?;
            files.push(("telegraft/Cargo.toml".to_owned(), manifest));
        }
        files.sort();
        writeln!(code, "pub(crate) static {name}: &[File] = &[")?;
        for (place, file) in &files {
            writeln!(
                code,
                "    File {{ place: {place:?}, bytes: include_bytes!({:?}) }},",
                file.display().to_string()
            )?;
        }
        writeln!(code, "];")?;
    }
    if let Some((gone, _)) = ADAPTED.iter().find(|(place, _)| !adapted.contains(place)) {
        return Err(format!("ADAPTED in host/author/build.rs: no template has {gone}").into());
    }
    fs::write(out.join("files.rs"), code)?;
    Ok(())
}

/// The files of a folder, or the one file, with their places in the project.
fn gather(source: &Path, place: &str, files: &mut Vec<(String, PathBuf)>) -> Result<(), Box<dyn Error>> {
    if source.is_file() {
        files.push((place.to_owned(), source.to_owned()));
        return Ok(());
    }
    let entries = fs::read_dir(source).map_err(|error| format!("{}: {error}", source.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("a file whose name is no text")?;
        if LEFT_BEHIND.contains(&name) || name.ends_with(".wasm") {
            continue;
        }
        let place = if place.is_empty() { name.to_owned() } else { format!("{place}/{name}") };
        gather(&path, &place, files)?;
    }
    Ok(())
}

/// Puts adapted copies, as templates, in the place of the files that [`ADAPTED`] names, and notes which those were.
fn adapt(
    files: &mut [(String, PathBuf)],
    out: &Path,
    adapted: &mut BTreeSet<&'static str>,
) -> Result<(), Box<dyn Error>> {
    for (number, (place, changes)) in ADAPTED.iter().enumerate() {
        let Some(file) = files.iter_mut().find(|(at, _)| at == place) else { continue };
        adapted.insert(place);
        let mut text = fs::read_to_string(&file.1)?;
        for (from, to) in *changes {
            if !text.contains(from) {
                return Err(format!("{}: ADAPTED in host/author/build.rs looks for {from:?}", file.1.display()).into());
            }
            text = text.replace(from, to);
        }
        let copy = out.join(format!("adapted-{number}"));
        fs::write(&copy, text)?;
        *file = (format!("{place}.template"), copy);
    }
    Ok(())
}

/// The workspace manifest for the guest crate's packages outside this repository: the parts of ours that they inherit.
fn workspace_of(root: &Path, files: &[(String, PathBuf)]) -> Result<String, Box<dyn Error>> {
    let file = root.join("Cargo.toml");
    println!("cargo::rerun-if-changed={}", file.display());
    let ours: toml::Table = fs::read_to_string(&file)?.parse()?;
    let workspace = ours.get("workspace").and_then(toml::Value::as_table).ok_or("no [workspace]")?;
    let offered = workspace.get("dependencies").and_then(toml::Value::as_table).ok_or("no [workspace.dependencies]")?;

    let (mut members, mut inherited) = (Vec::new(), BTreeSet::new());
    for (place, path) in files.iter().filter(|(place, _)| place.ends_with("/Cargo.toml")) {
        let folder = place.trim_start_matches("telegraft/").trim_end_matches("/Cargo.toml");
        members.push(toml::Value::from(folder));
        let manifest: toml::Table = fs::read_to_string(path)?.parse()?;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            let from_ours = |value: &toml::Value| value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
            inherited.extend(table.iter().filter(|(_, value)| from_ours(value)).map(|(name, _)| name.clone()));
        }
    }
    let mut dependencies = toml::Table::new();
    for name in inherited {
        let dependency = offered.get(&name).ok_or_else(|| format!("{name} is not in [workspace.dependencies]"))?;
        dependencies.insert(name, dependency.clone());
    }
    let mut theirs = toml::Table::new();
    theirs.insert("resolver".to_owned(), workspace.get("resolver").cloned().ok_or("no resolver")?);
    theirs.insert("members".to_owned(), toml::Value::Array(members));
    theirs.insert("package".to_owned(), workspace.get("package").cloned().ok_or("no [workspace.package]")?);
    theirs.insert("dependencies".to_owned(), toml::Value::Table(dependencies));
    let whole = toml::Table::from_iter([("workspace".to_owned(), toml::Value::Table(theirs))]);
    Ok(format!(
        "# The guest crate's workspace, as it came with `telegraft module new`.\n\n{}",
        toml::to_string(&whole)?
    ))
}
