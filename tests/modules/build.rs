//! Builds the guest modules: a nested cargo makes core Wasm modules of them, and `wit-component` makes those components.
//! Nothing but the Wasm target of the toolchain must be installed for it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";

/// Package of a guest, and the name of its component.
const GUESTS: [(&str, &str); 4] =
    [("guest-chat", "chat"), ("guest-greetings", "greetings"), ("guest-kv", "kv"), ("guest-poll", "poll")];

/// What the guests are made of, from the root of the workspace.
const SOURCES: [&str; 24] = [
    "Cargo.lock",
    "Cargo.toml",
    "guest/Cargo.toml",
    "guest/README.md",
    "guest/build/Cargo.toml",
    "guest/build/src",
    "guest/src",
    "guest-chat/Cargo.toml",
    "guest-chat/build.rs",
    "guest-chat/src",
    "proto",
    "rust-toolchain.toml",
    "tests/modules/greetings/Cargo.toml",
    "tests/modules/greetings/build.rs",
    "tests/modules/greetings/proto",
    "tests/modules/greetings/src",
    "tests/modules/kv/Cargo.toml",
    "tests/modules/kv/build.rs",
    "tests/modules/kv/src",
    "tests/modules/poll/Cargo.toml",
    "tests/modules/poll/build.rs",
    "tests/modules/poll/proto",
    "tests/modules/poll/src",
    "wit",
];

/// Bytes of a guest's shadow stack. Small, so that stack, data and a usual call's heap fit into one page of memory, which is
/// what a fresh instance pays for. The frames of the deepest path of a guest (a panic's message, formatted) add up to about
/// one kilobyte. Below the stack memory ends: an overflow is a trap.
const STACK_BYTES: u32 = 16 * 1024;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES {
        let source = root.join(source);
        ensure!(source.exists(), "{} is missing; SOURCES in tests/modules/build.rs names it", source.display());
        println!("cargo::rerun-if-changed={}", source.display());
    }
    require_target()?;

    let target_folder = guests_target_folder(&out);
    compile(&root, &target_folder)?;
    for (package, name) in GUESTS {
        let module = target_folder.join(TARGET).join("guest").join(format!("{}.wasm", package.replace('-', "_")));
        let module = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        let component = ComponentEncoder::default()
            .validate(true)
            .module(&module)
            .and_then(|encoder| encoder.encode())
            .with_context(|| format!("{package} does not make a component of wit/machine.wit"))?;
        fs::write(out.join(format!("{name}.wasm")), component)?;
    }
    Ok(())
}

/// Asks before cargo does: what it says of a missing target is long and easily misread.
fn require_target() -> Result<()> {
    let rustc = env::var("RUSTC")?;
    let printed = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .with_context(|| format!("cannot run {rustc}"))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim());
    if !printed.status.success() || !folder.is_dir() {
        bail!("the guests need Rust's target {TARGET}: run `rustup target add {TARGET}` (make setup does)");
    }
    Ok(())
}

/// A folder of the guests' own inside the outer target folder: it outlives this crate's fingerprint, and the nested cargo
/// does not wait for a lock that the outer one holds.
fn guests_target_folder(out: &Path) -> PathBuf {
    // Cargo marks the root of a target folder so; one that somebody made by hand before has no mark.
    out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).unwrap_or(out).join("guests")
}

fn compile(root: &Path, target_folder: &Path) -> Result<()> {
    let cargo = env::var("CARGO")?;
    let mut command = Command::new(&cargo);
    command.current_dir(root).args(["build", "--profile", "guest", "--target", TARGET, "--target-dir"]);
    command.arg(target_folder);
    for (package, _) in GUESTS {
        command.args(["-p", package]);
    }
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_build) {
            command.env_remove(name);
        }
    }
    // Paths of this machine in panic messages would give the same module another digest on every machine.
    let home = env::var("CARGO_HOME").ok().or_else(|| Some(format!("{}/.cargo", env::var("HOME").ok()?)));
    let mut flags = vec![format!("-Clink-arg=-zstack-size={STACK_BYTES}")];
    flags.extend(home.map(|home| remap(Path::new(&home), "/cargo")));
    // Where two fit, the last counts: a target folder is often inside the workspace.
    flags.extend([remap(root, "/telegraft"), remap(target_folder, "/target")]);
    // Encoded, because a path may have a space in it. Only what is built for the Wasm target gets them.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));

    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {cargo}"))?;
    if !output.status.success() {
        bail!(
            "building the guests failed ({}, target folder {}):\n{}",
            output.status,
            target_folder.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// Variables that speak of the outer build (its flags, wrappers such as clippy's driver, features, profile), and would
/// change the guests with it or rebuild them for nothing. The jobserver stays: it keeps both builds to one number of jobs.
fn belongs_to_outer_build(name: &str) -> bool {
    const EXACT: [&str; 14] = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "DEBUG",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "TARGET",
    ];
    const PREFIXES: [&str; 9] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_",
        "DEP_",
        "RUSTC_",
    ];
    EXACT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
