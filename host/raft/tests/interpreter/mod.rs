//! Runs interaction scripts against the core: one file, one behaviour, step by step.
//!
//! | file | what it owns |
//! |---|---|
//! | `datadriven.rs` | the file form: directives, input, expected output |
//! | `compare.rs` | what counts as equal, and how a difference reads |
//! | `environment.rs` | the nodes and the network between them; what a script can make them do |
//! | `node.rs` | one node with the queues of its append and apply threads |
//! | `commands.rs` | the commands of an interaction script |
//! | `faults.rs` | the commands that make something go wrong |
//! | `store.rs` | a node's durable log and state machine history |
//! | `print.rs` | the printed forms of messages, entries, progress and `Ready` |
//! | `confchange.rs`, `quorum.rs` | the two smaller languages for configuration changes and quorum arithmetic |
//!
//! The kind of a script is told by the name of a folder above it: `confchange`, `quorum`, anything else is an
//! interaction script. A directive that cannot be carried out as written, and a core that panics, end the script and
//! are reported with file and line; they never end the run.

// The test and the example each use a part of this module.
#![allow(dead_code)]

pub mod commands;
pub mod compare;
pub mod confchange;
pub mod datadriven;
pub mod environment;
pub mod faults;
pub mod node;
pub mod print;
pub mod quorum;
pub mod store;

use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use datadriven::{Directive, Piece, ScriptError};

/// Which language a script is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nodes, messages and storage.
    Interaction,
    /// Changes applied to a configuration, without nodes.
    ConfChange,
    /// Vote and commit arithmetic of a majority or joint quorum.
    Quorum,
}

impl Kind {
    /// The kind a path says: the innermost folder named for one of the languages decides.
    pub fn of(path: &Path) -> Kind {
        for folder in path.ancestors().skip(1).filter_map(Path::file_name) {
            match folder.to_str() {
                Some("confchange") => return Kind::ConfChange,
                Some("quorum") => return Kind::Quorum,
                Some("scripts" | "interaction") => return Kind::Interaction,
                _ => {}
            }
        }
        Kind::Interaction
    }

    fn machine(self) -> Box<dyn Machine> {
        match self {
            Kind::Interaction => Box::new(environment::Environment::default()),
            Kind::ConfChange => Box::new(confchange::Changes::default()),
            Kind::Quorum => Box::new(quorum::Quorums),
        }
    }
}

/// What carries out the directives of one script, in order.
pub trait Machine {
    /// Carries out one directive and returns its output.
    ///
    /// # Errors
    ///
    /// The directive cannot be carried out as written. An error the core answers with is output, not this.
    fn run(&mut self, directive: &Directive) -> Result<String, ScriptError>;
}

/// Why a script failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The output is not the expected one.
    Difference {
        /// Line of the command.
        line: usize,
        /// The command with its arguments.
        command: String,
        /// Expected lines, log lines dropped.
        expected: Vec<String>,
        /// Actual lines, log lines dropped.
        actual: Vec<String>,
    },
    /// The script is not readable or a directive is not one.
    Bad(ScriptError),
    /// The core panicked.
    Panicked {
        /// Line of the command.
        line: usize,
        /// The panic's text.
        message: String,
    },
}

/// The outcome of one script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many directives ran to their end.
    pub directives: usize,
    /// The output of each of them.
    pub outputs: Vec<String>,
    /// What went wrong; empty where the script passed.
    pub troubles: Vec<Trouble>,
}

impl Outcome {
    /// Whether every directive gave what was expected.
    pub fn passed(&self) -> bool {
        self.troubles.is_empty()
    }

    /// Whether every directive could be carried out, whatever it gave.
    pub fn completed(&self) -> bool {
        self.troubles.iter().all(|trouble| matches!(trouble, Trouble::Difference { .. }))
    }
}

/// Runs the text of one script.
pub fn run_text(kind: Kind, text: &str) -> Outcome {
    run_on(kind.machine().as_mut(), text)
}

/// Runs the text of one script on a machine.
pub fn run_on(machine: &mut dyn Machine, text: &str) -> Outcome {
    let mut outcome = Outcome { directives: 0, outputs: Vec::new(), troubles: Vec::new() };
    let pieces = match datadriven::parse(text) {
        Ok(pieces) => pieces,
        Err(error) => {
            outcome.troubles.push(Trouble::Bad(error));
            return outcome;
        }
    };
    for piece in &pieces {
        let Piece::Directive(directive) = piece else { continue };
        // A panic leaves the machine in an unknown state; it is dropped right after.
        let actual = match panic::catch_unwind(AssertUnwindSafe(|| machine.run(directive))) {
            Ok(Ok(actual)) => actual,
            Ok(Err(error)) => {
                outcome.troubles.push(Trouble::Bad(error));
                return outcome;
            }
            Err(payload) => {
                let message = payload
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_else(|| "panic without a text".to_owned());
                outcome.troubles.push(Trouble::Panicked { line: directive.line, message });
                return outcome;
            }
        };
        outcome.directives += 1;
        if let Some((expected, actual)) = compare::difference(&directive.expected, &actual) {
            let command = directive.arguments.iter().fold(directive.command.clone(), |mut line, argument| {
                line.push(' ');
                line.push_str(&argument.raw);
                line
            });
            outcome.troubles.push(Trouble::Difference { line: directive.line, command, expected, actual });
        }
        outcome.outputs.push(actual);
    }
    outcome
}

/// Runs the script in a file.
///
/// # Errors
///
/// The file cannot be read.
pub fn run_file(path: &Path) -> io::Result<Outcome> {
    // A relative path may not name the folder it lies in.
    Ok(run_text(Kind::of(&path.canonicalize()?), &fs::read_to_string(path)?))
}

/// Runs the script in a file and writes it back with the output it gave. `Ok(outcome)` tells how it ran; a script that
/// did not run to its end is left as it is.
///
/// # Errors
///
/// The file cannot be read or written.
pub fn rewrite_file(path: &Path) -> io::Result<Outcome> {
    let text = fs::read_to_string(path)?;
    let outcome = run_text(Kind::of(&path.canonicalize()?), &text);
    if outcome.completed() {
        // Parsing succeeded a moment ago: a script that does not parse is not completed.
        if let Ok(pieces) = datadriven::parse(&text) {
            let written = datadriven::render(&pieces, outcome.outputs.iter().map(String::as_str));
            if written != text {
                fs::write(path, written)?;
            }
        }
    }
    Ok(outcome)
}

/// All scripts (`*.txt`) below a folder, sorted; a file is itself.
///
/// # Errors
///
/// A folder cannot be read.
pub fn find_scripts(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut scripts = Vec::new();
    if root.is_file() {
        scripts.push(root.to_owned());
        return Ok(scripts);
    }
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "txt") {
                scripts.push(path);
            }
        }
    }
    scripts.sort();
    Ok(scripts)
}

/// What went wrong in one script, for a person to read.
pub fn explain(path: &Path, outcome: &Outcome) -> String {
    let mut text = String::new();
    for trouble in &outcome.troubles {
        match trouble {
            Trouble::Difference { line, command, expected, actual } => {
                text.push_str(&format!("{}:{line}: {command}\n", path.display()));
                text.push_str(&compare::side_by_side(expected, actual));
            }
            Trouble::Bad(error) => text.push_str(&format!("{}:{}: {}\n", path.display(), error.line, error.reason)),
            Trouble::Panicked { line, message } => {
                text.push_str(&format!("{}:{line}: the core panicked: {message}\n", path.display()));
            }
        }
    }
    text
}
