//! Snapshots as bytes: how they are taken from a database, and how they are written beside another one and checked. What
//! becomes of the machine that they replace is in [`crate::restore`].
//!
//! # Format
//!
//! | bytes | what |
//! |---|---|
//! | 0 to 8 | `TGSNAP01` |
//! | 8 to 16 | applied index, little-endian |
//! | 16 to 24 | number of bytes of the database, little-endian |
//! | 24 to 56 | SHA-256 over bytes 0 to 24 and the database |
//! | from 56 | the database: a SQLite file without a WAL |
//!
//! The sum is there because SQLite has none for its pages: damage in a row's value would go unnoticed.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use prost::Message;
use rusqlite::{
    Connection, OpenFlags, OptionalExtension,
    backup::{Backup, StepResult},
    params,
};
use sha2::{Digest as _, Sha256};
use telegraft_node::ports::MachineFault;
use telegraft_proto::internal;
use telegraft_raft::{ConfState, Index, Snapshot, SnapshotMeta};

use crate::{database::Database, errors::fault, schema};

const MAGIC: &[u8; 8] = b"TGSNAP01";
const SUM_AT: usize = 24;
const HEAD: usize = SUM_AT + 32;

/// Name of the file that a snapshot is copied into on its way out.
const TAKEN_FILE: &str = "machine.snapshot";

/// Name of the file that a snapshot is made ready in on its way in.
const BESIDE_FILE: &str = "machine.restoring";

/// What SQLite may leave beside a database file.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Removes what an interrupted snapshot or restoration left in `dir`.
pub(crate) fn clear_leftovers(dir: &Path) -> Result<(), MachineFault> {
    remove_database(&dir.join(TAKEN_FILE))?;
    remove_database(&dir.join(BESIDE_FILE))
}

/// Removes a database file and what SQLite keeps beside it, as far as they are there.
pub(crate) fn remove_database(path: &Path) -> Result<(), MachineFault> {
    SUFFIXES.iter().try_for_each(|suffix| remove(&with_suffix(path, suffix)))
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), MachineFault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_fault("remove", path, &error)),
        _ => Ok(()),
    }
}

/// `path` with something behind its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes renamed and removed names in `dir` survive a power loss.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), MachineFault> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| file_fault("sync", dir, &e))
}

/// A file could not be used.
pub(crate) fn file_fault(doing: &str, path: &Path, error: &io::Error) -> MachineFault {
    MachineFault(format!(
        "cannot {doing} {}: {error}; check the disk's free space, its health and this user's permissions",
        path.display()
    ))
}

/// The whole database as of its newest commit. By way of a file in `dir`, which is copied by SQLite's backup API: unlike
/// `sqlite3_serialize`, which hands out zeros for a page that it cannot read, it reports errors.
/// (<https://www.sqlite.org/backup.html>)
pub(crate) fn take(database: &Database, applied: Index, dir: &Path) -> Result<Bytes, MachineFault> {
    let path = dir.join(TAKEN_FILE);
    remove_database(&path)?;
    let taken = copy(database, &path).and_then(|()| read(&path, applied));
    let removed = remove_database(&path);
    taken.and_then(|bytes| removed.map(|()| bytes))
}

pub(crate) fn copy(database: &Database, path: &Path) -> Result<(), MachineFault> {
    let copy = || -> rusqlite::Result<StepResult> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut to = Connection::open_with_flags(path, flags)?;
        // A file for a moment: nothing of it has to survive anything.
        to.pragma_update(None, "journal_mode", "OFF")?;
        to.pragma_update(None, "synchronous", "OFF")?;
        let step = Backup::new(database.host(), &mut to)?.step(-1)?;
        to.close().map_err(|(_, e)| e)?;
        Ok(step)
    };
    match copy() {
        Ok(StepResult::Done) => Ok(()),
        Ok(step) => {
            Err(MachineFault(format!("the database could not be copied for a snapshot: it is busy ({step:?})")))
        }
        Err(error) => Err(fault("cannot copy the database for a snapshot", &error)),
    }
}

fn read(path: &Path, applied: Index) -> Result<Bytes, MachineFault> {
    let database = fs::read(path).map_err(|e| file_fault("read", path, &e))?;
    let mut bytes = Vec::with_capacity(HEAD + database.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&applied.to_le_bytes());
    bytes.extend_from_slice(&(database.len() as u64).to_le_bytes());
    let sum = sum(&bytes, &database);
    bytes.extend_from_slice(&sum);
    bytes.extend_from_slice(&database);
    Ok(bytes.into())
}

fn sum(head: &[u8], database: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(head).chain_update(database).finalize().into()
}

/// The database in a snapshot whose head and sum are right.
fn database_in(snapshot: &Snapshot) -> Result<&[u8], MachineFault> {
    let index = snapshot.meta.index;
    let refuse = |why: String| {
        MachineFault(format!(
            "the snapshot at index {index} is refused: {why}; the old state is kept, it must be sent again"
        ))
    };
    let data = &*snapshot.data;
    let (Some(head), Some(given), Some(database)) = (data.get(..SUM_AT), data.get(SUM_AT..HEAD), data.get(HEAD..))
    else {
        return Err(refuse(format!("its {} bytes are too few for a machine's state", data.len())));
    };
    let word = |at: usize| head.get(at..at + 8).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes);
    if !head.starts_with(MAGIC) {
        return Err(refuse("its bytes do not begin like a machine's state".to_owned()));
    }
    if word(16) != database.len() as u64 {
        return Err(refuse(format!("it has {} bytes of its database's {}", database.len(), word(16))));
    }
    if sum(head, database) != *given {
        return Err(refuse("its bytes are damaged (the SHA-256 differs)".to_owned()));
    }
    if word(8) != index {
        return Err(refuse(format!("its bytes are a state at index {}", word(8))));
    }
    Ok(database)
}

/// A snapshot's database in a file of its own beside the machine's, checked, marked with where it comes from, and on
/// stable storage. Removed when dropped, unless it was [installed](Beside::install).
pub(crate) struct Beside {
    path: PathBuf,
}

impl Beside {
    /// Writes it, checks that it is a machine's state at the snapshot's index, and has it read by `load`.
    pub(crate) fn write<T>(
        dir: &Path,
        snapshot: &Snapshot,
        load: impl FnOnce(&Database) -> Result<T, MachineFault>,
    ) -> Result<(Beside, T), MachineFault> {
        let content = database_in(snapshot)?;
        let path = dir.join(BESIDE_FILE);
        remove_database(&path)?;
        let beside = Beside { path };
        let write = || File::create(&beside.path)?.write_all(content);
        write().map_err(|e| file_fault("write", &beside.path, &e))?;
        let refuse = |why: String| {
            let index = snapshot.meta.index;
            MachineFault(format!("the snapshot at index {index} is refused, it is no machine's state: {why}"))
        };
        // Its journal is in memory, so that no other file can be left of it.
        let database = Database::open_aside(&beside.path).map_err(|e| refuse(e.to_string()))?;
        schema::check(database.host(), content.len() as u64)
            .map_err(|e| refuse(e.to_string()))?
            .map_err(|unsound| refuse(unsound.to_string()))?;
        let applied = schema::read_meta(database.host())?.applied;
        if applied != snapshot.meta.index {
            return Err(refuse(format!("the database in it is at index {applied}")));
        }
        mark(database.host(), &snapshot.meta)?;
        let loaded = load(&database)?;
        database.close()?;
        // SQLite has synced what it wrote; this is for what was written before.
        File::open(&beside.path).and_then(|file| file.sync_all()).map_err(|e| file_fault("sync", &beside.path, &e))?;
        Ok((beside, loaded))
    }

    /// Puts it in the place of the database at `to`, of which no connection may be open and no WAL be left: SQLite knows a
    /// WAL by its name alone and would apply an old one to the new file.
    /// (<https://www.sqlite.org/howtocorrupt.html>, "Unlinking or renaming a database file while in use" and
    /// "Mispairing database files and hot journals")
    pub(crate) fn install(self, to: &Path) -> Result<(), MachineFault> {
        fs::rename(&self.path, to).map_err(|e| file_fault("rename", &self.path, &e))?;
        sync_dir(to.parent().unwrap_or(to))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Where it was installed there is nothing of this name; what cannot be removed is when the machine opens again.
        let _ = remove_database(&self.path);
    }
}

/// Records where the state comes from.
fn mark(conn: &Connection, meta: &SnapshotMeta) -> Result<(), MachineFault> {
    let c = &meta.conf_state;
    let conf_state = internal::ConfState {
        voters: c.voters.clone(),
        learners: c.learners.clone(),
        voters_outgoing: c.voters_outgoing.clone(),
        learners_next: c.learners_next.clone(),
        auto_leave: c.auto_leave,
    };
    conn.execute(
        "INSERT OR REPLACE INTO _telegraft_restored VALUES (1, ?1, ?2, ?3)",
        params![meta.index as i64, meta.term as i64, conf_state.encode_to_vec()],
    )
    // That the replica which it was taken from stood still is no part of the state.
    .and_then(|_| conn.execute("DELETE FROM _telegraft_halted", []))
    .map(drop)
    .map_err(|e| fault("cannot mark a restored state", &e))
}

/// Where the state comes from, if it was ever restored.
pub(crate) fn restored_from(conn: &Connection) -> Result<Option<SnapshotMeta>, MachineFault> {
    let row = conn
        .query_row("SELECT at, term, conf_state FROM _telegraft_restored", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
        })
        .optional()
        .map_err(|e| fault("cannot read where the state was restored from", &e))?;
    let Some((index, term, conf_state)) = row else {
        return Ok(None);
    };
    let c = internal::ConfState::decode(&*conf_state)
        .map_err(|e| MachineFault(format!("the configuration kept with the restored state is damaged: {e}")))?;
    let conf_state = ConfState {
        voters: c.voters,
        learners: c.learners,
        voters_outgoing: c.voters_outgoing,
        learners_next: c.learners_next,
        auto_leave: c.auto_leave,
    };
    Ok(Some(SnapshotMeta { conf_state, index: index as u64, term: term as u64 }))
}
