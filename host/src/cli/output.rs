//! What is printed: tables for people, JSON for machines, colours only on a terminal; counts, digests and paths as people read
//! and type them.

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use serde_json::Value;

use super::failure::Failure;

/// How output looks.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON instead of tables.
    pub json: bool,
    /// Colours and bars: stdout is a terminal and nobody set NO_COLOR.
    pub colour: bool,
}

impl Output {
    /// As the command line and the terminal say.
    pub fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, colour: !json && !plain && std::io::stdout().is_terminal() }
    }

    /// One line on stdout. A reader that has gone away (`| head`) is no error.
    pub fn line(&self, text: &str) {
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    /// A JSON document: indented on a terminal, one line for a pipe.
    pub fn json(&self, value: &Value) -> Result<(), Failure> {
        let text = if std::io::stdout().is_terminal() {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        self.line(&text.map_err(|error| Failure::refused(format!("the answer cannot be printed as JSON: {error}")))?);
        Ok(())
    }

    /// A table with these headings.
    pub fn table(&self, headings: &[&str]) -> Table {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(headings.iter().map(|text| self.heading(text)).collect::<Vec<_>>());
        if !self.colour {
            table.force_no_tty();
        }
        table
    }

    /// Prints a table without the blanks at the lines' ends.
    pub fn print_table(&self, table: &Table) {
        self.line(&flush_left(table));
    }

    fn heading(&self, text: &str) -> Cell {
        let cell = Cell::new(text.to_uppercase());
        if self.colour { cell.fg(Color::DarkGrey) } else { cell }
    }

    /// Something that is as it should be.
    pub fn good(&self, text: impl ToString) -> Cell {
        self.coloured(text, Color::Green)
    }

    /// Something that wants a look.
    pub fn bad(&self, text: impl ToString) -> Cell {
        self.coloured(text, Color::Red)
    }

    /// A verdict in a line of its own: as it should be, or not.
    pub fn verdict(&self, text: &str, good: bool) -> String {
        // SGR 32 and 31: green and red (ECMA-48, 8.3.117).
        let colour = if good { 32 } else { 31 };
        if self.colour { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn coloured(&self, text: impl ToString, colour: Color) -> Cell {
        let cell = Cell::new(text.to_string());
        if self.colour { cell.fg(colour) } else { cell }
    }
}

/// The table's text without the blank column before it and the blanks at the lines' ends.
fn flush_left(table: &Table) -> String {
    let text = table.trim_fmt();
    let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// A number, to the right.
pub fn number(value: impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

/// The first digits of a digest: enough to name a module by.
pub fn short_digest(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// A count with its digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of a thing: `1 command`, `2,000 commands`.
pub fn counted(number: u64, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", grouped(number))
}

/// A path as a shell takes it for one word.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+,:@%".contains(letter);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_many() {
        for (number, text) in [(0, "0 commands"), (1, "1 command"), (2, "2 commands"), (1_000, "1,000 commands")] {
            assert_eq!(counted(number, "command"), text);
        }
    }

    #[test]
    fn a_path_is_quoted_where_a_shell_would_split_it() {
        for (path, text) in [("a/b-1.wasm", "a/b-1.wasm"), ("my poll.wasm", "'my poll.wasm'"), ("it's", r"'it'\''s'")] {
            assert_eq!(quoted(Path::new(path)), text);
        }
    }

    #[test]
    fn a_table_without_a_terminal_has_no_colour_and_no_blanks_at_the_end() {
        let output = Output { json: false, colour: false };
        let mut table = output.table(&["host", "state"]);
        table.add_row(vec![number(1), output.good("ok")]).add_row(vec![number(20), output.bad("unreachable")]);
        let text = flush_left(&table);
        assert!(text.starts_with("HOST"), "{text:?}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines, text.lines().collect::<Vec<_>>(), "{text:?}");
        assert!(lines[0].contains("HOST") && lines[2].contains("unreachable"), "{text}");
        assert_eq!(
            lines[1].find('1').map(|at| at + 1),
            lines[2].find("20").map(|at| at + 2),
            "numbers end together:\n{text}"
        );
    }

    #[test]
    fn long_numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_short_digest_never_splits_a_letter() {
        assert_eq!(short_digest("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_digest("ab"), "ab");
    }
}
