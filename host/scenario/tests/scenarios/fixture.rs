//! Components made for these tests from `fixture.wat`: a key-value service that stores nothing.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What the component says of itself and does.
pub struct Fixture {
    pub version: &'static str,
    pub schema: u32,
    pub init_fails: bool,
    /// The number that is its answer, in Wasm text.
    pub number: &'static str,
}

/// Answers how many calls its instance has had: state in memory.
pub const REMEMBERS: Fixture =
    Fixture { version: "1.0.0", schema: 1, init_fails: false, number: "(global.get $calls)" };

/// A later version of the key-value module, that answers 99 whatever it is asked.
pub const LATER: Fixture = Fixture { version: "2.0.0", schema: 1, init_fails: false, number: "(i32.const 99)" };

/// A version whose data layout is newer, and that cannot get there.
pub const STUCK: Fixture = Fixture { version: "3.0.0", schema: 2, init_fails: true, number: "(i32.const 99)" };

impl Fixture {
    /// The component.
    pub fn build(&self) -> Vec<u8> {
        let escaped = |bytes: &[u8]| bytes.iter().map(|b| format!("\\{b:02x}")).collect::<String>();
        let service = telegraft_proto::kv::FILE_DESCRIPTOR_SET;
        let text = include_str!("fixture.wat")
            .replace("{version}", self.version)
            .replace("{version_len}", &self.version.len().to_string())
            .replace("{schema}", &self.schema.to_string())
            .replace("{service}", &escaped(service))
            .replace("{service_len}", &service.len().to_string())
            .replace("{init_fails}", &u32::from(self.init_fails).to_string())
            .replace("{number}", self.number);
        let mut core = wat::parse_str(text).expect("fixture.wat");
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let (package, _) = resolve.push_path(wit).expect("wit");
        let world = resolve.select_world(&[package], Some("state-machine")).expect("world");
        embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("metadata");
        ComponentEncoder::default().module(&core).and_then(|e| e.validate(true).encode()).expect("component")
    }
}
