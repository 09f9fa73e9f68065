//! Running the tools of a language: their lines are shown while they run, and kept for the error.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::mpsc::{Sender, channel},
    thread,
};

use crate::BuildError;

/// Lines of a failed tool that its error shows: compilers say the cause first, so this is generous.
const LINES_KEPT: usize = 400;

/// Runs a tool to its end without input; each line it prints, on either stream, is handed to `say` as it comes.
///
/// # Errors
///
/// [`BuildError::MissingTool`] with the `advice` where there is no such program, [`BuildError::ToolFailed`] with the last lines
/// it printed where it fails.
pub fn run(command: &mut Command, tool: &str, advice: &str, say: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    let missing = |error: std::io::Error| BuildError::MissingTool {
        tool: tool.to_owned(),
        problem: if error.kind() == std::io::ErrorKind::NotFound {
            "it is not installed".to_owned()
        } else {
            format!("it cannot be run: {error}")
        },
        advice: advice.to_owned(),
    };
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(missing)?;
    let (lines, printed) = channel();
    let readers = [
        child.stdout.take().map(|stream| pass_on(stream, lines.clone())),
        child.stderr.take().map(|stream| pass_on(stream, lines)),
    ];
    let mut kept = VecDeque::new();
    for line in printed {
        say(&line);
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    for reader in readers.into_iter().flatten() {
        // A reader that panicked has lost lines, nothing else.
        let _ = reader.join();
    }
    let status = child.wait().map_err(missing)?;
    if status.success() {
        return Ok(());
    }
    let output = kept.into_iter().collect::<Vec<_>>().join("\n");
    Err(BuildError::ToolFailed { tool: tool.to_owned(), status: status.to_string(), output })
}

fn pass_on(stream: impl Read + Send + 'static, lines: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(stream.read_until(b'\n', &mut line), Ok(read) if read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if lines.send(text).is_err() {
                break;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_is_quoted_and_one_that_is_missing_comes_with_advice() {
        let mut said = Vec::new();
        let mut script = Command::new("sh");
        script.args(["-c", "echo out; echo no >&2; exit 3"]);
        let error = run(&mut script, "sh", "get sh", &mut |line| said.push(line.to_owned())).unwrap_err();
        assert!(matches!(&error, BuildError::ToolFailed { output, .. } if output.contains("no")), "{error}");
        said.sort();
        assert_eq!(said, ["no", "out"]);

        let error = run(&mut Command::new("no-such-tool-here"), "x", "get x", &mut |_| {}).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("what to do: get x"), "{error}");
    }
}
