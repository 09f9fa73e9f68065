//! Why a log could not be opened. Owns the messages that an operator reads then.

use std::io;
use std::path::PathBuf;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder that should hold the log's folder is not there. It is not created: a mistyped data folder, or a disk
    /// that is not mounted, must not become an empty log.
    #[error("log folder {path:?}: its parent folder does not exist; create it, or correct the configured data folder")]
    MissingParent {
        /// The log's folder.
        path: PathBuf,
    },
    /// The path is a file.
    #[error("log folder {path:?} is not a folder")]
    NotAFolder {
        /// The log's folder.
        path: PathBuf,
    },
    /// The folder has something else in it.
    #[error("log folder {path:?} holds {found:?}, which belongs to no log; give the log a folder of its own")]
    Foreign {
        /// The log's folder.
        path: PathBuf,
        /// Name of a file that was found there.
        found: String,
    },
    /// Another process, or this one, has it open.
    #[error("log folder {path:?} is in use: another process (or this one) has the log open; stop it first ({message})")]
    Locked {
        /// The log's folder.
        path: PathBuf,
        /// RocksDB's words.
        message: String,
    },
    /// Written in another format.
    #[error(
        "log folder {path:?} has format version {found}, this build reads version {expected}; use a build that fits it"
    )]
    Format {
        /// The log's folder.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Version this build reads and writes.
        expected: u32,
    },
    /// The log of another group.
    #[error("log folder {path:?} holds the log of group {found}, not of group {expected}; check the data folder")]
    WrongGroup {
        /// The log's folder.
        path: PathBuf,
        /// Group found.
        found: u64,
        /// Group asked for.
        expected: u64,
    },
    /// What is stored is damaged. Nothing was changed.
    #[error(
        "log folder {path:?} is damaged: {what}. Nothing was changed. If the other hosts of the cluster hold the data, \
         remove this host's data folder and let it join anew; else restore a backup"
    )]
    Corrupt {
        /// The log's folder.
        path: PathBuf,
        /// What is damaged, and where.
        what: String,
    },
    /// The operating system refused something.
    #[error("log folder {path:?}: {action}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// RocksDB refused something, and it is neither of the above.
    #[error("log folder {path:?}: {message}")]
    Store {
        /// The log's folder.
        path: PathBuf,
        /// RocksDB's words.
        message: String,
    },
}
