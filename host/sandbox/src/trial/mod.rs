//! Trials: what another module would do to this machine, tried before it is switched on. On copies, in a folder of their
//! own, by the very code that applies entries: a machine is opened over the copy and is given made-up entries (the
//! upload, the activation) at the indexes where they would come. Nothing is simulated, and nothing is replicated.
//!
//! - [`Trial::dry_run`]: the activation on a copy of the live state.
//! - [`Trial::rehearse`]: the newest commands of the log, replayed by the modules that were active and by the new one, on two
//!   copies of the state from before them.
//!
//! The live machine is only read: a copy is made inside one read transaction ([`copy`]), beside which apply goes on;
//! while it lasts, frames of the write-ahead log cannot be given up, so the file grows by what is applied meanwhile. What
//! goes wrong in a trial, a fault of its disk too, is the trial's error and no fault of the machine.
//!
//! A copy need not survive anything: nothing of it is synced, and its folder is removed with the [`TrialFolder`].

mod candidate;
mod copy;
mod dry_run;
mod rehearse;
mod replay;
mod schema_changes;
mod window;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use telegraft_node::ports::MachineFault;
use telegraft_raft::{Index, StorageError};

use crate::{module::BadModule, reader::MachineReader, sandbox::Sandbox};

pub use self::{
    candidate::{Activation, Candidate},
    dry_run::DryRun,
    rehearse::{Rehearsal, RehearsalEvent, RehearsalStage},
    replay::{Answer, Difference, ReplayCost},
    schema_changes::{Change, SchemaChange},
};

/// Asked now and then whether the one who wanted the trial has gone away.
pub type Stop<'a> = &'a dyn Fn() -> bool;

/// What trials need.
pub struct Trial<'a> {
    /// Compiles and runs modules: the live machine's own, so that what it compiled need not be compiled again.
    pub sandbox: &'a Sandbox,
    /// The live machine.
    pub live: &'a MachineReader,
    /// Folder in which each trial makes one of its own.
    pub folder: &'a Path,
    /// See [`Stop`]. Looked at while copying, between entries that are replayed, and between the transactions in which an
    /// older state is rebuilt; a call of a module is bounded by its budgets alone.
    pub stop: Stop<'a>,
}

/// Why a trial gave no report. The machine itself is untouched in any case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrialError {
    /// The module does not pass inspection: an upload would be refused just so.
    #[error("the module is refused: {0}")]
    Module(#[from] BadModule),
    /// There is nothing to compare with.
    #[error("no module is active, so there is nothing to compare with: activate one, or try this one with a dry run")]
    NoModule,
    /// The copy stands still, as the machine does, or at the activation of the candidate.
    #[error("a copy of this host's machine stands still: {0}. Try it on another host")]
    Halted(String),
    /// The log's older entries cannot be applied again.
    #[error(
        "this host's log cannot be applied once more: a copy of its machine stands still before index {at}: {why}. Try it \
         on another host; a dry run needs no log"
    )]
    Stalled {
        /// The entry before which it stands.
        at: Index,
        /// In the words of a machine that has halted.
        why: String,
    },
    /// The state from before the newest commands cannot be made again.
    #[error(
        "the state from before the newest commands cannot be rebuilt: this host's log was compacted and begins at index \
         {first}. A dry run needs no log"
    )]
    Compacted {
        /// The first entry that there is.
        first: Index,
    },
    /// No module has had a command yet.
    #[error(
        "there is nothing to replay: no command has come since a module was first activated (the present one at index {since})"
    )]
    NoCommands {
        /// Index of the newest activation; there was no command since an older one either.
        since: Index,
    },
    /// The log.
    #[error("the log cannot be read: {0}")]
    Log(StorageError),
    /// The copy's file or engine.
    #[error("{0}")]
    Fault(#[from] MachineFault),
    /// Nobody waits for it any more.
    #[error("the trial was given up: nobody waits for it")]
    Stopped,
}

/// Where one trial keeps its copies. Removed when dropped.
#[derive(Debug)]
pub struct TrialFolder {
    path: PathBuf,
}

impl TrialFolder {
    /// A new folder in `parent`, which is made where there is none.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub fn new(parent: &Path) -> Result<Self, TrialError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = parent.join(format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed)));
        make(&path)?;
        Ok(TrialFolder { path })
    }

    /// A folder in it.
    fn part(&self, name: &str) -> Result<PathBuf, TrialError> {
        let path = self.path.join(name);
        make(&path)?;
        Ok(path)
    }

    /// Removes what trials of an earlier process left in `parent`.
    ///
    /// # Errors
    ///
    /// Where something is there and cannot be removed.
    pub fn clear_leftovers(parent: &Path) -> io::Result<()> {
        match fs::remove_dir_all(parent) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TrialFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a trial's folder is left until the next start");
        }
    }
}

fn make(path: &Path) -> Result<(), TrialError> {
    let cannot = |e| format!("cannot make the folder {}: {e}; check the disk and its permissions", path.display());
    fs::create_dir_all(path).map_err(|e| MachineFault(cannot(e)).into())
}

fn give_up_if(stop: Stop<'_>) -> Result<(), TrialError> {
    if stop() { Err(TrialError::Stopped) } else { Ok(()) }
}
