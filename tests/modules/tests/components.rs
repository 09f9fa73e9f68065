//! What the built components are: the world they are made for, and that nothing else reaches them from outside.

use std::process::Command;

use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldId, WorldItem, WorldKey};

fn world(component: &[u8]) -> (Resolve, WorldId) {
    match wit_component::decode(component).expect("a component") {
        DecodedWasm::Component(resolve, world) => (resolve, world),
        DecodedWasm::WitPackage(..) => panic!("a WIT package in place of a component"),
    }
}

/// The interfaces among `items`, each with the number of its functions. Anything that is no interface fails the test.
fn interfaces<'a>(
    resolve: &Resolve,
    items: impl Iterator<Item = (&'a WorldKey, &'a WorldItem)>,
) -> Vec<(String, usize)> {
    let mut found: Vec<_> = items
        .map(|(key, item)| match (key, item) {
            (WorldKey::Interface(id), WorldItem::Interface { .. }) => {
                (resolve.id_of(*id).expect("a package's interface"), resolve.interfaces[*id].functions.len())
            }
            other => panic!("not an interface of a package: {other:?}"),
        })
        .collect();
    found.sort();
    found
}

#[test]
fn modules_import_the_store_and_the_log_and_nothing_else() {
    for (name, component) in telegraft_modules::ALL {
        let (resolve, world) = world(component);
        let imports = interfaces(&resolve, resolve.worlds[world].imports.iter());
        // The third one has types and no function: nothing can be called through it.
        let expected = [
            ("telegraft:machine/log@0.1.0", 1),
            ("telegraft:machine/store@0.1.0", 2),
            ("telegraft:machine/types@0.1.0", 0),
        ];
        assert_eq!(imports, expected.map(|(name, functions)| (name.to_owned(), functions)), "{name}");
    }
}

#[test]
fn modules_export_the_machine_and_the_way_back_only_where_they_have_one() {
    for (name, component) in telegraft_modules::ALL {
        let (resolve, world) = world(component);
        let exports = interfaces(&resolve, resolve.worlds[world].exports.iter());
        let mut expected = vec![("telegraft:machine/machine@0.1.0".to_owned(), 4)];
        if name == "greetings.wasm" {
            expected.insert(0, ("telegraft:machine/downgrade@0.1.0".to_owned(), 1));
        }
        assert_eq!(exports, expected, "{name}");
    }
}

#[test]
fn modules_are_small_and_carry_no_paths_of_the_machine_that_built_them() {
    let home = std::env::var("HOME").unwrap_or_default();
    for (name, component) in telegraft_modules::ALL {
        assert!(component.len() < 128 * 1024, "{name} has {} bytes", component.len());
        for path in [env!("CARGO_MANIFEST_DIR"), home.as_str()] {
            let found = path.len() > 1 && component.windows(path.len()).any(|bytes| bytes == path.as_bytes());
            assert!(!found, "{name} carries {path}");
        }
    }
}

#[test]
fn the_program_writes_the_modules_and_prints_their_digests() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("new/modules");
    let run = Command::new(env!("CARGO_BIN_EXE_telegraft-modules")).arg(&target).output().expect("runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let printed = String::from_utf8(run.stdout).expect("text");
    for ((name, component), line) in telegraft_modules::ALL.into_iter().zip(printed.lines()) {
        assert_eq!(std::fs::read(target.join(name)).expect("written"), component);
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(fields[..4], [name, &component.len().to_string(), "bytes", "sha256"]);
        assert_eq!(fields[4].len(), 64);
    }
    assert_eq!(printed.lines().count(), telegraft_modules::ALL.len());

    let without = Command::new(env!("CARGO_BIN_EXE_telegraft-modules")).output().expect("runs");
    assert_eq!(without.status.code(), Some(2));
    let file = target.join("chat.wasm");
    let onto_file = Command::new(env!("CARGO_BIN_EXE_telegraft-modules")).arg(&file).output().expect("runs");
    assert_eq!(onto_file.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&onto_file.stderr).contains("chat.wasm"));
}
