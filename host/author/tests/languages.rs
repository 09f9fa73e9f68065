//! The poll in Rust, Python and JavaScript: the same calls, in real components on a real machine, must have the same
//! answers to the byte and leave the same rows. Scaffolds and builds the projects as their authors do, so it needs python3 with venv, node
//! and npm, and their packages from the network; what is missing fails the test by its name.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions};
use serde::Deserialize;
use telegraft_author::{Language, Scaffolded, build, new};
use telegraft_node::ports::{Code, Machine, Outcome, Queries};
use telegraft_proto::internal::{Activate, Call, Command as Entered, ModuleChunk, command::Body};
use telegraft_raft::{Entry, EntryKind};
use telegraft_sandbox::{Digest, MachineReader, Sandbox, SandboxOptions, SqliteMachine, open};

const SERVICE: &str = "poll.v1.Polls";

/// The time of the machine's entry 0, microseconds since the Unix epoch.
const EPOCH_US: u64 = 1_700_000_000_000_000;

/// `poll.toml`.
#[derive(Deserialize)]
struct Table {
    call: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    method: String,
    #[serde(default)]
    request: Option<String>,
    #[serde(default)]
    bytes: Option<String>,
    #[serde(default)]
    reply: Option<String>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    save: Option<String>,
    #[serde(default, rename = "as")]
    sent_as: Option<String>,
}

/// A machine with one module, alone in its folder.
struct Rig {
    machine: SqliteMachine,
    reader: MachineReader,
    pool: DescriptorPool,
    folder: tempfile::TempDir,
}

impl Rig {
    /// Uploads the module and activates it, with the budgets that hold where none are named.
    fn new(module: &[u8]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let sandbox = Sandbox::new(SandboxOptions::new(folder.path().join("cache")))?;
        let inspection = sandbox.inspect(module)?;
        ensure!((inspection.name.as_str(), inspection.version.as_str(), inspection.schema) == ("poll", "0.1.0", 1));
        let pool = DescriptorPool::decode(inspection.service.as_slice())?;
        let (machine, reader) = open(sandbox, &folder.path().join("machine"))?;
        let mut rig = Self { machine, reader, pool, folder };
        let digest = Bytes::copy_from_slice(&Digest::of(module).0);
        let part = ModuleChunk {
            digest: digest.clone(),
            size: module.len() as u64,
            offset: 0,
            data: Bytes::copy_from_slice(module),
            name: inspection.name,
            version: inspection.version,
            schema: inspection.schema,
        };
        for body in [Body::ModuleChunk(part), Body::Activate(Activate { digest, ..Activate::default() })] {
            let outcome = rig.enter(body)?;
            ensure!(outcome.is_ok(), "{outcome:?}");
        }
        Ok(rig)
    }

    /// Applies an entry whose time and entropy follow from its index.
    fn enter(&mut self, body: Body) -> Result<Outcome> {
        let index = self.machine.applied_index() + 1;
        let command = Entered {
            time_us: EPOCH_US + index,
            entropy_high: index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            entropy_low: index,
            body: Some(body),
            ..Entered::default()
        };
        let entry = Entry { term: 1, index, kind: EntryKind::Normal, data: Bytes::from(command.encode_to_vec()) };
        self.machine.apply(&[entry])?.pop().context("no outcome")
    }

    fn ask(&mut self, method: &str, is_query: bool, payload: Vec<u8>) -> Result<Outcome> {
        let method = format!("{SERVICE}/{method}");
        if is_query {
            return Ok(self.reader.query(&method, &payload)?.1);
        }
        self.enter(Body::Call(Call { method, payload: payload.into() }))
    }

    fn method(&self, name: &str) -> Option<MethodDescriptor> {
        self.pool.get_service_by_name(SERVICE)?.methods().find(|method| method.name() == name)
    }

    /// Every row of the module's own tables.
    fn rows(&self) -> Result<Vec<String>> {
        let database = rusqlite::Connection::open(self.folder.path().join("machine").join("machine.db"))?;
        let mut rows = Vec::new();
        for table in ["polls", "options", "votes"] {
            let mut statement = database.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2"))?;
            let width = statement.column_count();
            let mut found = statement.query([])?;
            while let Some(row) = found.next()? {
                let values: Vec<rusqlite::types::Value> = (0..width).map(|at| row.get(at)).collect::<Result<_, _>>()?;
                rows.push(format!("{table} {values:?}"));
            }
        }
        Ok(rows)
    }
}

/// An answer as the languages are compared by it.
#[derive(Debug, PartialEq)]
struct Answer {
    method: String,
    bytes: Vec<u8>,
    refusal: Option<(Code, String)>,
}

/// Makes the calls of `poll.toml`, each of which must be answered as it says there.
fn play(module: &[u8]) -> Result<(Vec<Answer>, Vec<String>)> {
    let table: Table = toml::from_str(include_str!("poll.toml"))?;
    let mut rig = Rig::new(module)?;
    let mut saved: BTreeMap<String, String> = BTreeMap::new();
    let mut answers = Vec::new();
    for call in &table.call {
        let method = rig.method(&call.method);
        let filled = |text: &str, saved: &BTreeMap<String, String>| {
            // The longer names first: "$tea.us" before "$tea".
            saved.iter().rev().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
        };
        let payload = match (&call.request, &call.bytes, &method) {
            (Some(json), None, Some(method)) => json_to_bytes(method.input(), &filled(json, &saved))?,
            (None, Some(digits), _) => from_hex(digits)?,
            _ => Vec::new(),
        };
        let is_query = match (call.sent_as.as_deref(), &method) {
            (Some(kind), _) => kind == "query",
            (None, method) => method.as_ref().is_some_and(is_read),
        };
        let what = format!("{} {}", call.method, call.request.as_deref().unwrap_or("…"));
        let outcome = rig.ask(&call.method, is_query, payload)?;
        let answer = match (outcome, &call.reply, &call.code) {
            (Ok(reply), Some(expected), None) => {
                let output = method.context("a reply of no method")?.output();
                let got = DynamicMessage::decode(output.clone(), reply.as_ref())?;
                if let Some(name) = &call.save {
                    let id = got.get_field_by_name("poll_id").and_then(|id| id.as_str().map(str::to_owned));
                    saved.insert(name.clone(), id.context("a reply without an id")?);
                    saved.insert(format!("{name}.us"), (EPOCH_US + rig.machine.applied_index()).to_string());
                }
                let expected = json_to_bytes(output, &filled(expected, &saved))?;
                ensure!(reply == expected, "{what}: {}", shown(&got)?);
                Answer { method: call.method.clone(), bytes: reply.to_vec(), refusal: None }
            }
            (Err(refusal), None, Some(code)) => {
                ensure!(refusal.code == code_of(code)?, "{what}: {refusal:?}");
                // What is said of malformed bytes is each library's own.
                let message = if let Some(message) = &call.message {
                    ensure!(&refusal.message == message, "{what}: {refusal:?}");
                    refusal.message
                } else {
                    String::new()
                };
                Answer { method: call.method.clone(), bytes: Vec::new(), refusal: Some((refusal.code, message)) }
            }
            (outcome, _, _) => bail!("{what}: not as expected: {outcome:?}"),
        };
        answers.push(answer);
    }
    Ok((answers, rig.rows()?))
}

fn json_to_bytes(of: prost_reflect::MessageDescriptor, json: &str) -> Result<Vec<u8>> {
    let mut reader = serde_json::Deserializer::from_str(json);
    Ok(DynamicMessage::deserialize(of, &mut reader).with_context(|| json.to_owned())?.encode_to_vec())
}

fn shown(message: &DynamicMessage) -> Result<String> {
    let mut text = Vec::new();
    let mut writer = serde_json::Serializer::new(&mut text);
    message.serialize_with_options(&mut writer, &SerializeOptions::new())?;
    Ok(String::from_utf8(text)?)
}

fn is_read(method: &MethodDescriptor) -> bool {
    let options = method.options();
    let level = options.get_field_by_name("idempotency_level").and_then(|level| level.as_enum_number());
    level == Some(1)
}

fn from_hex(digits: &str) -> Result<Vec<u8>> {
    let pairs = (0..digits.len()).step_by(2).map(|at| digits.get(at..at + 2).context("an odd number of digits"));
    pairs.map(|pair| Ok(u8::from_str_radix(pair?, 16)?)).collect()
}

fn code_of(name: &str) -> Result<Code> {
    Ok(match name {
        "INVALID_ARGUMENT" => Code::InvalidArgument,
        "NOT_FOUND" => Code::NotFound,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        "UNIMPLEMENTED" => Code::Unimplemented,
        _ => bail!("poll.toml names the code {name}"),
    })
}

/// One build at a time: each takes the memory and the cores of several.
static BUILDING: Mutex<()> = Mutex::new(());

/// Scaffolds a project and builds it.
fn project(language: Language) -> Result<(tempfile::TempDir, Scaffolded)> {
    let folder = tempfile::tempdir()?;
    let project = new("poll", language, &folder.path().join("poll"))?;
    component(&project)?;
    Ok((folder, project))
}

fn component(project: &Scaffolded) -> Result<Vec<u8>> {
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let built = build(&project.folder, &mut |line| println!("{line}"))?;
    Ok(std::fs::read(built.file)?)
}

/// Changes a source of the project in one place.
fn edit(project: &Scaffolded, file: &str, from: &str, to: &str) -> Result<()> {
    let path = project.folder.join(file);
    let text = std::fs::read_to_string(&path)?;
    ensure!(text.matches(from).count() == 1, "{file} does not have {from:?} once");
    Ok(std::fs::write(path, text.replace(from, to))?)
}

/// The same calls as in Rust; the tests that came with the project; and what comes of mistakes.
fn check(language: Language, tests: &[&str], main: &str, mistakes: [(&str, &str); 2]) -> Result<()> {
    let (_folder, project) = project(language)?;
    let module = std::fs::read(project.folder.join("poll.wasm"))?;
    let (ours, theirs) = (play(telegraft_modules::POLL)?, play(&module)?);
    ensure!(ours == theirs, "Rust: {ours:#?}\n{language}: {theirs:#?}");

    run_tests(&project.folder, tests)?;

    // An exception is an answer, and undoes what was written before it.
    let [(before, after), (named, unnamed)] = mistakes;
    edit(&project, main, before, after)?;
    let changed = component(&project)?;
    let mut rig = Rig::new(&changed)?;
    // A project's first component has no more in it than later ones.
    ensure!(
        module.len() < changed.len() / 20 * 21,
        "the first has {} bytes, the second {}",
        module.len(),
        changed.len()
    );
    let poll = rig.method("CreatePoll").context("no CreatePoll")?;
    let request = json_to_bytes(poll.input(), r#"{"question": "q", "options": ["a", "b"]}"#)?;
    let refusal = rig.ask("CreatePoll", false, request)?.unwrap_err();
    ensure!(refusal.code == Code::Internal && refusal.message.contains("the module failed with"), "{refusal:?}");
    ensure!(rig.rows()?.is_empty(), "{:?}", rig.rows()?);

    // A method without its function is found when it is built.
    edit(&project, main, named, unnamed)?;
    let error = component(&project).unwrap_err().to_string();
    ensure!(error.contains("no function for ClosePoll"), "{error}");
    Ok(())
}

fn run_tests(folder: &Path, command: &[&str]) -> Result<()> {
    let [program, arguments @ ..] = command else { bail!("no command") };
    let program = if program.contains('/') { folder.join(program) } else { program.into() };
    let ran = Command::new(program).args(arguments).current_dir(folder).output()?;
    let printed = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(ran.status.success() && (printed.contains("Ran 5 tests") || printed.contains("pass 5")), "{printed}");
    Ok(())
}

#[test]
fn the_poll_in_python_answers_as_the_one_in_rust() -> Result<()> {
    check(
        Language::Python,
        &[".telegraft/venv/bin/python", "-m", "unittest"],
        "module.py",
        [
            ("    return {\"poll_id\": poll_id}\n", "    return {\"poll_id\": nowhere}\n"),
            ("@module.command\ndef close_poll", "def close_poll"),
        ],
    )
}

#[test]
fn the_poll_in_javascript_answers_as_the_one_in_rust() -> Result<()> {
    check(
        Language::Javascript,
        &["npm", "test"],
        "module.js",
        [
            ("  return { pollId };\n", "  return { pollId: nowhere };\n"),
            ("createPoll, vote, closePoll }", "createPoll, vote }"),
        ],
    )
}
