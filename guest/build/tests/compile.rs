//! From .proto files to Rust, and what is refused on the way.

use std::{fs, path::Path};

use telegraft_guest_build::Builder;

/// What is generated of `proto`, a file `test.proto`; or the error's text.
fn generate(proto: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.proto");
    fs::write(&file, proto).unwrap();
    compile(folder.path(), Builder::new().out(folder.path()), &file)
}

fn compile(folder: &Path, builder: Builder, file: &Path) -> Result<String, String> {
    builder.compile(&[file]).map_err(|error| format!("{error:?}"))?;
    Ok(fs::read_to_string(folder.join("test.v1.rs")).unwrap())
}

fn refusal(proto: &str) -> String {
    generate(proto).expect_err("refused")
}

const HEAD: &str = "syntax = \"proto3\"; package test.v1; message Ask { string a = 1; } message Reply { bytes b = 1; }";

#[test]
fn a_service_becomes_a_trait_and_a_dispatch_by_full_names() {
    let rust = generate(&format!(
        "{HEAD} // What tests ask.
        service Tests {{
            // Changes something.
            rpc DoIt(Ask) returns (Reply);
            rpc Match(Ask) returns (Reply) {{ option idempotency_level = IDEMPOTENT; }}
            rpc ReadIt(Ask) returns (Reply) {{ option idempotency_level = NO_SIDE_EFFECTS; }}
        }}"
    ))
    .unwrap();
    for line in [
        "pub trait Tests {",
        "/// Changes something.",
        "fn do_it(command: &::telegraft_guest::Command<'_>, request: Ask)",
        // A word of Rust; and what may be repeated still writes.
        "fn r#match(command: &::telegraft_guest::Command<'_>, request: Ask)",
        "fn read_it(query: &::telegraft_guest::Query<'_>, request: Ask)",
        "pub struct TestsService;",
        "\"test.v1.Tests/DoIt\" => ::telegraft_guest::answer(request, |request| M::do_it(command, request)),",
        "\"test.v1.Tests/ReadIt\" => ::telegraft_guest::answer(request, |request| M::read_it(query, request)),",
        "pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/test.v1.bin\"));",
        "pub b: ::telegraft_guest::prost::alloc::vec::Vec<u8>,",
    ] {
        assert!(rust.contains(line), "no {line} in:\n{rust}");
    }
    let apply = rust.split("fn apply(").nth(1).unwrap().split("fn query(").next().unwrap();
    assert!(!apply.contains("ReadIt"), "{apply}");
}

#[test]
fn imports_are_found_and_their_services_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("test")).unwrap();
    fs::write(
        at("test/shared.proto"),
        "syntax = \"proto3\"; package test.v1; message Ask {} service Other { rpc A(Ask) returns (Ask); }",
    )
    .unwrap();
    fs::write(
        at("test/own.proto"),
        "syntax = \"proto3\"; package test.v1; import \"test/shared.proto\";
         service Own { rpc A(Ask) returns (Ask); }",
    )
    .unwrap();
    let builder = || Builder::new().include(folder.path()).out(folder.path());
    let rust = compile(folder.path(), builder(), &at("test/own.proto")).unwrap();
    assert!(rust.contains("pub trait Own") && rust.contains("pub struct Ask"), "{rust}");
    assert!(!rust.contains("Other"), "{rust}");
    let described = fs::read(at("test.v1.bin")).unwrap();
    assert!(described.windows(17).any(|name| name == b"test/shared.proto"));
    // Named from the folder of the imports, as in an import.
    compile(folder.path(), builder(), Path::new("test/own.proto")).unwrap();
}

#[test]
fn streams_are_refused_by_name() {
    for (signature, how) in [
        ("(stream Ask) returns (Reply)", "streams its requests"),
        ("(Ask) returns (stream Reply)", "streams its replies"),
        ("(stream Ask) returns (stream Reply)", "streams both ways"),
    ] {
        let text = refusal(&format!("{HEAD} service Tests {{ rpc Good(Ask) returns (Reply); rpc Watch{signature}; }}"));
        assert!(text.contains(&format!("test.proto: the method test.v1.Tests/Watch {how}: ")), "{text}");
    }
}

#[test]
fn what_is_missing_is_named() {
    assert!(refusal(HEAD).contains("test.proto: there is no service"), "{}", refusal(HEAD));
    let text = refusal("syntax = \"proto3\"; message A {} service S { rpc A1(A) returns (A); }");
    assert!(text.contains("test.proto: there is no package"), "{text}");
    let text = refusal(&format!("{HEAD} service Tests {{}}"));
    assert!(text.contains("test.v1.Tests has no rpc"), "{text}");
    let text = refusal(&format!("{HEAD} service Tests {{ rpc A(Ask) returns (Reply); rpc a(Ask) returns (Reply); }}"));
    assert!(text.contains("the methods A and a of test.v1.Tests"), "{text}");
    let text = refusal(&format!("{HEAD} message TestsService {{}} service Tests {{ rpc A(Ask) returns (Reply); }}"));
    assert!(text.contains("the message TestsService"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let missing = compile(folder.path(), Builder::new().out(folder.path()), &folder.path().join("poll.proto"));
    assert!(missing.unwrap_err().starts_with("there is no file "));
}

#[test]
fn mistakes_in_the_file_are_shown_with_their_place() {
    let text = refusal("syntax = \"proto3\";\npackage test.v1;\nservice Tests { rpc A(Asks) returns (Reply); }");
    assert!(text.contains("test.proto:3:") && text.contains("Asks"), "{text}");
    let text = refusal("syntax = \"proto3\";\npackage test.v1;\nservice Tests { rpc }");
    assert!(text.contains("test.proto:3:") && text.contains('}'), "{text}");
    let text = refusal("syntax = \"proto3\";\npackage test.v1;\nservice");
    assert!(text.contains("test.proto: ") && text.contains("end of file"), "{text}");
}
