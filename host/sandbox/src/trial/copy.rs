//! A copy of a database by SQLite's backup API (<https://www.sqlite.org/backup.html>), from inside a read transaction:
//! without one the API begins again whenever somebody writes, and under load never ends.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};
use telegraft_node::ports::MachineFault;
use telegraft_raft::Index;

use super::{Stop, TrialError, give_up_if};
use crate::{
    apply::{DATABASE_FILE, SqliteMachine, open},
    database::Database,
    errors::fault,
    reader::MachineReader,
    sandbox::Sandbox,
    store::database_lost,
};

/// Pages that are copied between two looks at whether to stop: 1 MiB of SQLite's usual ones.
const PAGES_PER_STEP: i32 = 256;

/// Pause after each step of a copy of the live state: apply shares the disk and the processor's caches with it.
const PAUSE: Duration = Duration::from_millis(1);

/// A copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    /// The state's index.
    pub index: Index,
    /// Bytes of the file.
    pub bytes: u64,
    /// For so long the read transaction was open.
    pub time: Duration,
}

/// Copies the live state into the machine's folder `to`, which must be there.
pub(super) fn live(reader: &MachineReader, to: &Path, stop: Stop<'_>) -> Result<Copied, TrialError> {
    let begun = Instant::now();
    let (index, copied) =
        reader.read(|database, meta| Ok((meta.applied, copy(database, &to.join(DATABASE_FILE), PAUSE, stop))))?;
    Ok(Copied { index, bytes: copied?, time: begun.elapsed() })
}

/// Copies the state of a trial's own machine into the machine's folder `to`, which must be there.
pub(super) fn of_trial(machine: &SqliteMachine, to: &Path, stop: Stop<'_>) -> Result<u64, TrialError> {
    let database = machine.database.as_deref().ok_or_else(database_lost)?;
    copy(database, &to.join(DATABASE_FILE), Duration::ZERO, stop)
}

/// Opens the copy in this folder, or a new machine where there is none.
pub(super) fn open_trial(sandbox: &Sandbox, dir: &Path) -> Result<SqliteMachine, TrialError> {
    let (machine, _) = open(sandbox.clone(), dir)?;
    let database = machine.database.as_deref().ok_or_else(database_lost)?;
    let unsynced = database.host().execute_batch("PRAGMA synchronous = OFF -- _telegraft_");
    unsynced.map_err(|e| fault("cannot open the copy", &e))?;
    Ok(machine)
}

fn copy(from: &Database, path: &Path, pause: Duration, stop: Stop<'_>) -> Result<u64, TrialError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |e: rusqlite::Error| TrialError::Fault(fault("cannot copy the database for a trial", &e));
    let mut to = Connection::open_with_flags(path, flags).map_err(failed)?;
    to.pragma_update(None, "journal_mode", "OFF").map_err(failed)?;
    to.pragma_update(None, "synchronous", "OFF").map_err(failed)?;
    {
        let backup = Backup::new(from.host(), &mut to).map_err(failed)?;
        loop {
            give_up_if(stop)?;
            match backup.step(PAGES_PER_STEP).map_err(failed)? {
                StepResult::Done => break,
                StepResult::More => thread::sleep(pause),
                step => {
                    let why = format!("the database could not be copied for a trial: it is busy ({step:?})");
                    return Err(MachineFault(why).into());
                }
            }
        }
    }
    to.close().map_err(|(_, e)| failed(e))?;
    let bytes = std::fs::metadata(path).map(|file| file.len());
    bytes.map_err(|e| MachineFault(format!("cannot look at the copy {}: {e}", path.display())).into())
}
