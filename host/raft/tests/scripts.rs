//! The project's own scripts, and the proof that the interpreter can fail one.

use std::path::{Path, PathBuf};

use interpreter::compare::{difference, side_by_side, significant};
use interpreter::datadriven::{Directive, Piece, ScriptError, parse, render};
use interpreter::{Kind, Machine, Trouble, explain, find_scripts, run_file, run_on, run_text};

mod interpreter;

/// How many scripts a topic of the protocol has at the least.
const SCRIPTS_OF_A_TOPIC_MIN: usize = 5;
/// How many scripts there are at the least.
const SCRIPTS_MIN: usize = 120;

fn own_scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

fn scripts_of(folder: &str) -> Vec<PathBuf> {
    find_scripts(&own_scripts().join(folder)).expect("the folder of the topic is readable")
}

/// Runs every script of a topic and names each that fails.
fn topic(folder: &str) {
    let scripts = scripts_of(folder);
    assert!(!scripts.is_empty(), "{folder} holds no script");
    let mut failed = String::new();
    for script in scripts {
        let outcome = run_file(&script).expect("the script is readable");
        assert!(outcome.directives > 0 || !outcome.passed(), "{} has no directive", script.display());
        failed.push_str(&explain(&script, &outcome));
    }
    assert!(failed.is_empty(), "\n{failed}");
}

macro_rules! topics {
    (protocol { $($name:ident),* $(,)? } arithmetic { $($pure:ident),* $(,)? }) => {
        $(#[test] fn $name() { topic(stringify!($name)); })*
        $(#[test] fn $pure() { topic(stringify!($pure)); })*

        #[test]
        fn every_topic_has_its_scripts_and_every_script_its_topic() {
            let mut all = 0;
            for folder in [$(stringify!($name)),*] {
                let count = scripts_of(folder).len();
                assert!(count >= SCRIPTS_OF_A_TOPIC_MIN, "{folder}: {count} scripts");
                all += count;
            }
            for folder in [$(stringify!($pure)),*] {
                all += scripts_of(folder).len();
            }
            assert!(all >= SCRIPTS_MIN, "{all} scripts");
            assert_eq!(all, find_scripts(&own_scripts()).expect("readable").len(), "a folder is run by no test");
        }
    };
}

topics! {
    protocol {
        elections, replication, commit, configuration, snapshots, reads, transfer, flow_control, async_storage,
    }
    arithmetic { confchange, quorum }
}

#[test]
fn every_script_says_first_what_it_shows() {
    for script in find_scripts(&own_scripts()).expect("readable") {
        let text = std::fs::read_to_string(&script).expect("readable");
        assert!(text.starts_with("# "), "{} opens without a comment", script.display());
    }
}

#[test]
fn a_wrong_expectation_is_reported_with_its_line() {
    let right =
        "add-nodes 1 voters=(1) index=2\n----\nok\n\nraft-state\n----\n1: StateFollower (Voter) Term:0 Lead:0\n";
    assert_eq!(run_text(Kind::Interaction, right).troubles, []);
    for wrong in [
        right.replace("Term:0", "Term:1"),
        right.replace("1: StateFollower", "2: StateFollower"),
        right.replace("Lead:0\n", "Lead:0\nand more\n"),
        right.replace("1: StateFollower (Voter) Term:0 Lead:0", "ok"),
        right.replace("1: StateFollower (Voter) Term:0 Lead:0", "INFO only a log line"),
    ] {
        let outcome = run_text(Kind::Interaction, &wrong);
        let [Trouble::Difference { line: 5, command, .. }] = &outcome.troubles[..] else {
            panic!("expected one difference at line 5, got {:?} for\n{wrong}", outcome.troubles);
        };
        assert_eq!(command, "raft-state");
        assert!(explain(Path::new("some/file.txt"), &outcome).contains("some/file.txt:5: raft-state"));
    }
}

#[test]
fn wrong_expectations_of_the_smaller_languages_are_reported() {
    let vote = "vote cfg=(1,2,3) votes=(y,n,_)\n----\nVotePending\n";
    assert_eq!(run_text(Kind::Quorum, vote).troubles, []);
    assert!(!run_text(Kind::Quorum, &vote.replace("Pending", "Won")).passed());
    let change = "simple\nv1\n----\nvoters=(1)\n1: StateProbe match=0 next=1\n";
    assert_eq!(run_text(Kind::ConfChange, change).troubles, []);
    assert!(!run_text(Kind::ConfChange, &change.replace("next=1", "next=2")).passed());
}

#[test]
fn what_cannot_be_carried_out_names_its_line() {
    let nodes = "add-nodes 1 voters=(1) index=2\n----\nok\n\n";
    for (directive, part) in [
        ("dance 1", "unknown command"),
        ("campaign 2", "does not exist"),
        ("campaign", "takes 1 arguments"),
        ("campaign one", "is not a"),
        ("campaign 1 loudly=yes", "unknown argument"),
        ("deliver-msgs 1 drop=(1)", "named twice"),
        ("deliver-msgs 1 type=MsgNone", "unknown kind of message"),
        ("log-level loud", "unknown log level"),
        ("propose-conf-change 1 transition=sideways", "unknown transition"),
        ("set-randomized-election-timeout 1", "takes timeout="),
        ("compact 1 99", "index 99"),
        ("add-nodes 1 voters=(1)", "index="),
        ("raft-log (1", "not closed"),
        ("hold-msgs type=MsgApp", "takes the node"),
        ("release-msgs 1 2", "unknown argument"),
        ("duplicate-msgs 1 type=MsgNone", "unknown kind of message"),
        ("restart 3", "does not exist"),
        ("snapshot-ready 1 maybe", "is not a"),
    ] {
        let outcome = run_text(Kind::Interaction, &format!("{nodes}{directive}\n----\nok\n"));
        let bad = outcome.troubles.iter().find_map(|trouble| match trouble {
            Trouble::Bad(error) => Some(error),
            _ => None,
        });
        let error = bad.unwrap_or_else(|| panic!("{directive:?} was carried out: {:?}", outcome.troubles));
        assert_eq!(error.line, 5, "{directive:?}: {error}");
        assert!(error.reason.contains(part), "{directive:?}: {error}");
        assert!(!outcome.completed());
    }
}

#[test]
fn a_panic_is_reported_and_ends_the_script() {
    struct Panics;
    impl Machine for Panics {
        fn run(&mut self, directive: &Directive) -> Result<String, ScriptError> {
            assert!(directive.command != "boom", "out of order");
            Ok("ok".to_owned())
        }
    }
    let outcome = run_on(&mut Panics, "fine\n----\nok\n\nboom\n----\nok\n\nfine\n----\nwrong\n");
    assert_eq!(outcome.troubles, [Trouble::Panicked { line: 5, message: "out of order".to_owned() }]);
    assert!(!outcome.completed());
}

#[test]
fn log_lines_do_not_count_and_everything_else_does() {
    assert_eq!(difference("ok", ""), None);
    assert_eq!(difference("INFO one\n  DEBUG two", "ok"), None);
    assert_eq!(difference("INFO one\nreal", "real"), None);
    assert_eq!(difference("real", "WARN x\nreal\n"), None);
    assert!(difference("real", "ok").is_some());
    assert!(difference("ok", "real").is_some());
    assert!(difference("real", " real").is_some(), "indentation counts");
    assert!(difference("a\nb", "b\na").is_some(), "order counts");
    assert!(difference("INFORM me", "ok").is_some(), "only the whole word is a level");
    let (left, right) = difference("a\nb\nc", "a\nx\nc").expect("they differ");
    assert_eq!(side_by_side(&left, &right), "    (- expected, + actual)\n    a\n  - b\n  + x\n    c\n");
    assert_eq!(significant("a  \n\n"), ["a"]);
}

fn directives(text: &str) -> Vec<Directive> {
    let pieces = parse(text).expect("the script is readable");
    pieces.into_iter().filter_map(|piece| if let Piece::Directive(it) = piece { Some(it) } else { None }).collect()
}

#[test]
fn the_parser_reads_arguments_input_and_output() {
    let text = "# comment\ncmd a b=c d=(1, 2,3) e=()\nin 1\nin 2\n----\nout 1\n# not a comment\n\n\nnext\n----\nnext2 \\\n x=1\n----\nok\n";
    let found = directives(text.replace("next\n----\n", "next\n----\n\n").as_str());
    assert_eq!(found.len(), 3);
    let first = &found[0];
    assert_eq!((first.line, first.command.as_str()), (2, "cmd"));
    assert_eq!(first.input, "in 1\nin 2");
    assert_eq!(first.expected, "out 1\n# not a comment");
    let arguments: Vec<(&str, Option<Vec<&str>>)> = first
        .arguments
        .iter()
        .map(|argument| {
            (argument.key.as_str(), argument.values.as_ref().map(|list| list.iter().map(String::as_str).collect()))
        })
        .collect();
    assert_eq!(arguments, [("a", None), ("b", Some(vec!["c"])), ("d", Some(vec!["1", "2", "3"])), ("e", Some(vec![]))]);
    assert_eq!((found[1].command.as_str(), found[1].expected.as_str()), ("next", ""));
    assert_eq!((found[2].command.as_str(), found[2].arguments[0].raw.as_str()), ("next2", "x=1"));
}

#[test]
fn fenced_output_may_hold_blank_lines() {
    let text = "cmd\n----\n----\none\n\ntwo\n----\n----\n\nnext\n----\nok\n";
    let found = directives(text);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].expected, "one\n\ntwo");
    assert_eq!(found[1].command, "next");
}

#[test]
fn unreadable_scripts_name_their_line() {
    for (text, line) in [("ok\n\ncmd", 1), ("cmd\n----\n----\nnever closed\n", 1), ("a\n----\n\ncmd )\n----\n", 4)] {
        assert_eq!(parse(text).expect_err(text).line, line, "{text:?}");
    }
}

#[test]
fn a_script_is_written_back_word_for_word_but_for_its_output() {
    let text = "# head\n\ncmd   a=(1,  2)\ninput\n----\nold\n\n# between\nother\n----\n----\nx\n\ny\n----\n----\n";
    let pieces = parse(text).expect("the script is readable");
    assert_eq!(render(&pieces, ["old", "x\n\ny"]), text);
    assert_eq!(render(&pieces, ["new\n", "x\n\ny"]), text.replace("old", "new"));
}

#[test]
fn the_kind_is_told_by_the_folder() {
    for (path, kind) in [
        ("a/confchange/x.txt", Kind::ConfChange),
        ("a/quorum/x.txt", Kind::Quorum),
        ("quorum/scripts/x.txt", Kind::Interaction),
        ("a/elections/x.txt", Kind::Interaction),
    ] {
        assert_eq!(Kind::of(Path::new(path)), kind, "{path}");
    }
}
