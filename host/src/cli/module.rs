//! `module`: upload, activate, go back, list, and a look into a file.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use telegraft_proto::v1::{
    ActivateModule, ActivatedModule, ListModules, ModuleInfo, RollbackModule, RolledBack, UploadModule, UploadedModule,
};
use telegraft_sandbox::{Sandbox, SandboxOptions};
use tokio_stream::StreamExt;

use super::{
    author,
    connect::Connection,
    failure::{Failure, may_have_been_done, was_rejected},
    module_trial::{self, RehearseArgs},
    output::{Output, counted, grouped, number, short_digest},
};

/// Bytes of a file in one message: far below gRPC's usual 4 MiB.
pub const UPLOAD_PART_BYTES: usize = 256 * 1024;

/// An upload goes through the log in chunks and is compiled, which takes a minute for an interpreter; an activation waits until every
/// host has done so, and runs `init`.
const UPLOAD_TIMEOUT_MIN: Duration = Duration::from_secs(600);

/// `telegraft module`
#[derive(Subcommand, Debug)]
pub enum ModuleCommand {
    /// Make a project for a module of your own, in Rust, Python or JavaScript. Needs no cluster
    New(author::NewArgs),
    /// Build a project's component. Needs no cluster
    Build(author::BuildArgs),
    /// Upload a component; it is checked whole before anything is replicated
    Upload {
        /// The component
        file: PathBuf,
    },
    /// Switch the machine to a module, on every host at the same log index
    Activate(ActivateArgs),
    /// Go back to the module that was active before, on every host at the same log index
    #[command(after_help = "\
The data stay as they are where both modules have the same data layout. Where the layout rose, the present module turns it back \
if it offers that; otherwise the rollback is refused, and the refusal says how many commands the way back to the state kept at the \
activation would cost. --discard-since-activation takes that way, and no other: ask without it first.")]
    Rollback(RollbackArgs),
    /// Replay the log's newest commands on copies, as they were answered and by another module, and show what differs
    #[command(after_help = "\
The host that is asked rebuilds the state from before the commands out of the log, which takes as long as applying that takes; the \
machine goes on meanwhile, and nothing is kept. One copy goes through the log as it was, also where the module changed; on the other \
FILE is activated before the first command, and goes on to the end. Where that state is too old for FILE to be activated on, the \
replay begins later, and the report says from where and why. Commands from before the machine's first module do not count.

Exit code 1: the activation would be refused, a command is answered differently, or there was none to replay.")]
    Rehearse(RehearseArgs),
    /// What has been uploaded, and what is active
    List,
    /// Test a component in a simulated cluster: calls and expectations from a file, while leaders, links and replies are
    /// lost; many seeds, each a run of its own. Needs no cluster
    Test(super::module_test::TestArgs),
    /// Look into a component: name, world, imports, service. Needs no cluster
    Inspect {
        /// The component
        file: PathBuf,
    },
}

/// `telegraft module activate`
#[derive(Args, Debug)]
pub struct ActivateArgs {
    /// Digest of an uploaded module (at least 8 digits), or a file, which is uploaded first where needed
    #[arg(value_name = "DIGEST|FILE")]
    module: String,
    /// Keep one guest instance for many entries; only for modules whose author vouches that they keep nothing in memory
    #[arg(long)]
    reuse: bool,
    /// Change nothing: show what the activation would do, tried on a copy of the live state. Takes a file
    #[arg(long)]
    dry_run: bool,
}

/// `telegraft module rollback`
#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// Take the state kept at the activation, and lose what was written since: for data that cannot be turned back
    #[arg(long)]
    discard_since_activation: bool,
    /// Digest of the module to leave (at least 8 digits): refused where another is active, so that a rollback whose outcome is
    /// unknown can be repeated
    #[arg(long, value_name = "DIGEST")]
    from: Option<String>,
    /// Do not ask before something is lost; needed where nobody can be asked (no terminal, or --json)
    #[arg(long, short = 'y')]
    yes: bool,
}

impl RollbackArgs {
    /// What loses something needs a word: of who sits at a terminal, or beforehand.
    fn check(&self, output: Output) -> Result<(), Failure> {
        let can_be_asked = !output.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !self.discard_since_activation || self.yes || can_be_asked {
            return Ok(());
        }
        Err(Failure::usage(
            "--discard-since-activation loses what commands have written since the activation, and nobody can be asked here \
             whether that is wanted (no terminal, or --json): say so with --yes. Without --discard-since-activation nothing is \
             lost; where there is no other way, the refusal says how many commands it would cost",
        ))
    }
}

/// Runs a `module` command.
pub async fn run(hosts: &[String], timeout: Duration, command: &ModuleCommand, output: Output) -> Result<(), Failure> {
    match command {
        ModuleCommand::New(args) => author::new(args, output),
        ModuleCommand::Build(args) => author::build(args, output),
        ModuleCommand::Inspect { file } => inspect(file, output),
        ModuleCommand::Test(args) => super::module_test::run(args, output).await,
        ModuleCommand::Upload { file } => {
            let bytes = read(file)?;
            let connection = Connection::to_any(hosts, timeout).await?;
            let uploaded = upload(&connection, bytes, !output.json).await?;
            print_uploaded(&uploaded, output)
        }
        ModuleCommand::Activate(args) => {
            let wanted = Wanted::new(&args.module)?;
            if args.dry_run {
                let Wanted::File(bytes) = wanted else {
                    return Err(Failure::usage("--dry-run takes a module's file, not a digest"));
                };
                let connection = Connection::to_any(hosts, timeout).await?;
                return module_trial::dry_run(&connection, bytes, args.reuse, output).await;
            }
            let connection = Connection::to_any(hosts, timeout).await?;
            let digest = match wanted {
                Wanted::Digest(digest) => digest,
                Wanted::File(bytes) => upload(&connection, bytes, !output.json).await?.digest,
            };
            let activated = activate(&connection, &digest, args.reuse).await?;
            print_activated(&activated, output)
        }
        ModuleCommand::Rollback(args) => {
            args.check(output)?;
            let connection = Connection::to_any(hosts, timeout).await?;
            let before = list(&connection).await?;
            print_rolled_back(&before, &rollback(&connection, &before, args).await?, output)
        }
        ModuleCommand::Rehearse(args) => {
            let bytes = read(&args.file)?;
            let connection = Connection::to_any(hosts, timeout).await?;
            module_trial::rehearse(&connection, bytes, args, output).await
        }
        ModuleCommand::List => {
            let connection = Connection::to_any(hosts, timeout).await?;
            print_list(&list(&connection).await?, output)
        }
    }
}

/// What `activate` was given.
#[derive(Debug)]
enum Wanted {
    Digest(String),
    File(Bytes),
}

impl Wanted {
    /// A file where there is one of that name, else a digest.
    fn new(text: &str) -> Result<Self, Failure> {
        if Path::new(text).is_file() {
            return read(Path::new(text)).map(Self::File);
        }
        if (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Digest(text.to_lowercase()));
        }
        Err(Failure::usage(format!(
            "{text} is neither a file nor 8 to 64 digits of a digest (`telegraft module list` shows them)"
        )))
    }
}

/// Reads a component's file.
///
/// # Errors
///
/// Names the file and says why.
pub fn read(file: &Path) -> Result<Bytes, Failure> {
    std::fs::read(file)
        .map(Bytes::from)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", file.display())))
}

/// SHA-256 in hexadecimal, as modules are named.
pub fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Uploads a component; does nothing where the cluster has it. With `bar`, shows how far it is on a terminal's stderr.
///
/// # Errors
///
/// The cluster's refusal.
pub async fn upload(connection: &Connection, bytes: Bytes, bar: bool) -> Result<UploadedModule, Failure> {
    let bar = if bar { progress(bytes.len() as u64) } else { ProgressBar::hidden() };
    let seen = bar.clone();
    let mut rest = bytes;
    let parts = std::iter::from_fn(move || {
        let part = rest.split_to(rest.len().min(UPLOAD_PART_BYTES));
        (!part.is_empty()).then_some(part)
    });
    let parts = tokio_stream::iter(parts).map(move |data| {
        seen.inc(data.len() as u64);
        UploadModule { machine: String::new(), data }
    });
    let request = connection.request_within(parts, connection.timeout.max(UPLOAD_TIMEOUT_MIN));
    let result = connection.modules().upload(request).await;
    bar.finish_and_clear();
    Ok(result.map_err(|status| Failure::of_status("the upload was refused", &status))?.into_inner())
}

fn progress(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template("uploading {wide_bar} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    bar
}

/// Switches the machine to a module.
///
/// # Errors
///
/// The cluster's refusal.
pub async fn activate(connection: &Connection, digest: &str, reuse: bool) -> Result<ActivatedModule, Failure> {
    let message = ActivateModule { machine: String::new(), digest: digest.to_owned(), reuse };
    let request = connection.request_within(message, connection.timeout.max(UPLOAD_TIMEOUT_MIN));
    let result = connection.modules().activate(request).await;
    Ok(result.map_err(|status| Failure::of_status("the activation was refused", &status))?.into_inner())
}

/// Goes back to the module before, by the way that was asked for and no other.
async fn rollback(connection: &Connection, modules: &[ModuleInfo], args: &RollbackArgs) -> Result<RolledBack, Failure> {
    let discard_since_activation = args.discard_since_activation;
    if discard_since_activation && !args.yes {
        let present = modules.iter().find(|module| module.active);
        let name =
            present.map_or("the present module".to_owned(), |module| format!("{} {}", module.name, module.version));
        confirm(&format!(
            "The data will be as they were when {name} took over; what commands have written since is lost. (Without \
             --discard-since-activation nothing can be lost: where there is no other way, the refusal says how many they are.)"
        ))?;
    }
    let from_digest = match (&args.from, modules.iter().find(|module| module.active)) {
        (Some(digest), _) => digest.clone(),
        (None, active) => active.map(|module| module.digest.clone()).unwrap_or_default(),
    };
    let message = RollbackModule { machine: String::new(), discard_since_activation, from_digest: from_digest.clone() };
    let request = connection.request_within(message, connection.timeout.max(UPLOAD_TIMEOUT_MIN));
    connection.modules().rollback(request).await.map(tonic::Response::into_inner).map_err(|status| {
        let mut failure = Failure::of_status("the rollback was refused", &status);
        if may_have_been_done(&status) && !from_digest.is_empty() {
            failure.message.push_str(&format!(
                "\n  it may have been done or not: repeat it with --from {from_digest:.12}, which goes back no further"
            ));
        }
        if discard_since_activation && was_rejected(&status) {
            failure.message.push_str(
                "\n  what to do: where the module before can use the data as they are, or the present one turns them back, \
                 roll back without --discard-since-activation",
            );
        }
        failure
    })
}

/// Asks on the terminal whether to go on.
fn confirm(what: &str) -> Result<(), Failure> {
    let (input, mut prompt) = (std::io::stdin(), std::io::stderr());
    let _ = write!(prompt, "{what}\nGo back, and lose that? [y/N] ");
    let _ = prompt.flush();
    let mut answer = String::new();
    let _ = input.lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::refused("nothing was changed"))
}

/// What has been uploaded.
///
/// # Errors
///
/// The cluster's refusal.
pub async fn list(connection: &Connection) -> Result<Vec<ModuleInfo>, Failure> {
    let request = connection.request(ListModules { machine: String::new() });
    let result = connection.modules().list(request).await;
    Ok(result.map_err(|status| Failure::of_status("listing the modules", &status))?.into_inner().modules)
}

/// A module as JSON.
pub fn info_json(info: &ModuleInfo) -> Value {
    json!({
        "digest": info.digest, "name": info.name, "version": info.version, "schema": info.schema, "size": info.size,
        "active": info.active, "reuse": info.reuse,
        "uploaded_index": info.uploaded_index, "activated_index": info.activated_index, "engine": info.engine,
    })
}

fn print_uploaded(uploaded: &UploadedModule, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.json(&json!({
            "digest": uploaded.digest, "size": uploaded.size, "name": uploaded.name, "version": uploaded.version,
            "schema": uploaded.schema, "existed": uploaded.existed, "index": uploaded.index,
        }));
    }
    let what = if uploaded.existed { "was there already" } else { "uploaded" };
    output.line(&format!("{} {} {what} ({} bytes)", uploaded.name, uploaded.version, grouped(uploaded.size)));
    output.line(&format!("digest {}", uploaded.digest));
    output.line(&format!("activate it with: telegraft module activate {}", short_digest(&uploaded.digest)));
    Ok(())
}

fn print_activated(activated: &ActivatedModule, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.json(&json!({ "index": activated.index, "module": activated.module.as_ref().map(info_json) }));
    }
    let name =
        activated.module.as_ref().map(|module| format!("{} {}", module.name, module.version)).unwrap_or_default();
    output.line(&format!("{name} is active since log index {}", activated.index));
    Ok(())
}

fn print_rolled_back(before: &[ModuleInfo], done: &RolledBack, output: Output) -> Result<(), Failure> {
    let from = before.iter().find(|module| module.digest == done.from_digest);
    if output.json {
        return output.json(&json!({
            "index": done.index, "module": done.module.as_ref().map(info_json), "from_digest": done.from_digest,
            "from": from.map(info_json), "data": done.data, "commands_lost": done.commands_lost,
        }));
    }
    let name = |module: Option<&ModuleInfo>| {
        module.map_or_else(
            || "a module".to_owned(),
            |module| format!("{} {} ({})", module.name, module.version, short_digest(&module.digest)),
        )
    };
    output.line(&format!("from {} to {}, at log index {}", name(from), name(done.module.as_ref()), done.index));
    output.line(&match done.data.as_str() {
        "unchanged" => "the data stayed as they were".to_owned(),
        "downgraded" => "the data were turned back into the older layout; nothing was lost".to_owned(),
        "kept-state" => format!(
            "the data are those kept at the activation; the effects of {} since then are lost",
            counted(done.commands_lost, "command")
        ),
        other => format!("the data: {other}; commands lost: {}", grouped(done.commands_lost)),
    });
    Ok(())
}

fn print_list(modules: &[ModuleInfo], output: Output) -> Result<(), Failure> {
    if output.json {
        return output.json(&json!({ "modules": modules.iter().map(info_json).collect::<Vec<_>>() }));
    }
    if modules.is_empty() {
        output.line("no module has been uploaded; upload one with: telegraft module upload FILE");
        return Ok(());
    }
    let mut table =
        output.table(&["digest", "name", "version", "schema", "bytes", "uploaded", "activated", "engine", "state"]);
    for module in modules {
        let state = match (module.active, module.reuse) {
            (true, true) => output.good("active, reuse"),
            (true, false) => output.good("active"),
            (false, _) => "".into(),
        };
        let activated =
            if module.activated_index == 0 { "never".to_owned() } else { module.activated_index.to_string() };
        table.add_row(vec![
            short_digest(&module.digest).into(),
            module.name.as_str().into(),
            module.version.as_str().into(),
            number(module.schema),
            number(grouped(module.size)),
            number(module.uploaded_index),
            number(activated),
            module.engine.as_str().into(),
            state,
        ]);
    }
    output.print_table(&table);
    Ok(())
}

/// The look into a file, by the very checks that an upload passes.
fn inspect(file: &Path, output: Output) -> Result<(), Failure> {
    let bytes = read(file)?;
    // Nothing compiled here is worth keeping.
    let cache =
        tempfile::tempdir().map_err(|error| Failure::refused(format!("no folder for the compiled module: {error}")))?;
    let sandbox = Sandbox::new(SandboxOptions::new(cache.path()))
        .map_err(|error| Failure::refused(format!("the sandbox cannot start: {error}")))?;
    let seen = sandbox.inspect(&bytes).map_err(|error| Failure::refused(format!("{}: {error}", file.display())))?;
    if output.json {
        let methods: Vec<Value> = seen
            .methods
            .iter()
            .map(|method| json!({ "name": method.name, "input": method.input, "output": method.output, "query": method.query }))
            .collect();
        return output.json(&json!({
            "digest": seen.digest.to_string(), "size": seen.size, "name": seen.name, "version": seen.version, "schema": seen.schema,
            "world": seen.world, "imports": seen.imports, "exports": seen.exports, "methods": methods,
        }));
    }
    let names = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    for (label, value) in [
        ("name", format!("{} {}", seen.name, seen.version)),
        ("schema", seen.schema.to_string()),
        ("digest", seen.digest.to_string()),
        ("size", format!("{} bytes", grouped(seen.size))),
        ("world", seen.world.clone()),
        ("imports", names(&seen.imports)),
        ("exports", names(&seen.exports)),
    ] {
        output.line(&format!("{label:<8} {value}"));
    }
    if seen.methods.is_empty() {
        output.line("methods  none declared: it can be called with --raw alone");
        return Ok(());
    }
    output.line("");
    let mut table = output.table(&["method", "request", "reply", "kind"]);
    for method in &seen.methods {
        let kind = if method.query { "query" } else { "request" };
        table.add_row(vec![method.name.as_str(), method.input.as_str(), method.output.as_str(), kind]);
    }
    output.print_table(&table);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_named_as_the_standard_has_it() {
        // FIPS 180-4's example "abc".
        assert_eq!(digest_of(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn activate_takes_a_file_or_a_digest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"bytes").unwrap();
        assert!(matches!(Wanted::new(file.path().to_str().unwrap()), Ok(Wanted::File(bytes)) if bytes == "bytes"));
        assert!(matches!(Wanted::new("BA7816BF"), Ok(Wanted::Digest(digest)) if digest == "ba7816bf"));
        for text in ["ba7816b", "nowhere.wasm", "", "ba7816bx"] {
            assert_eq!(Wanted::new(text).unwrap_err().kind.exit_code(), 2, "{text}");
        }
    }
}
