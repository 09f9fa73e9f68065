//! What can go wrong for an author, told apart by whose move it is.

use std::{io, path::PathBuf};

/// Why a project was not made or not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A tool is not installed, or cannot be used; nothing was built.
    #[error("{tool} is needed, and {problem}\n  what to do: {advice}")]
    MissingTool {
        /// What is needed, as "cargo" or "the target wasm32-unknown-unknown".
        tool: String,
        /// What is the matter with it, as "is not installed".
        problem: String,
        /// What to type.
        advice: String,
    },
    /// A tool ran and did not like the sources.
    #[error("{tool} failed ({status})\n{output}")]
    ToolFailed {
        /// The tool, as "cargo build".
        tool: String,
        /// How it ended.
        status: String,
        /// The last lines it printed.
        output: String,
    },
    /// A file of the project is wrong.
    #[error("{}: {message}", file.display())]
    Project {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// What was asked for cannot be.
    #[error("{0}")]
    Usage(String),
    /// What was built is no component that a host takes.
    #[error("{} is no module: {message}", file.display())]
    Component {
        /// What was built.
        file: PathBuf,
        /// Why a host would refuse it.
        message: String,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    /// Whether the command line, the project's manifest or what is installed must change, rather than the module's code.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::MissingTool { .. } | Self::Project { .. } | Self::Usage(_))
    }

    /// For `map_err` of file operations.
    pub fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
