//! Builds modules written in Rust: cargo makes a core module, small and without paths of the machine it is built on, and
//! `wit-component` makes a component of it. Nothing but the toolchain's Wasm target must be installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::{BuildError, Manifest, component, tool};

const TARGET: &str = "wasm32-unknown-unknown";

const GET_RUST: &str = "install Rust by rustup, https://rustup.rs";

/// Bytes of the module's shadow stack. Small, so that stack, data and a usual call's heap fit into one page of memory, which is
/// what a fresh instance pays for. Below the stack memory ends: an overflow is a trap, never a damaged heap.
const STACK_BYTES: u32 = 16 * 1024;

/// Builds the project's component into the file `out`; what cargo prints is told to `say`, a line at a time.
///
/// # Errors
///
/// A missing tool, what cargo says of the sources, or why what it built is no component.
pub fn build(project: &Path, _: &Manifest, out: &Path, say: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    require_target(project)?;
    let project = project.canonicalize().map_err(BuildError::at(project))?;
    let library = library_of(&project)?;
    let target_folder = project.join("target");
    let mut command = cargo(&project);
    command.args(["build", "--release", "--lib", "--target", TARGET, "--target-dir"]).arg(&target_folder);
    // Encoded, because a path may have a space in it. Only what is built for the Wasm target gets them.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(&project, &target_folder).join("\x1f"));
    tool::run(&mut command, "cargo", GET_RUST, say)?;

    let core = target_folder.join(TARGET).join("release").join(format!("{library}.wasm"));
    let bytes = fs::read(&core).map_err(BuildError::at(&core))?;
    fs::write(out, component::encode(&bytes, &core)?).map_err(BuildError::at(out))
}

fn cargo(project: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(project);
    // Where a cargo started us (`cargo run`, a test), its words about itself would rebuild the module for nothing.
    for (name, _) in env::vars_os() {
        let outer = |name: &str| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CFG_", "CARGO_FEATURE_"]
                .iter()
                .any(|start| name.starts_with(start))
        };
        if name.to_str().is_some_and(outer) {
            command.env_remove(name);
        }
    }
    command
}

/// Asks before cargo does: what it says of a missing target is long and easily misread.
fn require_target(project: &Path) -> Result<(), BuildError> {
    let missing = |tool: &str, problem: &str, advice: &str| BuildError::MissingTool {
        tool: tool.to_owned(),
        problem: problem.to_owned(),
        advice: advice.to_owned(),
    };
    let mut rustc = Command::new("rustc");
    rustc.current_dir(project).args(["--print", "target-libdir", "--target", TARGET]).stdin(Stdio::null());
    let printed =
        rustc.output().map_err(|error| missing("Rust", &format!("rustc cannot be run: {error}"), GET_RUST))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim());
    if !printed.status.success() || !folder.is_dir() {
        let advice = format!(
            "rustup target add {TARGET}\n  (where Rust is not from rustup: the distribution's package of its standard library for {TARGET})"
        );
        return Err(missing(&format!("Rust's target {TARGET}"), "it is not installed", &advice));
    }
    Ok(())
}

/// As `cargo metadata` prints it, as far as we read it.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

/// The name of the package's library as its file has it.
fn library_of(project: &Path) -> Result<String, BuildError> {
    let file = project.join("Cargo.toml");
    let wrong = |message: String| BuildError::Project { file: file.clone(), message };
    let mut command = cargo(project);
    command.args(["metadata", "--no-deps", "--format-version", "1"]).stdin(Stdio::null());
    let printed = command.output().map_err(|error| BuildError::MissingTool {
        tool: "cargo".to_owned(),
        problem: format!("it cannot be run: {error}"),
        advice: GET_RUST.to_owned(),
    })?;
    if !printed.status.success() {
        return Err(wrong(String::from_utf8_lossy(&printed.stderr).trim().to_owned()));
    }
    let metadata: Metadata =
        serde_json::from_slice(&printed.stdout).map_err(|error| wrong(format!("cargo metadata: {error}")))?;
    let package = metadata.packages.into_iter().find(|package| package.manifest_path == file);
    let targets = package.ok_or_else(|| wrong("there is no package in it".to_owned()))?.targets;
    let library = targets.into_iter().find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"));
    library.map(|library| library.name.replace('-', "_")).ok_or_else(|| {
        wrong(
            "its library is no cdylib, so no module comes of it; add\n  [lib]\n  crate-type = [\"cdylib\", \"rlib\"]"
                .to_owned(),
        )
    })
}

/// Paths of this machine in panic messages would give the same module another digest on every machine.
fn flags(project: &Path, target_folder: &Path) -> Vec<String> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![format!("-Clink-arg=-zstack-size={STACK_BYTES}")];
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    flags.extend(home.map(|home| remap(&home, "/cargo")));
    // Where two fit, the last counts.
    flags.extend([remap(project, "/module"), remap(target_folder, "/target")]);
    flags
}
