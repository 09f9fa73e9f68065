//! Whole-cluster tests of what an author does: a project is made, built, run by `dev`, and swapped as it changes, with its
//! data kept; and the README that comes with a project is true.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use telegraft_modules::{CHAT, KV};
use telegraft_tests::{
    command::telegraft,
    dev::{Dev, DevPorts},
    polling::PATIENCE,
};

/// For a build, with all dependencies where it is the first on this machine.
const BUILD: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_is_written_anew_is_swapped_on_every_host_and_its_data_are_kept() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let module = folder.path().join("module.wasm");
    let replace = |bytes: &[u8]| -> Result<()> {
        // As a careful build does; one that writes in place is waited for until it has settled.
        fs::write(folder.path().join("next"), bytes)?;
        Ok(fs::rename(folder.path().join("next"), &module)?)
    };
    replace(CHAT)?;
    let ports = DevPorts::reserve()?;
    let mut dev = Dev::start(&ports, &module, folder.path(), PATIENCE * 2).await?;
    ensure!(dev.introduction["module"]["name"] == "chat", "{}", dev.introduction);
    let alice = r#"{"name": "alice"}"#;
    dev.call(1, "chat.v1.Chat/CreateUser", alice).await?;

    replace(KV)?;
    let swapped = dev.event("swapped", PATIENCE).await?;
    ensure!(swapped["module"]["name"] == "kv", "{swapped}");
    dev.everywhere(swapped["module"]["digest"].as_str().context("no digest")?).await?;
    dev.call(2, "kv.v1.Kv/Put", r#"{"key": "a", "value": "YQ=="}"#).await?;

    // What is no module is refused, and the one before goes on; that it is back where it was is no swap.
    fs::write(&module, "no module")?;
    let failed = dev.event("failed", PATIENCE).await?;
    ensure!(failed["error"]["reason"] == "BAD_MODULE", "{failed}");
    dev.call(3, "kv.v1.Kv/Put", r#"{"key": "b", "value": "Yg=="}"#).await?;
    replace(KV)?;
    dev.event("same", PATIENCE).await?;

    replace(CHAT)?;
    let swapped = dev.event("swapped", PATIENCE).await?;
    ensure!(swapped["module"]["name"] == "chat", "{swapped}");
    let again = dev.ask(1, &["call", "chat.v1.Chat/CreateUser", alice]).await?;
    ensure!(again.stderr.contains("ALREADY_EXISTS"), "alice is gone: {again:?}");
    ensure!(dev.stop().await?.success());

    let dev = Dev::start(&ports, &module, folder.path(), PATIENCE * 2).await?;
    let again = dev.ask(1, &["call", "chat.v1.Chat/CreateUser", alice]).await?;
    ensure!(again.stderr.contains("ALREADY_EXISTS"), "alice is gone after a restart: {again:?}");
    ensure!(dev.stop().await?.success());
    Ok(())
}

/// A new Rust project at a place that is always the same, with the target folder of the run before: its dependencies are
/// compiled once for all runs. The lock keeps another run out.
async fn project(name: &str) -> Result<(File, PathBuf)> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("watched");
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
    let made = telegraft(&["--json", "module", "new", name, "--language", "rust", &project.to_string_lossy()]).await?;
    let made = made.json()?;
    ensure!(made["files"].as_array().is_some_and(|files| files.iter().any(|file| file == "src/lib.rs")), "{made}");
    if kept.exists() {
        fs::rename(&kept, project.join("target"))?;
    }
    Ok((lock, project))
}

/// Replaces a part of a file that must be there.
fn edit(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    ensure!(text.contains(from), "{} has no {from:?}", file.display());
    Ok(fs::write(file, text.replace(from, to))?)
}

/// The lines of a README that call the service.
fn calls_of_readme(project: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(project.join("README.md"))?;
    let calls: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("    telegraft call ")).map(str::to_owned).collect();
    ensure!(calls.len() >= 5, "the README calls too little: {calls:?}");
    Ok(calls)
}

/// A line as a shell takes it apart: words, where single quotes keep blanks.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 {
            1 => vec![part.to_owned()],
            _ => part.split_whitespace().map(str::to_owned).collect(),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_is_built_and_swapped_as_its_sources_change_and_its_data_are_kept() -> Result<()> {
    let (_lock, project) = project("ship-poll").await?;
    let folder = tempfile::tempdir()?;
    let (manifest, library) = (project.join("Cargo.toml"), project.join("src/lib.rs"));
    let ports = DevPorts::reserve()?;
    let mut dev = Dev::start(&ports, &project, folder.path(), BUILD).await?;
    let introduced = dev.introduction["module"].clone();
    ensure!(introduced["name"] == "ship-poll" && introduced["version"] == "0.1.0", "{introduced}");
    ensure!(project.join("ship-poll.wasm").is_file(), "the component is not in the project");

    // The README's calls, as they stand there, with the id that the first one gave.
    let mut poll = String::new();
    for (host, call) in (1..).zip(calls_of_readme(&project)?) {
        let call = words(&call.replace('…', &poll));
        let [method, request, options @ ..] = call.as_slice() else { anyhow::bail!("no call: {call:?}") };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let ran = dev.ask(host, &[&["call", method, request], &options[..]].concat()).await?;
        let reply = ran.json().with_context(|| format!("the README's {call:?}"))?["reply"].clone();
        if let Some(id) = reply["pollId"].as_str() {
            id.clone_into(&mut poll);
        }
    }
    let get = json!({ "pollId": poll }).to_string();
    let kept = dev.read(1, "poll.v1.Polls/GetPoll", &get).await?;
    ensure!(kept["closed"] == true && kept["options"][1]["votes"].to_string().contains('1'), "{kept}");

    // Other code and another version, the same schema.
    edit(&library, "the poll is closed\"", "nobody votes here any more\"")?;
    edit(&manifest, "version = \"0.1.0\"", "version = \"0.2.0\"")?;
    let mut swapped = dev.event("swapped", BUILD).await?;
    if swapped["module"]["version"] == "0.1.0" {
        // A slow disk can let a look fall between the two.
        swapped = dev.event("swapped", BUILD).await?;
    }
    ensure!(swapped["module"]["version"] == "0.2.0" && swapped["module"]["schema"] == 1, "{swapped}");
    dev.everywhere(swapped["module"]["digest"].as_str().context("no digest")?).await?;
    ensure!(dev.read(2, "poll.v1.Polls/GetPoll", &get).await? == kept, "the data are other ones");
    let vote = json!({ "pollId": poll, "voter": "eve" }).to_string();
    let refused = dev.ask(3, &["call", "poll.v1.Polls/Vote", &vote]).await?;
    ensure!(refused.stderr.contains("nobody votes here any more"), "{refused:?}");

    // Sources that do not compile: the compiler's words, and the module goes on.
    let before = fs::read(project.join("ship-poll.wasm"))?;
    edit(&library, "use std::collections::BTreeSet;", "use std::collections::BTreeSett;")?;
    let failed = dev.event("failed", BUILD).await?;
    let words = failed["error"]["output"].as_str().context("no output")?;
    ensure!(words.contains("BTreeSett") && words.contains("src/lib.rs"), "{failed}");
    ensure!(dev.read(1, "poll.v1.Polls/GetPoll", &get).await? == kept, "the old module does not go on");
    ensure!(fs::read(project.join("ship-poll.wasm"))? == before, "the component was written all the same");
    edit(&library, "use std::collections::BTreeSett;", "use std::collections::BTreeSet;")?;
    dev.event("same", BUILD).await?;

    // A risen schema runs the migration; a lowered one is refused, and the higher one goes on.
    let source = fs::read_to_string(&library)?;
    edit(
        &library,
        "STRICT, WITHOUT ROWID\",\n])];",
        "STRICT, WITHOUT ROWID\",\n]), Migration::new(&[\"UPDATE polls SET question = question || '!'\"])];",
    )?;
    let swapped = dev.event("swapped", BUILD).await?;
    ensure!(swapped["module"]["schema"] == 2, "{swapped}");
    let migrated = dev.read(1, "poll.v1.Polls/GetPoll", &get).await?;
    ensure!(migrated["question"] == format!("{}!", kept["question"].as_str().unwrap_or_default()), "{migrated}");
    fs::write(&library, source)?;
    let refused = dev.event("failed", BUILD).await?;
    ensure!(refused["error"]["message"].to_string().contains("data layout"), "{refused}");
    let listed = dev.ask(2, &["module", "list"]).await?.json()?;
    let active = listed["modules"].as_array().context("no modules")?.iter().find(|module| module["active"] == true);
    ensure!(active.is_some_and(|module| module["schema"] == 2), "{listed}");
    ensure!(dev.read(3, "poll.v1.Polls/GetPoll", &get).await? == migrated, "the data are other ones");
    ensure!(dev.stop().await?.success());

    // The other lines of the README; those that need no cluster.
    let built = telegraft(&["--json", "module", "build", &project.to_string_lossy()]).await?.json()?;
    let digest = built["digest"].clone();
    ensure!(digest.as_str().is_some_and(|digest| digest.len() == 64), "{built}");
    let file = project.join("ship-poll.wasm").to_string_lossy().into_owned();
    let inspected = telegraft(&["--json", "module", "inspect", &file]).await?.json()?;
    ensure!(inspected["digest"] == digest && inspected["version"] == "0.2.0", "{inspected}\n{built}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_of_an_author_are_named_with_exit_code_2() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::create_dir(at("taken"))?;
    fs::write(at("taken/file"), "mine")?;
    for (arguments, part) in [
        (vec!["module", "new", "My Poll", "--language", "rust", &at("a")], "lower-case"),
        (vec!["module", "new", "my-poll", "--language", "cobol", &at("a")], "cobol"),
        (vec!["module", "new", "my-poll", "--language", "rust", &at("taken")], "not empty"),
        (vec!["module", "build", &at("taken")], "telegraft module new"),
        (vec!["module", "build", &at("taken/file")], "is a file; name the folder of a project"),
        (vec!["module", "build", &at("nowhere")], "there is no folder"),
        (vec!["dev", "--module", &at("taken"), "--data", &at("data")], "telegraft module new"),
        (vec!["dev", "--module", &at("none.wasm"), "--watch", "--data", &at("data")], "none.wasm"),
    ] {
        let ran = telegraft(&arguments).await?;
        ensure!(ran.code == 2 && ran.stderr.contains(part), "{arguments:?}: {ran:?}");
    }
    ensure!(!folder.path().join("a").exists() && !folder.path().join("data").exists(), "something was made");

    // What is to be typed next can be pasted into a shell.
    let made = telegraft(&["module", "new", "my-poll", "--language", "python", &at("two words")]).await?;
    ensure!(made.code == 0 && made.stdout.contains(&format!("  cd '{}'\n", at("two words"))), "{made:?}");

    // For machines the same as an object.
    let ran = telegraft(&["--json", "module", "build", &at("taken")]).await?;
    let error: Value = serde_json::from_str(&ran.stderr).with_context(|| format!("{ran:?}"))?;
    ensure!(ran.code == 2 && error["error"]["message"].is_string(), "{error}");
    Ok(())
}
