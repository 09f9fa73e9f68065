//! Components that are broken, lie about themselves, or are built to burst whoever compiles them, made here from bytes and
//! WebAssembly text. Each is refused before anything is replicated, with a reason, or is harmless; and nobody who serves
//! is kept from it meanwhile.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use prost::Message;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};
use telegraft_modules::CHAT;
use telegraft_tests::{
    client::reason,
    cluster::{Cluster, Plan, upload_once},
};
use tonic::Code;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::honest::Honest;

/// How long a host may look at a component, on a busy machine.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// A component, and what must become of it.
struct Made {
    what: &'static str,
    bytes: Vec<u8>,
    /// Words of the refusal, any one of them; none: it may be taken too, as long as nobody comes to harm.
    refused: &'static [&'static str],
}

fn refused(what: &'static str, bytes: Vec<u8>, words: &'static [&'static str]) -> Made {
    Made { what, bytes, refused: words }
}

/// Taken or refused: both will do.
fn harmless(what: &'static str, bytes: Vec<u8>) -> Made {
    Made { what, bytes, refused: &[] }
}

/// A core module of the contract's shape, whose parts can be replaced.
struct Core {
    memory: String,
    /// Fields of the module.
    fields: String,
    /// Wasm text at the beginning of `describe`.
    describe: String,
    name: Vec<u8>,
    version: Vec<u8>,
    service: Vec<u8>,
    /// Where the name is said to be, and how long.
    name_at: (u32, usize),
}

impl Core {
    fn new() -> Self {
        Self::named("made")
    }

    fn named(name: &str) -> Self {
        Self {
            memory: "64".to_owned(),
            fields: String::new(),
            describe: String::new(),
            name: name.into(),
            version: "1".into(),
            service: Vec::new(),
            name_at: (0x1000, name.len()),
        }
    }

    fn describing(text: &str) -> Vec<u8> {
        Self { describe: text.to_owned(), ..Self::new() }.component()
    }

    fn with_fields(text: impl Into<String>) -> Vec<u8> {
        Self { fields: text.into(), ..Self::new() }.component()
    }

    fn text(&self) -> String {
        let escaped = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("\\{byte:02x}"));
        let (name_at, name_bytes) = self.name_at;
        format!(
            r#"(module
  (memory (export "memory") {memory})
  (data (i32.const 0x1000) "{name}")
  (data (i32.const 0x1800) "{version}")
  (data (i32.const 0x2000) "{service}")
  (global $heap (mut i32) (i32.const 0x30000))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func (export "telegraft:machine/machine@0.1.0#describe") (result i32)
    {describe}
    (i32.store (i32.const 0x200) (i32.const {name_at}))
    (i32.store (i32.const 0x204) (i32.const {name_bytes}))
    (i32.store (i32.const 0x208) (i32.const 0x1800))
    (i32.store (i32.const 0x20c) (i32.const {version_bytes}))
    (i32.store (i32.const 0x210) (i32.const 1))
    (i32.store (i32.const 0x214) (i32.const 0x2000))
    (i32.store (i32.const 0x218) (i32.const {service_bytes}))
    (i32.const 0x200))
  (func (export "telegraft:machine/machine@0.1.0#init") (param i64 i64 i64 i64 i32 i32) (result i32) (unreachable))
  (func (export "telegraft:machine/machine@0.1.0#apply") (param i64 i64 i64 i64 i32 i32 i32 i32) (result i32)
    (unreachable))
  (func (export "telegraft:machine/machine@0.1.0#query") (param i64 i64 i64 i64 i32 i32 i32 i32) (result i32)
    (unreachable))
  {fields}
)"#,
            memory = self.memory,
            name = escaped(&self.name),
            version = escaped(&self.version),
            service = escaped(&self.service),
            describe = self.describe,
            version_bytes = self.version.len(),
            service_bytes = self.service.len(),
            fields = self.fields,
        )
    }

    fn component(&self) -> Vec<u8> {
        let mut core = wat::parse_str(self.text()).expect("WebAssembly text");
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let (package, _) = resolve.push_path(wit).expect("the contract");
        let world = resolve.select_world(&[package], Some("state-machine")).expect("the world");
        embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("metadata");
        // What is not valid is to come to the host as it is.
        ComponentEncoder::default().validate(false).module(&core).and_then(|it| it.encode()).expect("a component")
    }
}

/// A component that does nothing but carry a core module, which may be as invalid as it likes.
fn carrying(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(component (core module {fields}))")).expect("WebAssembly text")
}

/// Components in one another: each is a header, and a section (number 4) with the next one.
fn nested(depth: usize) -> Vec<u8> {
    const HEADER: [u8; 8] = [0x00, b'a', b's', b'm', 0x0d, 0x00, 0x01, 0x00];
    let mut bytes = HEADER.to_vec();
    for _ in 0..depth {
        let mut outer = HEADER.to_vec();
        outer.push(4);
        prost::encode_length_delimiter(bytes.len(), &mut outer).expect("a vector grows");
        outer.append(&mut bytes);
        bytes = outer;
    }
    bytes
}

/// A service as its descriptors.
fn service(package: &str, imports: &[&str], streaming: bool) -> Vec<u8> {
    let message = DescriptorProto { name: Some("Empty".to_owned()), ..Default::default() };
    let kind = Some(format!(".{package}.Empty"));
    let method = MethodDescriptorProto {
        name: Some("Watch".to_owned()),
        input_type: kind.clone(),
        output_type: kind,
        server_streaming: Some(streaming),
        ..Default::default()
    };
    let service = ServiceDescriptorProto { name: Some("Service".to_owned()), method: vec![method], options: None };
    let file = FileDescriptorProto {
        name: Some("made.proto".to_owned()),
        package: Some(package.to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: imports.iter().map(|import| (*import).to_owned()).collect(),
        message_type: vec![message],
        service: vec![service],
        ..Default::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

fn serving(service: Vec<u8>) -> Vec<u8> {
    Core { service, ..Core::new() }.component()
}

/// Files that are no component, or none of this world.
fn malformed() -> Vec<Made> {
    let component = |text: &str| wat::parse_str(text).expect("WebAssembly text");
    let mut junk_section = CHAT.to_vec();
    junk_section.extend([0x3f, 0x04, 1, 2, 3, 4]);
    let mut cut_section = CHAT.to_vec();
    cut_section.extend([0x00, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let wasi = r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance (export "now" (func (result u64))))))"#;
    let random = r#"(component (import "wasi:random/random@0.2.0" (instance (export "get" (func (result u64))))))"#;
    let another_version = r#"(component (import "telegraft:machine/store@9.0.0" (instance)))"#;
    let wrong_type = r#"(component (import "telegraft:machine/store@0.1.0" (instance (export "execute" (func)))))"#;
    let hollow = r#"(component (instance $i) (export "telegraft:machine/machine@0.1.0" (instance $i)))"#;
    let mut missing = String::from("(component (component $empty)");
    for number in 0..2_000 {
        let _ = write!(missing, "(instance $i{number} (instantiate $empty))");
    }
    missing.push(')');
    vec![
        refused("half a component", CHAT[..CHAT.len() / 2].to_vec(), &["not valid"]),
        refused("all but the last byte", CHAT[..CHAT.len() - 1].to_vec(), &["not valid"]),
        refused("a section of no known kind", junk_section, &["not valid"]),
        refused("a section beyond the end", cut_section, &["not valid"]),
        refused("a core module", wat::parse_str("(module)").expect("WebAssembly text"), &["core Wasm module"]),
        refused("a clock of WASI's", component(wasi), &["time comes with the context"]),
        refused("a random source of WASI's", component(random), &["randomness comes with the context"]),
        refused("another version of the contract", component(another_version), &["another version"]),
        refused("an import of another type", component(wrong_type), &["telegraft:machine/machine"]),
        refused("an export without functions", component(hollow), &["does not fit the world"]),
        refused(
            "two thousand instances",
            component(&missing),
            &["not valid", "telegraft:machine/machine", "could not check"],
        ),
    ]
}

/// Modules that say of themselves what cannot be, or never come to say it.
fn lying() -> Vec<Made> {
    let long = Core::named(&"n".repeat(65));
    let mut blank = Core::named("two words");
    blank.version = b"1 0".to_vec();
    let mut versionless = Core::new();
    versionless.version.clear();
    let mut broken_name = Core::new();
    broken_name.name = vec![0xff, 0xfe, 0xfd, 0xfc];
    let elsewhere = Core { name_at: (0x7fff_0000, 16), ..Core::new() };
    let endless_name = Core { name_at: (0, u32::MAX as usize), ..Core::new() };
    let recursion = "(func $down (param i32) (result i32) (i32.add (call $down (local.get 0)) (i32.const 1)))";
    let deep = Core { fields: recursion.into(), describe: "(drop (call $down (i32.const 1)))".into(), ..Core::new() };
    vec![
        refused("a name of 65 bytes", long.component(), &["its name is longer than 64 bytes"]),
        refused("a name of two words", blank.component(), &["white space"]),
        refused("no name", Core::named("").component(), &["its name is empty"]),
        refused("no version", versionless.component(), &["its version is empty"]),
        refused("a name that ends the line", Core::named("a\nb").component(), &["white space or control"]),
        refused("a name that is no text", broken_name.component(), &["cannot be described"]),
        refused("a name outside of its memory", elsewhere.component(), &["cannot be described"]),
        refused("a name of four gigabytes", endless_name.component(), &["cannot be described"]),
        refused("a service that streams", serving(service("made.v1", &[], true)), &["streams"]),
        refused("the host's own service", serving(service("telegraft.v1", &[], false)), &["the host's own"]),
        refused("gRPC's own service", serving(service("grpc.health.v1", &[], false)), &["the host's own"]),
        refused(
            "a service with a missing import",
            serving(service("made.v1", &["other.proto"], false)),
            &["FileDescriptorSet"],
        ),
        refused("descriptors that are none", serving(vec![0xff; 1000]), &["FileDescriptorSet"]),
        refused("descriptors of 2 MB", serving(vec![0x0a; 2 << 20]), &["over the limit"]),
        refused("describe that never ends", Core::describing("(loop $for_ever (br $for_ever))"), &["ran out of fuel"]),
        refused("describe that traps", Core::describing("(unreachable)"), &["unreachable code"]),
        refused("describe that recurses", deep.component(), &["call stack is exhausted"]),
        refused(
            "describe that takes memory",
            Core::describing("(drop (memory.grow (i32.const 20000)))"),
            &["memory budget"],
        ),
        refused(
            "a start that never ends",
            Core::with_fields("(func $s (loop $l (br $l))) (start $s)"),
            &["ran out of fuel", "fuel"],
        ),
        refused("a start that traps", Core::with_fields("(func $s (unreachable)) (start $s)"), &["unreachable code"]),
        refused(
            "data outside of its memory",
            Core::with_fields(r#"(data (i32.const 0x7fff0000) "x")"#),
            &["out of bounds"],
        ),
    ]
}

/// Modules that are small to send and large to hold.
fn greedy() -> Vec<Made> {
    let memory = |pages: &str| Core { memory: pages.to_owned(), ..Core::new() }.component();
    vec![
        refused("100 MB of memory from the start", memory("1600"), &["memory"]),
        refused("4 GB of memory from the start", memory("65536"), &["memory"]),
        refused("a memory of 64-bit addresses", carrying("(memory i64 1)"), &["not valid", "could not check"]),
        refused("a shared memory", carrying("(memory 1 1 shared)"), &["not valid", "could not check"]),
        refused(
            "a thousand memories",
            carrying(&"(memory 1)".repeat(1000)),
            &["not valid", "could not check", "memor"],
        ),
        refused(
            "a table of a billion elements",
            Core::with_fields("(table 1000000000 funcref)"),
            &["table", "element", "could not check"],
        ),
        refused(
            "a thousand tables",
            carrying(&"(table 1 funcref)".repeat(1000)),
            &["table", "not valid", "could not check"],
        ),
    ]
}

/// A function that keeps many values alive over many branches: work for whoever assigns registers.
fn many_values(values: usize, branches: usize) -> String {
    let mut text = format!("(func (result i64) (local {})", "i64 ".repeat(values));
    for number in 0..values {
        let _ = write!(text, "(local.set {number} (i64.load (i32.const {number})))");
    }
    for number in 0..branches {
        let local = number * 7919 % values;
        let _ =
            write!(text, "(block (br_if 0 (i64.eqz (local.get {local}))) (local.set {local} (i64.const {number})))");
    }
    text.push_str("(i64.const 0)");
    for number in 0..values {
        let _ = write!(text, "(local.get {number}) i64.add ");
    }
    text.push(')');
    text
}

/// Beyond what any program is that people write.
const TOO_HARD: &[&str] = &["too hard to compile"];

/// Modules that are built to burst a compiler: by number, by depth, by breadth.
fn bombs() -> Vec<Made> {
    let functions = |count: usize| Core::with_fields("(func (result i32) (i32.const 7))".repeat(count));
    let deep = |depth: usize| Core::with_fields(format!("(func {} {})", "block ".repeat(depth), "end ".repeat(depth)));
    let broad = format!("(func (param i32) (block (br_table {} (local.get 0))))", "0 ".repeat(1_000_000));
    let straight = |count: usize| {
        Core::with_fields(format!("(func (result i64) (i64.const 1) {})", "(i64.const 3) i64.mul ".repeat(count)))
    };
    let mut types = String::from("(component (type $t0 (list u8))");
    for number in 1..400 {
        let _ = write!(types, "(type $t{number} (tuple $t{0} $t{0}))", number - 1);
    }
    types.push(')');
    let component = |text: &str| wat::parse_str(text).expect("WebAssembly text");
    vec![
        harmless("10,000 functions", functions(10_000)),
        harmless("2,000 blocks in one another", deep(2_000)),
        harmless("a branch with a million targets", Core::with_fields(broad)),
        harmless("500 values alive over 1,000 branches", Core::with_fields(many_values(500, 1_000))),
        harmless("a function of 200,000 instructions", straight(100_000)),
        refused("200,000 functions", functions(200_000), TOO_HARD),
        refused("100,000 blocks in one another", deep(100_000), TOO_HARD),
        refused("5,000 values alive over 20,000 branches", Core::with_fields(many_values(5_000, 20_000)), TOO_HARD),
        refused("a function of three million instructions", straight(1_500_000), TOO_HARD),
        refused("types that double 400 times", component(&types), &["not valid", "telegraft:machine/machine"]),
        refused("2,000 components in one another", nested(2_000), &["not valid", "telegraft:machine/machine"]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_that_are_broken_lie_or_burst_are_refused_while_others_are_served() -> Result<()> {
    let mut cluster = Cluster::start_with(Plan::default()).await?;
    let mut honest = Honest::default();
    cluster.install(crate::component("static_counter")?).await?;
    let served = honest.begin(cluster.clients());
    let mut taken = Vec::new();
    for (number, made) in malformed().into_iter().chain(lying()).chain(greedy()).chain(bombs()).enumerate() {
        let Made { what, bytes, refused } = made;
        let before = served.counts();
        let id = u64::try_from(number % 3)? + 1;
        let begun = std::time::Instant::now();
        let answer = tokio::time::timeout(LOOK_WITHIN, upload_once(cluster.client(id)?, "", &bytes)).await;
        println!("{what}: {} bytes, {} ms", bytes.len(), begun.elapsed().as_millis());
        let answer = answer.with_context(|| format!("{what}: host {id} still looks at it after {LOOK_WITHIN:?}"))?;
        match answer {
            Ok(uploaded) => {
                ensure!(refused.is_empty(), "{what} was taken");
                taken.push(uploaded.digest);
            }
            Err(status) => {
                let codes = [Code::FailedPrecondition, Code::InvalidArgument];
                ensure!(codes.contains(&status.code()) && reason(&status).is_some(), "{what}: {status:?}");
                let said = refused.is_empty() || refused.iter().any(|words| status.message().contains(words));
                ensure!(said && status.message().len() < 4096, "{what}: {}", status.message());
            }
        }
        served.wait_for_more(&before).await.with_context(|| what.to_owned())?;
        ensure!(cluster.live().len() == 3, "{what}: a host has ended");
    }
    honest.end(served).await?;
    for host in cluster.clients() {
        let listed = host.modules().list(telegraft_proto::v1::ListModules::default()).await?.into_inner().modules;
        let strangers = listed.iter().filter(|module| !module.active && !taken.contains(&module.digest)).count();
        ensure!(strangers == 0, "a module that was refused is listed: {listed:?}");
    }
    honest.check_kept(cluster.clients()).await?;
    cluster.wait_for_agreement().await?;
    cluster.passed()
}
