//! Whole-cluster tests of the command line: what it prints for machines, how it fails, and how a host treats a bad
//! configuration.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use telegraft_modules::{CHAT, KV};
use telegraft_tests::{cluster::Cluster, command::telegraft};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_in_a_configuration_is_named_with_its_key_and_the_exit_code_is_2() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("host.toml");
    let file_name = file.to_string_lossy().into_owned();
    fs::write(
        &file,
        "cluster = \"two words\"\nhost_id = 9\nlog = \"paper\"\nclient_listen = \"nowhere\"\ncolour = \"red\"\n\
         [[hosts]]\nid = 1\nclient = \"127.0.0.1:7400\"\npeer = \"127.0.0.1\"\n\
         [raft]\ntick = 10\nelection_min = \"20ms\"\n[requests]\npending_max = \"many\"\n[telemetry]\nlog_level = \"loud\"\n",
    )?;
    let ran = telegraft(&["serve", "--config", &file_name]).await?;
    ensure!(ran.code == 2, "{ran:?}");
    let keys = [
        "cluster",
        "log",
        "client_listen",
        "colour",
        "hosts",
        "raft.tick",
        "requests.pending_max",
        "telemetry.log_level",
    ];
    for key in keys {
        ensure!(ran.stderr.contains(key), "{key} is not named:\n{}", ran.stderr);
    }
    ensure!(!ran.stderr.contains("panicked"), "{}", ran.stderr);

    for (what, text) in [("not TOML", "cluster = "), ("a mistyped key", "[raft]\nheart_beat = \"50ms\"\n")] {
        fs::write(&file, text)?;
        let ran = telegraft(&["serve", "--config", &file_name]).await?;
        ensure!(ran.code == 2 && !ran.stderr.is_empty(), "{what}: {ran:?}");
    }
    let ran = telegraft(&["serve", "--config", "/no/such/file.toml"]).await?;
    ensure!(ran.code == 2 && ran.stderr.contains("/no/such/file.toml"), "{ran:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_command_line_is_an_object_for_machines_and_help_is_help() -> Result<()> {
    for (arguments, part) in [
        (&["--json", "no-such-command"][..], "no-such-command"),
        (&["module", "rehearse", "m.wasm", "--last", "0", "--json"], "--last <N>"),
        (&["--json", "machine"], "Usage: telegraft machine"),
        // Nobody can be asked here, with JSON or without.
        (&["module", "rollback", "--discard-since-activation", "--json"], "--yes"),
    ] {
        let ran = telegraft(arguments).await?;
        let error: Value = serde_json::from_str(&ran.stderr).with_context(|| format!("no JSON: {ran:?}"))?;
        let message = error["error"]["message"].as_str().context("no message")?;
        ensure!(ran.code == 2 && message.contains(part) && ran.stdout.is_empty(), "{arguments:?}: {ran:?}");
    }
    let plain = telegraft(&["no-such-command"]).await?;
    ensure!(plain.code == 2 && plain.stderr.starts_with("error: "), "{plain:?}");
    let unasked = telegraft(&["module", "rollback", "--discard-since-activation"]).await?;
    ensure!(unasked.code == 2 && unasked.stderr.contains("say so with --yes"), "{unasked:?}");
    let help = telegraft(&["--json", "module", "rehearse", "--help"]).await?;
    ensure!(help.code == 0 && help.stderr.is_empty(), "{help:?}");
    ensure!(help.stdout.contains("whichever modules were active"), "{help:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_prints_the_effective_settings() -> Result<()> {
    let ran = telegraft(&["config"]).await?;
    ensure!(ran.code == 0, "{ran:?}");
    for part in ["election_min", "150ms", "heartbeat", "50ms", "7400"] {
        ensure!(ran.stdout.contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    ensure!(ran.stdout.contains("read = \"read-index\""), "{}", ran.stdout);
    let lease = telegraft(&["config", "--raft-read", "lease"]).await?;
    ensure!(lease.code == 0 && lease.stdout.contains("read = \"lease\""), "{lease:?}");
    let unsound = telegraft(&["config", "--raft-read", "lease", "--raft-check-quorum", "false"]).await?;
    ensure!(unsound.code == 2 && unsound.stderr.contains("raft.read: lease needs raft.check_quorum"), "{unsound:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_listen_says_where_and_ends() -> Result<()> {
    let cluster = Cluster::start().await?;
    let taken = cluster.client(1)?.address().to_string();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("host.toml");
    let data = folder.path().join("data");
    fs::write(
        &file,
        format!(
            "host_id = 1\ndata_dir = {data:?}\nclient_listen = {taken:?}\npeer_listen = \"127.0.0.1:0\"\n\
             http_listen = \"127.0.0.1:0\"\n[[hosts]]\nid = 1\nclient = {taken:?}\npeer = \"127.0.0.1:1\"\n"
        ),
    )?;
    let ran = telegraft(&["serve", "--config", &file.to_string_lossy()]).await?;
    ensure!(ran.code != 0 && (ran.stderr + &ran.stdout).contains(&taken), "the address is not named");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_run_by_hand_from_upload_to_message() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let (chat_file, kv_file) = (cluster.folder()?.join("chat.wasm"), cluster.folder()?.join("kv.wasm"));
    fs::write(&chat_file, CHAT)?;
    fs::write(&kv_file, KV)?;
    let (chat_file, kv_file) = (chat_file.to_string_lossy().into_owned(), kv_file.to_string_lossy().into_owned());
    let first = cluster.client(1)?.address().to_string();
    let second = cluster.client(2)?.address().to_string();

    let inspected = telegraft(&["--json", "module", "inspect", &chat_file]).await?;
    ensure!(inspected.json()?.to_string().contains("SendMessage"), "{inspected:?}");

    let uploaded = telegraft(&["--host", &second, "--json", "module", "upload", &chat_file]).await?.json()?;
    let digest = uploaded["digest"].as_str().context("no digest")?.to_owned();
    let activated = telegraft(&["--host", &first, "--json", "module", "activate", &digest]).await?.json()?;
    ensure!(activated["module"]["digest"] == digest.as_str(), "{activated}");
    cluster.wait_for_module(&digest).await?;
    let listed = telegraft(&["--host", &second, "--json", "module", "list"]).await?.json()?;
    ensure!(listed["modules"][0]["digest"] == digest.as_str(), "{listed}");
    ensure!(listed["modules"][0]["active"] == true, "{listed}");

    let status = telegraft(&["--host", &second, "--json", "status", "--digest"]).await?.json()?;
    ensure!(status["ok"] == true, "{status}");
    let hosts = status["hosts"].as_array().context("no hosts")?;
    ensure!(hosts.len() == 3, "one address must lead to all hosts: {status}");
    let leaders = hosts.iter().filter(|host| host["machines"][0]["role"] == "leader").count();
    ensure!(leaders == 1, "{status}");

    let call = async |address: &str, method: &str, json: &str| {
        telegraft(&["--host", address, "--json", "call", method, json]).await
    };
    let user = call(&first, "chat.v1.Chat/CreateUser", r#"{"name": "alice"}"#).await?.json()?;
    let user = user["reply"]["userId"].as_str().with_context(|| format!("no user id in {user}"))?.to_owned();
    let chat = call(&second, "chat.v1.Chat/CreateChat", &format!(r#"{{"creatorId": "{user}", "title": "t"}}"#))
        .await?
        .json()?;
    let chat = chat["reply"]["chatId"].as_str().with_context(|| format!("no chat id in {chat}"))?.to_owned();
    let message = format!(r#"{{"userId": "{user}", "chatId": "{chat}", "content": "typed by hand"}}"#);
    let sent = call(&first, "SendMessage", &message).await?.json()?;
    let index = sent["index"].as_u64().with_context(|| format!("no index in {sent}"))?;
    let at_least = format!("at-least:{index}");
    let question = format!(r#"{{"userId": "{user}"}}"#);
    let read = telegraft(&[
        "--host",
        &second,
        "--json",
        "query",
        "--consistency",
        &at_least,
        "chat.v1.Chat/GetMessages",
        &question,
    ])
    .await?;
    ensure!(read.json()?["reply"]["messages"][0]["content"] == "typed by hand", "{read:?}");
    for command in ["query", "call"] {
        let level = ["--consistency", "linearizable"];
        let read = [&["--host", &second, "--json", command][..], &level, &["chat.v1.Chat/GetMessages", &question]];
        let read = telegraft(&read.concat()).await?;
        ensure!(read.json()?["reply"]["messages"][0]["content"] == "typed by hand", "{read:?}");
    }

    // For people there are tables; they name the hosts.
    let table = telegraft(&["--host", &first, "status"]).await?;
    ensure!(table.code == 0 && table.stdout.contains(&second) && table.stdout.contains("leader"), "{table:?}");

    // What is refused ends with 1 and says why; what is mistyped with 2; a host that is not there with 3.
    let refused = call(&first, "chat.v1.Chat/CreateUser", r#"{"name": "alice"}"#).await?;
    ensure!(refused.code == 1 && refused.stderr.contains("ALREADY_EXISTS"), "{refused:?}");
    let mistyped = call(&first, "chat.v1.Chat/CreateUser", r#"{"nam": "alice"}"#).await?;
    ensure!(mistyped.code == 2 && !mistyped.stderr.is_empty(), "{mistyped:?}");
    let unknown = telegraft(&["no-such-command"]).await?;
    ensure!(unknown.code == 2, "{unknown:?}");
    let text = cluster.folder()?.join("text.wasm");
    fs::write(&text, "no module")?;
    let bad = telegraft(&["--host", &first, "module", "upload", &text.to_string_lossy()]).await?;
    ensure!(bad.code != 0 && !bad.stderr.is_empty(), "{bad:?}");

    // A file may be activated as it is.
    let swapped = telegraft(&["--host", &second, "--json", "module", "activate", &kv_file]).await?.json()?;
    cluster.wait_for_module(swapped["module"]["digest"].as_str().unwrap_or_default()).await?;
    let put = call(&first, "kv.v1.Kv/Put", r#"{"key": "a", "value": "aGVsbG8="}"#).await?.json()?;
    ensure!(put["reply"]["version"] == "1" || put["reply"]["version"] == 1, "{put}");

    let gone = cluster.client(3)?.address().to_string();
    cluster.kill(3)?;
    let unreachable = telegraft(&["--host", &gone, "--timeout", "2s", "module", "list"]).await?;
    ensure!(unreachable.code == 3, "{unreachable:?}");
    let partly = telegraft(&["--host", &first, "--json", "status"]).await?;
    ensure!(
        partly.code == 1 && partly.stdout.contains("\"ok\""),
        "a cluster with a host missing is not well: {partly:?}"
    );
    cluster.passed()
}
