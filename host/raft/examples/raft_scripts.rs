//! Runs interaction scripts from any folder against the core and says where they differ.
//!
//! `cargo run --release -p telegraft-raft --example raft_scripts -- [--rewrite] FOLDER…`
//!
//! The kind of a script is told by its folder (`scripts`, `confchange`, `quorum`); folders are searched to any depth.
//! Every difference is printed, and last a line `N passed, M failed, D directives run`. `--rewrite` writes what the core
//! gives into the scripts as their expected output, which a person then reads against the paper.
//!
//! Exit status: 0 all passed, 1 some failed, 2 wrong usage or an unreadable folder.

use std::path::PathBuf;
use std::process::ExitCode;

#[path = "../tests/interpreter/mod.rs"]
mod interpreter;

const USAGE: &str = "usage: raft_scripts [--rewrite] FOLDER…";

fn main() -> ExitCode {
    let mut rewrite = false;
    let mut roots = Vec::new();
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("--rewrite") => rewrite = true,
            Some("-h" | "--help") => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            Some(option) if option.starts_with('-') => return refuse(&format!("unknown option {option}")),
            _ => roots.push(PathBuf::from(argument)),
        }
    }
    if roots.is_empty() {
        return refuse("no folder given");
    }
    let mut scripts = Vec::new();
    for root in roots {
        match interpreter::find_scripts(&root) {
            Ok(found) if found.is_empty() => return refuse(&format!("{}: no script (*.txt) in it", root.display())),
            Ok(found) => scripts.extend(found),
            Err(error) => return refuse(&format!("{}: {error}", root.display())),
        }
    }
    // A panic of the core is reported with its script; the default hook would print it a second time.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut passed, mut failed, mut directives) = (0_usize, 0_usize, 0_usize);
    for script in scripts {
        let outcome = if rewrite { interpreter::rewrite_file(&script) } else { interpreter::run_file(&script) };
        directives += outcome.as_ref().map_or(0, |outcome| outcome.directives);
        match outcome {
            Ok(outcome) if outcome.passed() => passed += 1,
            Ok(outcome) if rewrite && outcome.completed() => {
                println!("{}: rewritten", script.display());
                passed += 1;
            }
            Ok(outcome) => {
                print!("{}", interpreter::explain(&script, &outcome));
                failed += 1;
            }
            Err(error) => {
                println!("{}: {error}", script.display());
                failed += 1;
            }
        }
    }
    println!("{directives} directives run");
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn refuse(reason: &str) -> ExitCode {
    eprintln!("{reason}\n{USAGE}");
    ExitCode::from(2)
}
