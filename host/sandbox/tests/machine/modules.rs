//! Inspection, upload in parts, activation, swapping, and the cache of compiled modules.

use prost::Message;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions,
    ServiceDescriptorProto, method_options::IdempotencyLevel,
};
use telegraft_node::ports::Code;
use telegraft_sandbox::{BadModule, Digest, Sandbox, SandboxOptions, UPLOADS_MAX, WORLD};

use crate::probe::{
    PROBE, Probe, Rig, activation, call, chunk, code, command, message, number, sandbox, whole, with_session,
};

fn service(dependency: Option<&str>, streaming: bool) -> Vec<u8> {
    let method = |name: &str, query: bool| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".p.v1.M".to_owned()),
        output_type: Some(".p.v1.M".to_owned()),
        server_streaming: Some(streaming),
        options: Some(MethodOptions {
            idempotency_level: query
                .then_some(IdempotencyLevel::NoSideEffects as i32)
                .or(Some(IdempotencyLevel::Idempotent as i32)),
            ..Default::default()
        }),
        ..Default::default()
    };
    FileDescriptorSet {
        file: vec![FileDescriptorProto {
            name: Some("p.proto".to_owned()),
            package: Some("p.v1".to_owned()),
            dependency: dependency.into_iter().map(str::to_owned).collect(),
            message_type: vec![DescriptorProto { name: Some("M".to_owned()), ..Default::default() }],
            service: vec![ServiceDescriptorProto {
                name: Some("P".to_owned()),
                method: vec![method("Write", false), method("Read", true)],
                ..Default::default()
            }],
            syntax: Some("proto3".to_owned()),
            ..Default::default()
        }],
    }
    .encode_to_vec()
}

#[test]
fn inspection_says_what_a_good_module_is() {
    let bytes = Probe { service: service(None, false), ..PROBE }.build();
    let found = sandbox().inspect(&bytes).unwrap();
    assert_eq!(found.digest, Digest::of(&bytes));
    assert_eq!((found.name.as_str(), found.version.as_str(), found.schema), ("probe", "1.0.0", 1));
    assert_eq!(found.size, bytes.len() as u64);
    assert_eq!(found.world, WORLD);
    assert!(found.imports.contains(&"telegraft:machine/store@0.1.0".to_owned()), "{:?}", found.imports);
    assert_eq!(found.exports, ["telegraft:machine/machine@0.1.0"]);
    let methods: Vec<_> = found.methods.iter().map(|m| (m.name.as_str(), m.input.as_str(), m.query)).collect();
    assert_eq!(methods, [("p.v1.P/Write", "p.v1.M", false), ("p.v1.P/Read", "p.v1.M", true)]);
}

#[test]
fn bad_files_are_refused_with_the_reason() {
    let wat = |text: &str| wat::parse_str(text).unwrap();
    let mut truncated = PROBE.build();
    truncated.truncate(truncated.len() / 2);
    let foreign = |name: &str| wat(&format!("(component (import \"{name}\" (instance (export \"now\" (func)))))"));
    let other_types = r#"(component
        (core module $m (func (export "describe")))
        (core instance $i (instantiate $m))
        (func $d (canon lift (core func $i "describe")))
        (instance $e (export "describe" (func $d)))
        (export "telegraft:machine/machine@0.1.0" (instance $e)))"#;
    for (bytes, words) in [
        (b"".to_vec(), "the file is empty"),
        (b"hello, world".to_vec(), "no Wasm file"),
        (b"(component)".to_vec(), "WebAssembly text"),
        (PROBE.core(), "core Wasm module, not a component"),
        (truncated, "not valid"),
        (
            foreign("wasi:clocks/wall-clock@0.2.0"),
            "wasi:clocks/wall-clock@0.2.0, which is not offered to state machines; the time",
        ),
        (foreign("wasi:cli/environment@0.2.0"), "wasm32-unknown-unknown"),
        (foreign("telegraft:machine/store@0.9.0"), "another version of the contract"),
        (foreign("who:knows/what"), "may import telegraft:machine/types@0.1.0"),
        (wat("(component)"), "exports nothing"),
        (wat(other_types), "does not fit the world"),
    ] {
        let error = sandbox().inspect(&bytes).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn modules_that_describe_themselves_badly_are_refused() {
    for (probe, words) in [
        (Probe { name: "", ..PROBE }, "its name is empty"),
        (Probe { version: "", ..PROBE }, "its version is empty"),
        (Probe { name: "two words", ..PROBE }, "white space"),
        (Probe { name: "a-name-of-more-than-sixty-four-bytes-is-no-good-for-a-table-of-modules", ..PROBE }, "64 bytes"),
        (Probe { service: b"\xff\xff".to_vec(), ..PROBE }, "no complete FileDescriptorSet"),
        (Probe { service: service(Some("missing.proto"), false), ..PROBE }, "missing.proto"),
        (Probe { service: service(None, true), ..PROBE }, "p.v1.P/Write streams"),
        (Probe { describe: "(unreachable)", ..PROBE }, "trapped"),
        (Probe { describe: "(loop $l (br $l))", ..PROBE }, "ran out of fuel"),
        (Probe { describe: "(drop (memory.grow (i32.const 20000)))", ..PROBE }, "memory budget"),
    ] {
        let error = sandbox().inspect(&probe.build()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_bomb_for_the_compiler_is_refused_before_it_is_compiled() {
    let deep: &'static str = format!("{} {}", "(block ".repeat(4_000), ")".repeat(4_000)).leak();
    let bytes = Probe { init_text: deep, ..PROBE }.build();
    let error = sandbox().inspect(&bytes).unwrap_err();
    assert!(error.to_string().contains("blocks in each other: 4000, and at most 3000"), "{error}");
    // A host that takes it in all the same harms nobody: the activation is refused on all.
    let mut rig = Rig::empty();
    rig.one(whole(&bytes)).unwrap();
    let outcome = rig.one(activation(&bytes, false));
    assert_eq!(code(&outcome), Some(Code::FailedPrecondition));
    assert!(message(&outcome).contains("too hard to compile"), "{outcome:?}");
}

#[test]
fn a_module_over_the_hosts_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = SandboxOptions { module_bytes_max: 1000, ..SandboxOptions::new(folder.path()) };
    let error = Sandbox::new(options).unwrap().inspect(&PROBE.build()).unwrap_err();
    assert!(matches!(error, BadModule::TooLarge { max: 1000, .. }), "{error}");
}

#[test]
fn parts_come_in_order_and_a_restart_from_the_beginning_is_welcome() {
    let module = PROBE.build();
    let (a, b, end) = (module.len() / 3, module.len() / 2, module.len());
    let mut rig = Rig::empty();
    let refused = rig.one(chunk(&module, a, b));
    assert_eq!(code(&refused), Some(Code::FailedPrecondition));
    assert!(message(&refused).contains("no part of module"), "{refused:?}");
    rig.one(chunk(&module, 0, a)).unwrap();
    let refused = rig.one(chunk(&module, b, end));
    assert!(message(&refused).contains(&format!("up to byte {a} of {end}")), "{refused:?}");
    rig.one(chunk(&module, a, b)).unwrap();
    // Again from the beginning, other parts, and a restart of the host between.
    rig.one(chunk(&module, 0, b)).unwrap();
    let mut rig = rig.reopen();
    assert_eq!(code(&rig.one(activation(&module, false))), Some(Code::NotFound));
    assert!(rig.reader.modules().unwrap().is_empty());
    rig.one(chunk(&module, b, end)).unwrap();
    let known = rig.reader.modules().unwrap();
    assert_eq!((known.len(), known[0].digest, known[0].uploaded_index), (1, Digest::of(&module), 7));
    assert!(!known[0].active);
    // Any part of a known module is welcome and changes nothing.
    let digest = rig.digest();
    for body in [chunk(&module, 0, a), chunk(&module, b, end), whole(&module)] {
        rig.one(body).unwrap();
    }
    assert_eq!(rig.reader.modules().unwrap(), known);
    rig.one(activation(&module, false)).unwrap();
    assert_ne!(rig.digest(), digest);
}

#[test]
fn parts_that_cannot_be_are_refused() {
    use telegraft_proto::internal::{ModuleChunk, command::Body};
    let module = PROBE.build();
    let good = ModuleChunk {
        digest: bytes::Bytes::copy_from_slice(&Digest::of(&module).0),
        size: module.len() as u64,
        data: bytes::Bytes::copy_from_slice(&module),
        ..Default::default()
    };
    let mut rig = Rig::empty();
    for (bad, words) in [
        (ModuleChunk { digest: bytes::Bytes::from_static(b"short"), ..good.clone() }, "32 bytes"),
        (ModuleChunk { size: 0, ..good.clone() }, "1 to 268435456 bytes, not 0"),
        (ModuleChunk { size: u64::MAX, ..good.clone() }, "not 18446744073709551615"),
        (ModuleChunk { data: bytes::Bytes::new(), ..good.clone() }, "must not be empty"),
        (ModuleChunk { size: 10, ..good.clone() }, "beyond the module's size of 10"),
        (ModuleChunk { offset: u64::MAX, ..good.clone() }, "no part of module"),
        (ModuleChunk { digest: bytes::Bytes::from_static(&[7; 32]), ..good.clone() }, "do not have the digest"),
    ] {
        let outcome = rig.one(Body::ModuleChunk(bad));
        assert!(message(&outcome).contains(words), "{outcome:?}");
    }
    // A part that says another size than the parts before it.
    rig.one(chunk(&module, 0, 100)).unwrap();
    let other = ModuleChunk { size: good.size + 1, offset: 100, ..good.clone() };
    assert!(message(&rig.one(Body::ModuleChunk(other))).contains("up to byte 100"));
    rig.one(chunk(&module, 100, module.len())).unwrap();
}

#[test]
fn the_upload_that_waited_longest_gives_way() {
    let modules: Vec<Vec<u8>> =
        ["1", "2", "3", "4", "5"].into_iter().map(|version| Probe { version, ..PROBE }.build()).collect();
    let mut rig = Rig::empty();
    for module in modules.iter().take(UPLOADS_MAX) {
        rig.one(chunk(module, 0, 100)).unwrap();
    }
    // The first moves on, so the second is the one that waited longest.
    rig.one(chunk(&modules[0], 100, 200)).unwrap();
    rig.one(chunk(&modules[UPLOADS_MAX], 0, 100)).unwrap();
    let outcomes: Vec<bool> = modules
        .iter()
        .enumerate()
        .map(|(i, m)| rig.one(chunk(m, if i == 0 { 200 } else { 100 }, m.len())).is_ok())
        .collect();
    assert_eq!(outcomes, [true, false, true, true, true]);
}

#[test]
fn init_runs_for_a_new_name_and_for_a_risen_schema_and_not_else() {
    let probe = |name, version, schema| {
        Probe {
            name,
            version,
            schema,
            init: ["CREATE TABLE IF NOT EXISTS inits(v)", "INSERT INTO inits VALUES (?1)"],
            ..PROBE
        }
        .build()
    };
    let mut rig = Rig::empty();
    let inits = |rig: &Rig| rig.text("SELECT group_concat(coalesce(v, 'none'), ' ') FROM inits");
    rig.install(&probe("a", "1", 1), false);
    assert_eq!(inits(&rig), "none");
    rig.install(&probe("a", "1.1", 1), false);
    assert_eq!(inits(&rig), "none");
    rig.install(&probe("a", "3", 3), false);
    assert_eq!(inits(&rig), "none 1");
    rig.install(&probe("b", "1", 1), false);
    assert_eq!(inits(&rig), "none 1 none");
    // Back to the first name: its data is still at 3.
    rig.install(&probe("a", "3", 3), false);
    assert_eq!(inits(&rig), "none 1 none");
    let older = probe("a", "1.1", 1);
    let outcome = rig.one(activation(&older, false));
    assert_eq!(code(&outcome), Some(Code::FailedPrecondition));
    assert!(message(&outcome).contains("has layout 3"), "{outcome:?}");
    assert_eq!(rig.reader.active().unwrap().record.version, "3");
    rig.install(&probe("b", "9", 9), false);
    assert_eq!(inits(&rig), "none 1 none 1");
}

#[test]
fn a_failed_init_leaves_the_old_module_and_its_data() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'old')")).unwrap();
    for (probe, words) in [
        (Probe { schema: 2, init: ["DELETE FROM t", "no statement"], ..PROBE }, "syntax error"),
        (Probe { schema: 3, init: ["DROP TABLE t", ""], init_text: "(unreachable)", ..PROBE }, "trapped"),
        (
            Probe { schema: 4, init: ["UPDATE OR ROLLBACK t SET k = 1 WHERE v = 'two'", ""], ..PROBE },
            "rolled the whole",
        ),
    ] {
        rig.one(call("ignore", "INSERT OR IGNORE INTO t VALUES (2, 'two')")).unwrap();
        let module = probe.build();
        rig.one(whole(&module)).unwrap();
        let before = rig.reader.active().unwrap();
        let outcomes = rig.batch([
            call("exec", "INSERT INTO t VALUES (3, 'batch')"),
            activation(&module, false),
            call("exec", "DELETE FROM t WHERE k = 3"),
        ]);
        assert!(message(&outcomes[1]).contains("init of module probe 1.0.0 failed"), "{outcomes:?}");
        assert!(message(&outcomes[1]).contains(words), "{outcomes:?}");
        assert_eq!(number(&outcomes[2]), 1);
        assert_eq!(rig.number("SELECT count(*) FROM t"), 2);
        assert_eq!(rig.reader.active().unwrap().record, before.record);
    }
}

#[test]
fn activation_in_a_batch_and_readers_learn_of_it() {
    let mut rig = Rig::probe();
    let generation = rig.reader.generation();
    let next = Probe { version: "2", service: service(None, false), ..PROBE }.build();
    let outcomes = rig.batch([whole(&next), call("exec", "SELECT 1"), activation(&next, true), call("memory", "")]);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(rig.reader.generation() > generation);
    let active = rig.reader.active().unwrap();
    assert_eq!((active.record.version.as_str(), active.reuse, active.record.activated_index), ("2", true, 5));
    assert_eq!(active.is_query("p.v1.P/Read"), Some(true));
    assert_eq!(active.is_query("p.v1.P/Write"), Some(false));
    assert_eq!(active.is_query("p.v1.P/None"), None);
    assert!(active.descriptors.get_service_by_name("p.v1.P").is_some());
    let listed = rig.reader.modules().unwrap();
    assert_eq!(
        listed.iter().map(|m| (m.version.as_str(), m.active)).collect::<Vec<_>>(),
        [("1.0.0", false), ("2", true)]
    );
    // All of that from the tables.
    let rig = rig.reopen();
    let again = rig.reader.active().unwrap();
    assert_eq!((&again.record, &again.service, again.limits), (&active.record, &active.service, active.limits));
    assert_eq!(again.is_query("p.v1.P/Read"), Some(true));
    let generation = rig.reader.generation();
    let mut rig = rig;
    rig.one(call("exec", "SELECT 1")).unwrap();
    assert_eq!(rig.reader.generation(), generation);
}

#[test]
fn activating_what_is_no_module_is_a_rejection_on_every_host() {
    let junk = b"\0asm\x0d\0\x01\0 no component follows".to_vec();
    let mut rig = Rig::probe();
    rig.one(whole(&junk)).unwrap();
    let outcome = rig.one(activation(&junk, false));
    assert_eq!(code(&outcome), Some(Code::FailedPrecondition));
    assert!(message(&outcome).contains("no valid component"), "{outcome:?}");
    assert_eq!(code(&rig.one(activation(b"never uploaded", false))), Some(Code::NotFound));
    assert_eq!(rig.number("SELECT 5"), 5);
}

#[test]
fn a_retried_activation_is_answered_and_not_done_again() {
    let mut rig = Rig::probe();
    let index = rig.next();
    let body = activation(&PROBE.build(), false);
    rig.command(with_session(command(index, body.clone()), "admin", 1)).unwrap();
    rig.command(with_session(command(index + 1, body), "admin", 1)).unwrap();
    assert_eq!(rig.reader.active().unwrap().record.activated_index, index);
}

#[test]
fn a_damaged_compiled_module_is_compiled_again() {
    let module = Probe { version: "cache", ..PROBE }.build();
    let folder = tempfile::tempdir().unwrap();
    let inspect = || Sandbox::new(SandboxOptions::new(folder.path())).unwrap().inspect(&module).unwrap();
    let found = inspect();
    let file = || {
        let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    };
    let good = std::fs::read(file()).unwrap();
    assert!(file().file_name().unwrap().to_str().unwrap().starts_with(&found.digest.to_string()));
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for damaged in [flipped, good[..good.len() / 2].to_vec(), Vec::new(), b"TGCWASM1 junk".to_vec()] {
        std::fs::write(file(), &damaged).unwrap();
        assert_eq!(inspect(), found);
        // Whole again.
        let again = std::fs::read(file()).unwrap();
        assert_eq!(again.len(), good.len());
        assert!(again != damaged, "a damaged file was used");
    }
    // And a sound file is used: a module that is only in the cache needs no compiler.
    let before = std::fs::metadata(file()).unwrap().modified().unwrap();
    assert_eq!(inspect(), found);
    assert_eq!(std::fs::metadata(file()).unwrap().modified().unwrap(), before);
}
