//! What the compiler does not check of the code's shape: that each file says what it owns, that rooms see only the rooms
//! they may, that nothing speaks of one person's machine. Needs no cluster.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Lines after which a file is worth taking apart.
const LINES_MAX: usize = 600;

/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Which packages of this workspace a package may depend on; those in parentheses only for its tests or its build. What
/// is not listed has no edges at all. This is ARCHITECTURE.md's table, checked.
const EDGES: &[(&str, &[&str])] = &[
    ("telegraft-raft", &[]),
    ("telegraft-node", &["telegraft-raft"]),
    ("telegraft-log", &["telegraft-raft", "telegraft-node"]),
    ("telegraft-sandbox", &["telegraft-raft", "telegraft-node", "telegraft-proto", "(telegraft-modules)"]),
    (
        "telegraft-sim",
        &["telegraft-raft", "telegraft-node", "telegraft-sandbox", "telegraft-proto", "telegraft-modules"],
    ),
    (
        "telegraft-scenario",
        &[
            "telegraft-raft",
            "telegraft-node",
            "telegraft-sandbox",
            "telegraft-sim",
            "telegraft-proto",
            "(telegraft-modules)",
        ],
    ),
    (
        "telegraft",
        &[
            "telegraft-author",
            "telegraft-raft",
            "telegraft-node",
            "telegraft-log",
            "telegraft-sandbox",
            "telegraft-scenario",
            "telegraft-proto",
            "(telegraft-modules)",
        ],
    ),
    (
        "telegraft-author",
        &["(telegraft-raft)", "(telegraft-node)", "(telegraft-sandbox)", "(telegraft-proto)", "(telegraft-modules)"],
    ),
    ("telegraft-proto", &[]),
    ("telegraft-guest", &[]),
    ("telegraft-guest-build", &[]),
    ("guest-chat", &["telegraft-guest", "(telegraft-guest-build)", "(telegraft-proto)"]),
    ("guest-greetings", &["telegraft-guest", "(telegraft-guest-build)"]),
    ("guest-kv", &["telegraft-guest", "(telegraft-guest-build)", "(telegraft-proto)"]),
    ("guest-poll", &["telegraft-guest", "(telegraft-guest-build)"]),
    ("guest-chat", &["telegraft-guest", "telegraft-proto"]),
    ("guest-hostile", &["telegraft-guest"]),
    ("guest-kv", &["telegraft-guest", "telegraft-proto"]),
    ("telegraft-modules", &[]),
    ("telegraft-tests", &["telegraft-modules", "telegraft-proto"]),
    (
        "telegraft-benches",
        &[
            "telegraft-raft",
            "telegraft-node",
            "telegraft-log",
            "telegraft-sandbox",
            "telegraft-proto",
            "telegraft-modules",
        ],
    ),
];

/// The consensus core's whole world: small crates that hold data.
const RAFT_MAY_USE: &[&str] = &["bytes", "fastrand", "thiserror", "(proptest)"];

/// Rooms that may know gRPC and the async runtime. `telegraft-proto` has tonic behind a feature, for the types alone.
const ASYNC_ROOMS: &[&str] = &["telegraft", "telegraft-tests", "telegraft-benches"];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Every file of the repository that people write, by its path from the root.
fn files() -> Result<Vec<(String, PathBuf)>> {
    let root = root();
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), ".git" | "target" | "data" | "telegraft-dev" | "proptest-regressions") {
                    folders.push(path);
                }
            } else {
                found.push((path.strip_prefix(&root)?.to_string_lossy().into_owned(), path));
            }
        }
    }
    found.sort();
    ensure!(found.len() > 40, "only {} files below {}: is this the repository?", found.len(), root.display());
    Ok(found)
}

fn rust_files() -> Result<Vec<(String, String)>> {
    files()?
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .map(|(name, path)| Ok((name, fs::read_to_string(path)?)))
        .collect()
}

/// One package: its folder, name and dependencies (those for tests and builds in parentheses).
struct Package {
    folder: PathBuf,
    name: String,
    dependencies: BTreeSet<String>,
}

fn packages() -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for (file, path) in files()?.into_iter().filter(|(name, _)| name.ends_with("Cargo.toml")) {
        let table: toml::Table = fs::read_to_string(&path)?.parse().with_context(|| format!("reading {file}"))?;
        let Some(name) = table.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str)
        else {
            continue;
        };
        let mut dependencies = BTreeSet::new();
        for (section, table) in sections(&table) {
            let wrap = |name: &String| if section == "dependencies" { name.clone() } else { format!("({name})") };
            dependencies.extend(table.keys().map(wrap));
        }
        packages.push(Package { folder: path.with_file_name(""), name: name.to_owned(), dependencies });
    }
    ensure!(packages.len() >= 10, "only {} packages found", packages.len());
    Ok(packages)
}

/// The tables of dependencies, those for certain platforms too.
fn sections(package: &toml::Table) -> Vec<(&'static str, &toml::Table)> {
    let mut found = Vec::new();
    let platforms = package.get("target").and_then(toml::Value::as_table);
    let platforms = platforms.into_iter().flat_map(|table| table.values()).filter_map(toml::Value::as_table);
    for table in platforms.chain([package]) {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            found.extend(table.get(section).and_then(toml::Value::as_table).map(|table| (section, table)));
        }
    }
    found
}

fn bare(dependency: &str) -> &str {
    dependency.trim_matches(['(', ')'])
}

fn none_of(what: &str, offenders: &[String]) -> Result<()> {
    ensure!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
    Ok(())
}

#[test]
fn every_rust_file_opens_with_what_it_owns() -> Result<()> {
    let silent: Vec<String> =
        rust_files()?.into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| name).collect();
    none_of("files that do not open with `//!`", &silent)
}

#[test]
fn no_file_is_too_long_without_a_reason() -> Result<()> {
    let long: Vec<String> = rust_files()?
        .into_iter()
        .map(|(name, text)| (text.lines().count(), name))
        .filter(|(lines, name)| *lines > LINES_MAX && !LONG_FILES.iter().any(|(file, _)| file == name))
        .map(|(lines, name)| format!("{name}: {lines} lines"))
        .collect();
    none_of(&format!("files of more than {LINES_MAX} lines that are not in LONG_FILES"), &long)?;
    for (file, reason) in LONG_FILES {
        ensure!(root().join(file).is_file() && !reason.is_empty(), "LONG_FILES: {file} is gone or has no reason");
    }
    Ok(())
}

#[test]
fn rooms_see_only_the_rooms_they_may() -> Result<()> {
    let packages = packages()?;
    let own: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == package.name) else {
            wrong.push(format!("{} is not in EDGES: say what it may use", package.name));
            continue;
        };
        for dependency in
            package.dependencies.iter().filter(|name| own.contains(bare(name)) && bare(name) != package.name)
        {
            // What the product may use, its tests may use as well.
            if !allowed.contains(&dependency.as_str()) && !allowed.contains(&bare(dependency)) {
                wrong.push(format!("{} must not depend on {dependency}", package.name));
            }
        }
    }
    none_of("edges that ARCHITECTURE.md does not allow", &wrong)
}

#[test]
fn the_consensus_core_uses_nothing_but_small_data_crates() -> Result<()> {
    let packages = packages()?;
    let raft = packages.iter().find(|package| package.name == "telegraft-raft").context("no telegraft-raft")?;
    let more: Vec<String> =
        raft.dependencies.iter().filter(|name| !RAFT_MAY_USE.contains(&name.as_str())).cloned().collect();
    none_of("telegraft-raft must not depend on", &more)
}

#[test]
fn only_the_host_knows_grpc_and_the_async_runtime() -> Result<()> {
    let asynchronous =
        |name: &str| ["tokio", "tonic", "axum", "tower", "hyper"].iter().any(|start| name.starts_with(start));
    let mut wrong = Vec::new();
    for package in packages()? {
        let may = ASYNC_ROOMS.contains(&package.name.as_str());
        for dependency in package.dependencies.iter().filter(|name| !may && asynchronous(bare(name))) {
            let for_types = package.name == "telegraft-proto" && bare(dependency).starts_with("tonic");
            if !for_types {
                wrong.push(format!("{} depends on {dependency}", package.name));
            }
        }
    }
    none_of("rooms that must not know gRPC or the async runtime", &wrong)
}

#[test]
fn unsafe_code_is_forbidden_or_explained() -> Result<()> {
    let mut wrong = Vec::new();
    for package in packages()? {
        for file in ["src/lib.rs", "src/main.rs"].map(|file| package.folder.join(file)) {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            if !text.contains("#![forbid(unsafe_code)]") && !text.contains("#![deny(unsafe_code)]") {
                wrong.push(format!("{} neither forbids nor denies unsafe code", file.display()));
            }
        }
    }
    for (name, text) in rust_files()?.into_iter().filter(|(name, _)| !name.ends_with("tidy.rs")) {
        let allows = |line: &&str| {
            let line = line.trim_start();
            line.starts_with('#') && line.contains("unsafe_code") && (line.contains("allow") || line.contains("expect"))
        };
        // The reason stands at the place, or in the words the file opens with.
        let opening = text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains("`unsafe`"));
        let explained = opening || text.contains("// SAFETY:");
        wrong.extend(
            text.lines()
                .filter(allows)
                .filter(|line| !explained && !line.contains("reason ="))
                .map(|line| format!("{name} does not say why: {}", line.trim())),
        );
    }
    none_of("unsafe code", &wrong)
}

#[test]
fn names_say_what_is_inside() -> Result<()> {
    let vague = ["utils", "util", "helpers", "helper", "manager", "misc", "common"];
    let wrong: Vec<String> = files()?
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            Path::new(name).with_extension("").iter().any(|part| vague.contains(&part.to_string_lossy().as_ref()))
        })
        .collect();
    none_of("names that say nothing", &wrong)
}

#[test]
fn nothing_speaks_of_one_machine() -> Result<()> {
    // Put together, so that this file does not find itself.
    let paths = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], ["/tmp/ba", "sh_jobs"]].map(|parts| parts.concat());
    let mut wrong = Vec::new();
    for (name, path) in files()? {
        // What is no text cannot be read by people either.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if paths.iter().any(|path| line.contains(path.as_str())) {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none_of("paths of one machine", &wrong)
}

#[test]
fn nothing_is_left_undone() -> Result<()> {
    let marks =
        [["to", "do!("], ["unimplemen", "ted!("], ["FIX", "ME"], ["XX", "X"], ["TO", "DO"]].map(|parts| parts.concat());
    let mut wrong = Vec::new();
    for (name, text) in rust_files()? {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none_of("code that is not there yet", &wrong)
}
