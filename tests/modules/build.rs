//! Builds the guest modules: a nested cargo makes core Wasm modules of them, and `wit-component` makes those components.
//! Nothing but the Wasm target of the toolchain must be installed for it.

use std::{
    env,
    fmt::Write as _,
    fs,
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
const SOURCES: [&str; 27] = [
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
    "tests/modules/hostile/Cargo.toml",
    "tests/modules/hostile/examples",
    "tests/modules/hostile/src",
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
    let packages: Vec<&str> = GUESTS.iter().flat_map(|(package, _)| ["-p", *package]).collect();
    compile(&root, &target_folder, "guest", &packages)?;
    let built = target_folder.join(TARGET);
    for (package, name) in GUESTS {
        let module = built.join("guest").join(format!("{}.wasm", package.replace('-', "_")));
        make_component(&module, &out.join(format!("{name}.wasm")))?;
    }
    compile(&root, &target_folder, "hostile", &["-p", "guest-hostile", "--examples"])?;
    make_hostile(&root, &built.join("hostile/examples"), &out)
}

/// Makes a component of each hostile module, and a list of them all as Rust source.
fn make_hostile(root: &Path, built: &Path, out: &Path) -> Result<()> {
    let folder = out.join("hostile");
    fs::create_dir_all(&folder)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("tests/modules/hostile/examples"))? {
        let file = entry?.path();
        names.extend(file.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    let mut list = String::from("&[\n");
    for name in &names {
        let component = folder.join(format!("{name}.wasm"));
        make_component(&built.join(format!("{name}.wasm")), &component)?;
        writeln!(list, "    ({name:?}, include_bytes!({component:?})),")?;
    }
    list.push(']');
    Ok(fs::write(out.join("hostile.rs"), list)?)
}

fn make_component(module: &Path, component: &Path) -> Result<()> {
    let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let made = ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(|encoder| encoder.encode())
        .with_context(|| format!("{} does not make a component of wit/machine.wit", module.display()))?;
    Ok(fs::write(component, made)?)
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

fn compile(root: &Path, target_folder: &Path, profile: &str, what: &[&str]) -> Result<()> {
    let cargo = env::var("CARGO")?;
    let mut command = Command::new(&cargo);
    command.current_dir(root).args(["build", "--profile", profile, "--target", TARGET, "--target-dir"]);
    command.arg(target_folder).args(what);
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
