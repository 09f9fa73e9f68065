//! Modules for tests, made from `probe.wat`, and a machine to run them in.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use telegraft_node::ports::{Code, Machine, Outcome, Queries};
use telegraft_proto::internal::{self, Activate, Call, Command, ModuleChunk, SetLimits, command::Body};
use telegraft_raft::{Entry, EntryKind, Index};
use telegraft_sandbox::{Digest, MachineReader, Sandbox, SandboxOptions, SqliteMachine, open};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What the probe says of itself and does.
#[derive(Clone)]
pub struct Probe {
    pub name: &'static str,
    pub version: &'static str,
    pub schema: u32,
    /// Statement that `init` runs first, and one that gets `from-schema` as its parameter.
    pub init: [&'static str; 2],
    pub service: Vec<u8>,
    /// Wasm text at the beginning of `describe`.
    pub describe: &'static str,
    /// Wasm text at the beginning of `init`.
    pub init_text: &'static str,
    /// Statement that `downgrade` runs; empty: the probe offers none.
    pub downgrade: &'static str,
    /// Wasm text at the beginning of `apply` and `query`; the method's first letter is in `$letter`.
    pub call_text: &'static str,
}

/// A table for the probe's statements.
pub const PROBE: Probe = Probe {
    name: "probe",
    version: "1.0.0",
    schema: 1,
    init: ["CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v TEXT UNIQUE)", ""],
    service: Vec::new(),
    describe: "",
    init_text: "",
    downgrade: "",
    call_text: "",
};

impl Probe {
    /// The core module.
    pub fn core(&self) -> Vec<u8> {
        let escaped = |bytes: &[u8]| bytes.iter().map(|b| format!("\\{b:02x}")).collect::<String>();
        let export = match self.downgrade {
            "" => "$downgrade",
            _ => "(export \"telegraft:machine/downgrade@0.1.0#downgrade\")",
        };
        let text = include_str!("probe.wat")
            .replace("{downgrade_export}", export)
            .replace("{downgrade}", &escaped(self.downgrade.as_bytes()))
            .replace("{downgrade_len}", &self.downgrade.len().to_string())
            .replace("{name}", &escaped(self.name.as_bytes()))
            .replace("{name_len}", &self.name.len().to_string())
            .replace("{version}", &escaped(self.version.as_bytes()))
            .replace("{version_len}", &self.version.len().to_string())
            .replace("{schema}", &self.schema.to_string())
            .replace("{init_first}", &escaped(self.init[0].as_bytes()))
            .replace("{init_first_len}", &self.init[0].len().to_string())
            .replace("{init_second}", &escaped(self.init[1].as_bytes()))
            .replace("{init_second_len}", &self.init[1].len().to_string())
            .replace("{service}", &escaped(&self.service))
            .replace("{service_len}", &self.service.len().to_string())
            .replace("{describe}", self.describe)
            .replace("{init}", self.init_text)
            .replace("{call}", self.call_text);
        wat::parse_str(text).expect("probe.wat")
    }

    /// The component.
    pub fn build(&self) -> Vec<u8> {
        let mut core = self.core();
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let (package, _) = resolve.push_path(wit).expect("wit");
        let world = if self.downgrade.is_empty() { "state-machine" } else { "reversible-state-machine" };
        let world = resolve.select_world(&[package], Some(world)).expect("world");
        embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("metadata");
        ComponentEncoder::default().module(&core).and_then(|e| e.validate(true).encode()).expect("component")
    }
}

/// A machine, and what goes into it.
pub struct Rig {
    pub dir: PathBuf,
    pub machine: SqliteMachine,
    pub reader: MachineReader,
    _folder: Option<tempfile::TempDir>,
}

/// One sandbox for all tests: an engine reserves much address space.
pub fn sandbox() -> Sandbox {
    static SANDBOX: std::sync::OnceLock<(Sandbox, tempfile::TempDir)> = std::sync::OnceLock::new();
    let (sandbox, _) = SANDBOX.get_or_init(|| {
        let folder = tempfile::tempdir().expect("folder");
        (Sandbox::new(SandboxOptions::new(folder.path())).expect("sandbox"), folder)
    });
    sandbox.clone()
}

impl Rig {
    /// A new machine without a module.
    pub fn empty() -> Rig {
        let folder = tempfile::tempdir().expect("folder");
        let mut rig = Rig::at(folder.path());
        rig._folder = Some(folder);
        rig
    }

    /// The machine in this folder.
    pub fn at(dir: &Path) -> Rig {
        Rig::on(sandbox(), dir)
    }

    /// The machine in this folder, on another sandbox.
    pub fn on(sandbox: Sandbox, dir: &Path) -> Rig {
        let (machine, reader) = open(sandbox, dir).expect("open");
        Rig { dir: dir.to_owned(), machine, reader, _folder: None }
    }

    /// A new machine with the probe active (at index 2).
    pub fn probe() -> Rig {
        let mut rig = Rig::empty();
        rig.install(&PROBE.build(), false);
        rig
    }

    /// Uploads in one part and activates.
    pub fn install(&mut self, module: &[u8], reuse: bool) {
        for body in [whole(module), activation(module, reuse)] {
            let outcome = self.one(body);
            assert!(outcome.is_ok(), "{outcome:?}");
        }
    }

    /// Closes the machine and opens it again.
    pub fn reopen(self) -> Rig {
        self.reopen_on(sandbox())
    }

    /// Closes the machine and opens it again on another sandbox.
    pub fn reopen_on(self, sandbox: Sandbox) -> Rig {
        let Rig { dir, machine, reader, _folder, .. } = self;
        drop((machine, reader));
        let mut rig = Rig::on(sandbox, &dir);
        rig._folder = _folder;
        rig
    }

    pub fn next(&self) -> Index {
        self.machine.applied_index() + 1
    }

    /// Applies these as one batch.
    pub fn batch(&mut self, bodies: impl IntoIterator<Item = Body>) -> Vec<Outcome> {
        let first = self.next();
        let entries: Vec<Entry> = bodies.into_iter().zip(first..).map(|(body, i)| entry(i, command(i, body))).collect();
        self.machine.apply(&entries).expect("apply")
    }

    pub fn one(&mut self, body: Body) -> Outcome {
        let outcome = self.batch([body]).pop();
        outcome.unwrap_or_else(|| panic!("the machine stands still: {:?}", self.machine.halted()))
    }

    /// Applies one command as it is.
    pub fn command(&mut self, command: Command) -> Outcome {
        let entry = entry(self.next(), command);
        self.machine.apply(&[entry]).expect("apply").remove(0)
    }

    /// A number that the active module's query finds.
    pub fn number(&self, sql: &str) -> i64 {
        let (_, outcome) = self.reader.query("q", sql.as_bytes()).expect("query");
        number(&outcome)
    }

    /// A text that the active module's query finds.
    pub fn text(&self, sql: &str) -> String {
        let (_, outcome) = self.reader.query("q", sql.as_bytes()).expect("query");
        String::from_utf8(outcome.expect("outcome").to_vec()).expect("text")
    }

    pub fn digest(&self) -> String {
        self.reader.state_digest().expect("digest").1
    }
}

pub fn number(outcome: &Outcome) -> i64 {
    let bytes = outcome.as_ref().expect("outcome");
    i64::from_le_bytes(bytes.as_ref().try_into().expect("eight bytes"))
}

pub fn code(outcome: &Outcome) -> Option<Code> {
    outcome.as_ref().err().map(|rejection| rejection.code)
}

pub fn message(outcome: &Outcome) -> &str {
    outcome.as_ref().err().map_or("", |rejection| &rejection.message)
}

pub fn call(method: &str, payload: impl AsRef<[u8]>) -> Body {
    Body::Call(Call { method: method.to_owned(), payload: Bytes::copy_from_slice(payload.as_ref()) })
}

/// The whole module in one part.
pub fn whole(module: &[u8]) -> Body {
    chunk(module, 0, module.len())
}

pub fn chunk(module: &[u8], from: usize, to: usize) -> Body {
    Body::ModuleChunk(ModuleChunk {
        digest: Bytes::copy_from_slice(&Digest::of(module).0),
        size: module.len() as u64,
        offset: from as u64,
        data: Bytes::copy_from_slice(&module[from..to]),
        name: "hint".to_owned(),
        version: "0".to_owned(),
        schema: 0,
    })
}

pub fn activation(module: &[u8], reuse: bool) -> Body {
    activation_with(module, reuse, None)
}

pub fn activation_with(module: &[u8], reuse: bool, limits: Option<internal::Limits>) -> Body {
    Body::Activate(Activate {
        digest: Bytes::copy_from_slice(&Digest::of(module).0),
        reuse,
        limits,
        ..Activate::default()
    })
}

/// Sets budgets.
pub fn set(limits: internal::Limits) -> Body {
    Body::SetLimits(SetLimits { limits: Some(limits) })
}

/// Time and entropy from the index, so that the same entries are made again.
pub fn command(index: Index, body: Body) -> Command {
    Command {
        time_us: 1_000_000 + index,
        entropy_high: index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        entropy_low: index,
        body: Some(body),
        ..Command::default()
    }
}

pub fn with_session(mut command: Command, client: &str, request: u64) -> Command {
    command.client_id = client.to_owned();
    command.request_id = request;
    command
}

pub fn entry(index: Index, command: Command) -> Entry {
    Entry { term: 1, index, kind: EntryKind::Normal, data: Bytes::from(command.encode_to_vec()) }
}
