//! The command line, run as a user runs it.

use std::{ffi::OsStr, fmt, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::host;

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it printed as an error.
    pub stderr: String,
}

impl Ran {
    /// What it printed, as JSON.
    ///
    /// # Errors
    ///
    /// Where it has failed, or printed something else.
    pub fn json(&self) -> Result<Value> {
        ensure!(self.code == 0, "{self:?}");
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// Runs `telegraft` with these arguments and nothing on standard input.
///
/// # Errors
///
/// Where it cannot be run, does not end, or prints what is no text.
pub async fn telegraft<A: AsRef<OsStr> + fmt::Debug>(arguments: &[A]) -> Result<Ran> {
    let mut command = Command::new(host::binary()?);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TELEGRAFT_")) {
        command.env_remove(name);
    }
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = output.with_context(|| format!("telegraft {arguments:?} does not end"))??;
    Ok(Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}
