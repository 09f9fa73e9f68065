//! The histories that Jepsen recorded of etcd 0.4 and that later checkers were measured on, with the verdicts that these
//! checkers agree on. etcd then answered reads without a quorum, so that most of them are not linearizable.
//!
//! The recordings are not in this repository: the crate `todc-utils` carries them among its own tests, and Cargo has
//! unpacked it as a dependency of this test. Its checker, which shares nothing with ours, judges them here too.

use std::path::{Path, PathBuf};
use std::process::Command;

use telegraft_sim::linearizability::{Call, Found, History, Outcome, Verdict, check, find_order};
use todc_utils::WGLChecker;
use todc_utils::specifications::etcd::{EtcdSpecification, history_from_log};

use crate::brute_force;
use crate::models::{Register, RegisterOp, RegisterRet};

/// The linearizable ones of the recordings 0 to 102, as published with the checker of Horn and Kroening and repeated by
/// the tests of `todc-utils` and of Porcupine. In recording 95 etcd did not start.
const LINEARIZABLE: [u32; 23] =
    [2, 5, 7, 18, 25, 31, 38, 45, 48, 49, 51, 53, 56, 67, 75, 76, 80, 87, 92, 98, 100, 101, 102];
const RECORDINGS: u32 = 103;
const WITHOUT_A_CLUSTER: u32 = 95;

type EtcdHistory = History<RegisterOp, RegisterRet>;

#[test]
fn recordings_of_etcd_get_their_published_verdicts() {
    let folder = recordings();
    let mut linearizable = Vec::new();
    for number in (0..RECORDINGS).filter(|number| *number != WITHOUT_A_CLUSTER) {
        let history = read(&folder.join(format!("etcd_{number:03}.log")));
        match check(&history, &Register) {
            Verdict::Linearizable => linearizable.push(number),
            Verdict::NotLinearizable { explanation, .. } => {
                assert!(explanation.is_first, "recording {number}: the first wrong answer is not known: {explanation}");
            }
            undecided @ Verdict::Undecided { .. } => panic!("recording {number}: {undecided}"),
        }
    }
    assert_eq!(linearizable, LINEARIZABLE);
}

#[test]
fn orders_found_for_recordings_are_orders() {
    let folder = recordings();
    for number in LINEARIZABLE {
        let history = read(&folder.join(format!("etcd_{number:03}.log")));
        let Found::Order(order) = find_order(history.operations(), &Register, 1_000_000) else {
            panic!("recording {number} has an order");
        };
        assert!(brute_force::is_witness(history.operations(), &Register, &order), "recording {number}: {order:?}");
    }
}

#[test]
fn another_checker_agrees_on_the_recordings() {
    let folder = recordings();
    for number in (0..RECORDINGS).filter(|number| *number != WITHOUT_A_CLUSTER) {
        let path = folder.join(format!("etcd_{number:03}.log"));
        let theirs = WGLChecker::<EtcdSpecification>::is_linearizable(history_from_log(path.display().to_string()));
        assert_eq!(check(&read(&path), &Register).is_linearizable(), theirs, "recording {number}");
    }
}

/// What the explanation says is checked from outside: the history up to the named answer is not linearizable, the same
/// history without that answer is, by the other public way in.
#[test]
fn explanations_name_the_first_wrong_answer() {
    let folder = recordings();
    for number in [0, 1, 3, 40, 57, 85, 97, 99] {
        let history = read(&folder.join(format!("etcd_{number:03}.log")));
        let Verdict::NotLinearizable { explanation, .. } = check(&history, &Register) else {
            panic!("recording {number} is not linearizable");
        };
        let until = |end: u64| {
            let mut operations = history.operations().to_vec();
            operations.retain(|operation| operation.called.time() <= end);
            for operation in &mut operations {
                if operation.returned_at().is_some_and(|at| at.time() > end) {
                    operation.outcome = Outcome::Unknown;
                }
            }
            find_order(&operations, &Register, 1_000_000)
        };
        assert!(matches!(until(explanation.at), Found::Stuck { .. }), "recording {number}: {explanation}");
        assert!(matches!(until(explanation.at - 1), Found::Order(_)), "recording {number}: {explanation}");
    }
}

/// A known verdict is only worth something on the history that was published.
#[test]
fn recordings_are_read_whole() {
    let folder = recordings();
    let (mut answered, mut unknown, mut dropped) = (0, 0, 0);
    for number in 0..RECORDINGS {
        for operation in read(&folder.join(format!("etcd_{number:03}.log"))).operations() {
            match operation.outcome {
                Outcome::Returned { .. } => answered += 1,
                Outcome::Unknown => unknown += 1,
                Outcome::NoEffect => dropped += 1,
            }
        }
    }
    // Counted in the files by grep: 8,523 calls; 7,223 answers (1,748 of them refusals), 1,283 unknown, 17 failed reads.
    assert_eq!((answered, unknown, dropped), (7_223, 1_283, 17));
}

/// Where Cargo unpacked the crate that carries the recordings.
fn recordings() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", "host-tuple"])
        .arg("--manifest-path")
        .arg(&manifest)
        .output()
        .expect("Cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("Cargo writes JSON");
    let package = (metadata["packages"].as_array().into_iter().flatten())
        .find(|package| package["name"] == "todc-utils")
        .expect("todc-utils is a dependency of this test");
    let manifest = package["manifest_path"].as_str().expect("a package has a manifest");
    Path::new(manifest).with_file_name("tests").join("linearizability").join("etcd")
}

/// Reads a recording: lines such as `INFO  jepsen.util - 3  :invoke  :cas  [0 2]`, all at a time of their own.
fn read(path: &Path) -> EtcdHistory {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut history = EtcdHistory::new();
    let mut open: Vec<(u64, RegisterOp, Call)> = Vec::new();
    for (time, line) in (1..).zip(text.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["INFO", "jepsen.util", "-", process, event, function, arguments @ ..] = words.as_slice() else {
            continue;
        };
        let Ok(process) = process.parse() else {
            assert_eq!(*process, ":nemesis", "{line}");
            continue;
        };
        if *event == ":invoke" {
            let op = operation(function, arguments).unwrap_or_else(|| panic!("{line}"));
            let call = history.call(process, op.clone(), time);
            open.push((process, op, call));
            continue;
        }
        let at = open.iter().position(|(other, ..)| *other == process).unwrap_or_else(|| panic!("no call: {line}"));
        let (_, op, call) = open.swap_remove(at);
        match (*event, &op, arguments) {
            (":ok", RegisterOp::Read, ["nil"]) => history.returned(call, RegisterRet::Read(None), time),
            (":ok", RegisterOp::Read, [value]) => {
                history.returned(call, RegisterRet::Read(Some(value.parse().expect(line))), time);
            }
            (":ok", _, _) if operation(function, arguments).as_ref() == Some(&op) => {
                history.returned(call, RegisterRet::Done, time);
            }
            (":fail", RegisterOp::CompareAndSet(..), _) => history.returned(call, RegisterRet::Refused, time),
            (":fail", RegisterOp::Read, [":timed-out"]) => history.no_effect(call),
            // Dropped: it may have taken effect, or may yet.
            (":info", RegisterOp::Write(_) | RegisterOp::CompareAndSet(..), [":timed-out"]) => {}
            _ => panic!("not understood: {line}"),
        }
    }
    history
}

fn operation(function: &str, arguments: &[&str]) -> Option<RegisterOp> {
    match (function, arguments) {
        (":read", ["nil"]) => Some(RegisterOp::Read),
        (":write", [value]) => Some(RegisterOp::Write(value.parse().ok()?)),
        (":cas", [from, to]) => {
            Some(RegisterOp::CompareAndSet(from.strip_prefix('[')?.parse().ok()?, to.strip_suffix(']')?.parse().ok()?))
        }
        _ => None,
    }
}
