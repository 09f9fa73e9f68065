//! `module new` and `module build`: for those who write modules. What they do is `telegraft-author`'s; here is how it is
//! asked for and told.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use telegraft_author::{BuildError, Built, Language, MANIFEST_FILE, Scaffolded};

use super::{
    failure::{Failure, Kind},
    output::{Output, grouped, quoted},
};

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// `telegraft module new`
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  telegraft module new my-poll --language rust     in the folder my-poll

The project holds a poll that works, with tests, and a README with every command.")]
pub struct NewArgs {
    /// Name of the module and its package: lower-case letters, digits and hyphens
    name: String,
    /// What to write it in: rust, python or javascript
    #[arg(long, short, value_name = "LANGUAGE")]
    language: Language,
    /// Folder of the project, new or empty [default: the name]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// `telegraft module build`
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// Folder of the project, or the telegraft.toml in it
    #[arg(value_name = "DIR", default_value = ".")]
    project: PathBuf,
}

/// Makes a project.
///
/// # Errors
///
/// A name that is none, a folder that is taken.
pub fn new(args: &NewArgs, output: Output) -> Result<(), Failure> {
    let folder = args.folder.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let made = telegraft_author::new(&args.name, args.language, &folder).map_err(|error| failure(error, false))?;
    if output.json {
        return output.json(&json!({
            "name": args.name, "language": args.language.as_str(), "folder": absolute(&made.folder), "files": made.files,
            "next": next(&made, &args.name, args.language).map(|(command, _)| command),
        }));
    }
    output.line(&format!(
        "{}: a module in {}, {} files in {}\n",
        args.name,
        in_words(args.language),
        made.files.len(),
        absolute(&made.folder).display()
    ));
    output.line("next:");
    let next = next(&made, &args.name, args.language);
    let width = next.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    for (command, what) in next {
        output.line(format!("  {command:<width$}  {what}").trim_end());
    }
    output.line("\nREADME.md says the rest");
    Ok(())
}

/// Builds a project.
///
/// # Errors
///
/// A missing tool or project (exit code 2), or sources that make no module (1).
pub fn build(args: &BuildArgs, output: Output) -> Result<(), Failure> {
    let Some(project) = telegraft_author::project_of(&args.project).filter(|_| args.project.exists()) else {
        return Err(Failure::usage(no_project(&args.project)));
    };
    let begin = Instant::now();
    let built = build_with_progress(&project, output)?;
    let seconds = begin.elapsed().as_secs_f64();
    if output.json {
        return output.json(&built_json(&built, seconds));
    }
    output.line(&format!("{}: {} bytes, built in {seconds:.1} s", built.file.display(), grouped(built.size)));
    output.line(&format!("digest  {}", built.digest));
    output.line(&format!(
        "imports {}",
        if built.imports.is_empty() { "none".to_owned() } else { built.imports.join(", ") }
    ));
    output.line(&format!("run it with: telegraft dev --module {}", quoted(&built.file)));
    Ok(())
}

/// What is the matter with a path that is neither a project's folder nor its manifest, and what to do.
fn no_project(path: &Path) -> String {
    let shown = path.display();
    if !path.exists() {
        return format!("there is no folder {shown}; `telegraft module new NAME --language LANGUAGE` makes a project");
    }
    let is_component = path.extension().is_some_and(|ending| ending == "wasm");
    let rest = if is_component { "; a component is built already: telegraft dev --module FILE runs it" } else { "" };
    format!("{shown} is a file; name the folder of a project, the one with its {MANIFEST_FILE}{rest}")
}

/// Builds a project; a terminal sees a spinner with what goes on, another stream its lines, a machine nothing.
pub fn build_with_progress(project: &Path, output: Output) -> Result<Built, Failure> {
    let terminal = std::io::stderr().is_terminal();
    let lines = !terminal && !output.json;
    let bar = if terminal && !output.json { spinner() } else { ProgressBar::hidden() };
    let mut say = |line: &str| {
        if lines {
            eprintln!("{line}");
        } else {
            bar.set_message(line.trim().to_owned());
        }
    };
    let built = telegraft_author::build(project, &mut say);
    bar.finish_and_clear();
    built.map_err(|error| failure(error, lines))
}

/// A built module as JSON.
fn built_json(built: &Built, seconds: f64) -> Value {
    json!({
        "file": absolute(&built.file), "size": built.size, "digest": built.digest, "imports": built.imports,
        "exports": built.exports, "seconds": seconds,
    })
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} building, {elapsed}  {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TURN);
    bar
}

/// What to type next, and what it does.
fn next(made: &Scaffolded, name: &str, language: Language) -> [(String, &'static str); 4] {
    let (test, what) = match language {
        Language::Rust => ("cargo test", "runs the module's tests, without a cluster"),
        Language::Python => (".telegraft/venv/bin/python -m unittest", "once it was built: runs the module's tests"),
        Language::Javascript => ("npm test", "once it was built: runs the module's tests"),
    };
    [
        (format!("cd {}", quoted(&made.folder)), ""),
        ("telegraft dev --module . --watch".to_owned(), "builds it, runs it on three hosts, and swaps it as you edit"),
        (test.to_owned(), what),
        (
            format!("telegraft module test {name}.wasm --scenario scenarios/poll.toml"),
            "once it was built: a cluster whose leaders crash",
        ),
    ]
}

fn in_words(language: Language) -> &'static str {
    match language {
        Language::Rust => "Rust",
        Language::Python => "Python",
        Language::Javascript => "JavaScript",
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// In words, with what a tool printed unless that was `shown` already.
fn failure(error: BuildError, shown: bool) -> Failure {
    let kind = if error.is_usage() { Kind::Usage } else { Kind::Refused };
    match error {
        BuildError::ToolFailed { tool, status, output } => {
            let message = format!("{tool} failed ({status})");
            let details = json!({ "message": message, "output": output });
            let message = if shown { message } else { format!("{message}\n{output}") };
            Failure { kind, message, details }
        }
        error => Failure::new(kind, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_tool_is_quoted_once() {
        let error =
            || BuildError::ToolFailed { tool: "cargo".into(), status: "exit 101".into(), output: "E0308".into() };
        for (shown, quoted) in [(false, true), (true, false)] {
            let failure = failure(error(), shown);
            assert_eq!((failure.kind, failure.message.contains("E0308")), (Kind::Refused, quoted));
            assert_eq!(failure.details["output"], "E0308");
        }
        assert_eq!(failure(BuildError::Usage("no".into()), false).kind, Kind::Usage);
    }
}
