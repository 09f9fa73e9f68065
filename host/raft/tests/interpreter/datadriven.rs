//! The file form of a script: comments, directives and the output each directive is expected to give.
//!
//! A directive is a command line, optional input lines, a line `----` and the expected output, which ends at the first
//! blank line. Where the output itself holds blank lines it is fenced: `----` twice before it and twice after it. A
//! line that begins with `#` between directives is a comment; a command line that ends in a backslash goes on in the
//! next line.
//!
//! Everything that is not expected output is kept word for word, so that a script can be written back with new output.

use std::fmt::Write as _;
use std::str::FromStr;

/// One word of a command line: `key`, `key=value` or `key=(value, value)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// The word before `=`; the whole word of a positional argument.
    pub key: String,
    /// What stands after `=`; `None` for a positional argument, empty for `key=` and `key=()`.
    pub values: Option<Vec<String>>,
    /// The argument as written.
    pub raw: String,
}

/// One command with its input and its expected output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Line of the command in its file, from 1.
    pub line: usize,
    /// First word of the command line.
    pub command: String,
    /// The other words, in order.
    pub arguments: Vec<Argument>,
    /// The lines between the command and `----`, joined by newlines.
    pub input: String,
    /// The expected output without a final newline.
    pub expected: String,
    /// Command and input lines as written, for writing the script back.
    head: Vec<String>,
}

/// A piece of a script, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A comment or blank line.
    Text(String),
    /// A directive.
    Directive(Directive),
}

/// A script that cannot be read, or a directive that cannot be carried out as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ScriptError {
    /// Line of the script, from 1.
    pub line: usize,
    /// What is wrong, in words for the script's author.
    pub reason: String,
}

const SEPARATOR: &str = "----";

/// Reads a whole script.
///
/// # Errors
///
/// A directive without `----`, a fence that is not closed, or unbalanced parentheses.
pub fn parse(text: &str) -> Result<Vec<Piece>, ScriptError> {
    let lines: Vec<&str> = text.lines().collect();
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            pieces.push(Piece::Text(line.to_owned()));
            at += 1;
            continue;
        }
        let (directive, next) = parse_directive(&lines, at)?;
        pieces.push(Piece::Directive(directive));
        at = next;
    }
    Ok(pieces)
}

fn parse_directive(lines: &[&str], start: usize) -> Result<(Directive, usize), ScriptError> {
    let bad = |reason: &str| ScriptError { line: start + 1, reason: reason.to_owned() };
    let mut at = start;
    let mut command_line = String::new();
    loop {
        let Some(line) = lines.get(at) else { return Err(bad("the command line ends in a backslash at end of file")) };
        at += 1;
        match line.strip_suffix('\\') {
            Some(part) => {
                command_line.push_str(part);
                command_line.push(' ');
            }
            None => {
                command_line.push_str(line);
                break;
            }
        }
    }
    let mut input = Vec::new();
    loop {
        match lines.get(at) {
            None => return Err(bad("the directive has no `----` line before the end of the file")),
            Some(&SEPARATOR) => break,
            Some(line) => input.push(*line),
        }
        at += 1;
    }
    let head = lines[start..at].iter().map(|line| (*line).to_owned()).collect();
    at += 1;
    let mut expected = Vec::new();
    if lines.get(at) == Some(&SEPARATOR) {
        at += 1;
        loop {
            match (lines.get(at), lines.get(at + 1)) {
                (None, _) => return Err(bad("the fenced output is not closed by two `----` lines")),
                (Some(&SEPARATOR), Some(&SEPARATOR)) => break,
                (Some(line), _) => expected.push(*line),
            }
            at += 1;
        }
        at += 2;
    } else {
        while let Some(line) = lines.get(at).filter(|line| !line.trim().is_empty()) {
            expected.push(*line);
            at += 1;
        }
    }
    let mut words = split_words(&command_line).map_err(|reason| bad(&reason))?.into_iter();
    let command = words.next().ok_or_else(|| bad("the command line is empty"))?;
    let arguments = words.map(|word| argument(&word)).collect::<Result<_, _>>().map_err(|reason| bad(&reason))?;
    let (input, expected) = (input.join("\n"), expected.join("\n"));
    Ok((Directive { line: start + 1, command, arguments, input, expected, head }, at))
}

/// Splits a command line at white space outside parentheses.
fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut depth = 0_u32;
    for c in line.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or_else(|| format!("`)` without `(` in {line:?}"))?,
            _ => {}
        }
        if c.is_whitespace() && depth == 0 {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
    }
    if depth != 0 {
        return Err(format!("`(` is not closed in {line:?}"));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

fn argument(word: &str) -> Result<Argument, String> {
    let Some((key, value)) = word.split_once('=') else {
        return Ok(Argument { key: word.to_owned(), values: None, raw: word.to_owned() });
    };
    if key.is_empty() {
        return Err(format!("{word:?} has no key before `=`"));
    }
    let values = match value.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(list) if list.trim().is_empty() => Vec::new(),
        Some(list) => list.split(',').map(|item| item.trim().to_owned()).collect(),
        None if value.is_empty() => Vec::new(),
        None => vec![value.to_owned()],
    };
    Ok(Argument { key: key.to_owned(), values: Some(values), raw: word.to_owned() })
}

impl Argument {
    /// The values of `key=`; none for a positional argument.
    pub fn list(&self) -> &[String] {
        self.values.as_deref().unwrap_or_default()
    }
}

impl Directive {
    /// An error at this directive's line.
    pub fn error(&self, reason: impl Into<String>) -> ScriptError {
        ScriptError { line: self.line, reason: format!("{}: {}", self.command, reason.into()) }
    }

    /// The arguments without `=`, in order.
    pub fn positional(&self) -> impl Iterator<Item = &Argument> {
        self.arguments.iter().filter(|argument| argument.values.is_none())
    }

    /// The arguments with `=`, in order.
    pub fn keyed(&self) -> impl Iterator<Item = &Argument> {
        self.arguments.iter().filter(|argument| argument.values.is_some())
    }

    /// Reads one word as a number or another plain type.
    ///
    /// # Errors
    ///
    /// The word does not read as `T`.
    pub fn read<T: FromStr>(&self, what: &str, word: &str) -> Result<T, ScriptError> {
        word.parse().map_err(|_| self.error(format!("{what} {word:?} is not a {}", std::any::type_name::<T>())))
    }

    /// Reads the only value of `key=value`.
    ///
    /// # Errors
    ///
    /// There is no value, more than one, or it does not read as `T`.
    pub fn only<T: FromStr>(&self, argument: &Argument) -> Result<T, ScriptError> {
        match argument.list() {
            [value] => self.read(&argument.key, value),
            list => Err(self.error(format!("{}= takes one value, got {}", argument.key, list.len()))),
        }
    }

    /// Reads every value of `key=(value, value)`.
    ///
    /// # Errors
    ///
    /// A value does not read as `T`.
    pub fn all<T: FromStr>(&self, argument: &Argument) -> Result<Vec<T>, ScriptError> {
        argument.list().iter().map(|value| self.read(&argument.key, value)).collect()
    }

    /// An unknown `key=` of this command.
    pub fn unknown(&self, argument: &Argument) -> ScriptError {
        self.error(format!("unknown argument {:?}", argument.raw))
    }
}

/// Writes a script back with other output: `outputs` holds one text for each directive, in order.
pub fn render<'a>(pieces: &[Piece], outputs: impl IntoIterator<Item = &'a str>) -> String {
    let mut outputs = outputs.into_iter();
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(line) => {
                let _ = writeln!(text, "{line}");
            }
            Piece::Directive(directive) => {
                let output = outputs.next().unwrap_or(&directive.expected).trim_end_matches('\n');
                for line in &directive.head {
                    let _ = writeln!(text, "{line}");
                }
                let fenced = output.lines().any(|line| line.trim().is_empty()) || output.starts_with(SEPARATOR);
                let _ = match (fenced, output.is_empty()) {
                    (true, _) => {
                        writeln!(text, "{SEPARATOR}\n{SEPARATOR}\n{output}\n{SEPARATOR}\n{SEPARATOR}")
                    }
                    (false, true) => writeln!(text, "{SEPARATOR}"),
                    (false, false) => writeln!(text, "{SEPARATOR}\n{output}"),
                };
            }
        }
    }
    text
}
