//! How the demo looks: acts, sentences, commands with what they print, and good news; in colour on a terminal.

use std::{
    cell::Cell,
    io::{IsTerminal, stdout},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Error;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Where everything is printed.
pub struct Stage {
    colour: bool,
    act: Cell<u32>,
}

impl Stage {
    /// Standard output; colour where a person reads it and has not asked for none.
    pub fn new() -> Self {
        Self { colour: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(), act: Cell::new(0) }
    }

    /// A line that stands out.
    pub fn title(&self, text: &str) {
        println!("\n{}", self.paint(BOLD, text));
    }

    /// Begins the next act.
    pub fn act(&self, text: &str) {
        self.act.set(self.act.get() + 1);
        println!("\n{}", self.paint(BOLD, &format!("{}. {text}", self.act.get())));
    }

    /// A sentence.
    pub fn say(&self, text: &str) {
        println!("   {text}");
    }

    /// Something that was checked, and is as it must be.
    pub fn good(&self, text: &str) {
        println!("   {} {text}", self.paint(GREEN, "✓"));
    }

    /// What somebody wrote in the chat.
    pub fn quote(&self, who: &str, text: &str, how: &str) {
        println!("   {} {text}  {}", self.paint(CYAN, &format!("{who}:")), self.paint(DIM, how));
    }

    /// A command.
    pub fn command(&self, line: &str) {
        println!("   {} {line}", self.paint(DIM, "$"));
    }

    /// What a command printed.
    pub fn printed(&self, text: &str) {
        for line in text.lines() {
            println!("     {}", self.paint(DIM, line));
        }
    }

    /// The end of a demo that was not as it must be.
    pub fn failed(&self, error: &Error) {
        eprintln!("\n{} {error:#}", self.paint(RED, "✗ This is not as it must be:"));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }
}

/// "123 ms later", or seconds.
pub fn after(begun: Instant) -> String {
    format!("{} later", duration(begun.elapsed()))
}

/// A time as people say it.
pub fn duration(time: Duration) -> String {
    if time < Duration::from_secs(2) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// A path, short where it lies below the working directory.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    short.unwrap_or(path).display().to_string()
}
