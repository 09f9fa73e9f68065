//! Opening a log in RocksDB, and everything that is verified then: that the folder is this group's log and nobody else's,
//! that every entry is there and sound, and that hard state, start and entries fit together.
//!
//! All entries are read once. A damaged one is found at start and not in the middle of an election, and what the log
//! holds stays small because it is compacted.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, RwLock};

use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, ErrorKind, WriteBatch, WriteOptions};

use super::{Options, RocksReader, RocksWriter, Shared, View, options, scan, wal};
use crate::OpenError;
use crate::codec::{self, FORMAT_KEY, FORMAT_VERSION, STATE_FAMILY, StateRecord};
use crate::plan::{LogMeta, Position};
use crate::tail::Tail;

/// Locked for as long as the log is open; RocksDB's own lock is taken too late for our look at its files.
const LOCK_FILE: &str = "telegraft.lock";

/// Opens the log of `group` in the folder `path`, and makes it if there is none; its parent folder must exist.
///
/// A new log has a zero hard state, an empty configuration and no entries. The two halves share the database, which is
/// closed when the writer and all readers are dropped.
///
/// # Errors
///
/// See [`OpenError`]. A damaged log is left as it is.
pub fn open(path: &Path, group: u64, options: Options) -> Result<(RocksReader, RocksWriter), OpenError> {
    let exists = prepare_folder(path)?;
    let lock = lock(path)?;
    if exists
        && let Some(damage) = wal::find_damage(path, group).map_err(io_error(path, "reading the write-ahead files"))?
    {
        return Err(corrupt(path, describe(&damage)));
    }
    let db = open_database(path, &options)?;
    let family =
        db.cf_handle(STATE_FAMILY).ok_or_else(|| corrupt(path, "the column family 'state' is missing".into()))?;
    if db.latest_sequence_number() == 0 {
        begin(&db, family, path, group)?;
    }
    let (meta, tail) = load(&db, family, path, group, options.tail_cache_bytes)?;
    tracing::debug!(
        group,
        first = meta.start.index + 1,
        last = meta.last.index,
        term = meta.hard_state.term,
        commit = meta.hard_state.commit,
        "log opened"
    );
    let view = View { meta: meta.clone(), tail };
    let shared = Shared { db, group, view: RwLock::new(view), rewriting: RwLock::new(()), _lock: lock };
    let shared = Arc::new(shared);
    let reader = RocksReader { shared: Arc::clone(&shared) };
    Ok((reader, RocksWriter { shared, meta, poison: None, unsynced: false, value: Vec::new() }))
}

/// Makes the folder if need be. Whether a database is in it.
fn prepare_folder(path: &Path) -> Result<bool, OpenError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return Err(OpenError::NotAFolder { path: path.into() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = match path.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => path,
            };
            match fs::create_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(OpenError::MissingParent { path: path.into() });
                }
                made => made.map_err(io_error(path, "creating the folder"))?,
            }
            // RocksDB syncs its files and its folder, but who syncs the folder's own name?
            sync_folder(parent)?;
        }
        Err(error) => return Err(io_error(path, "looking at the folder")(error)),
    }
    let (mut current, mut data, mut foreign) = (false, None, None);
    for item in fs::read_dir(path).map_err(io_error(path, "listing the folder"))? {
        let name = item.map_err(io_error(path, "listing the folder"))?.file_name().to_string_lossy().into_owned();
        if name == "CURRENT" {
            current = true;
        } else if name.ends_with(".sst") || name.ends_with(".log") {
            data = Some(name);
        } else if !(name == LOCK_FILE || name == "lost+found" || is_bookkeeping(&name)) {
            foreign = Some(name);
        }
    }
    match (current, data, foreign) {
        (true, ..) => Ok(true),
        (false, Some(data), _) => {
            Err(corrupt(path, format!("the file CURRENT is missing, although there is data ({data})")))
        }
        (false, None, Some(found)) => Err(OpenError::Foreign { path: path.into(), found }),
        (false, None, None) => Ok(false),
    }
}

/// Names that RocksDB leaves behind if it is killed while it makes a database.
fn is_bookkeeping(name: &str) -> bool {
    matches!(name, "LOCK" | "IDENTITY")
        || ["LOG", "MANIFEST-", "OPTIONS-"].iter().any(|prefix| name.starts_with(prefix))
        || name.ends_with(".dbtmp")
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK_FILE))
        .map_err(io_error(path, "opening its lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(OpenError::Locked { path: path.into(), message: format!("{LOCK_FILE} is locked") })
        }
        Err(TryLockError::Error(error)) => Err(io_error(path, "locking its lock file")(error)),
    }
}

fn open_database(path: &Path, sizes: &Options) -> Result<DB, OpenError> {
    DB::open_cf_descriptors(&options::database(sizes), path, families(sizes)).map_err(|error| {
        let message = error.to_string();
        match error.kind() {
            ErrorKind::Corruption => corrupt(path, message),
            ErrorKind::IOError if message.to_lowercase().contains("lock") => {
                OpenError::Locked { path: path.into(), message }
            }
            ErrorKind::InvalidArgument if message.contains("olumn famil") => {
                OpenError::Foreign { path: path.into(), found: message }
            }
            _ => OpenError::Store { path: path.into(), message },
        }
    })
}

fn families(sizes: &Options) -> [ColumnFamilyDescriptor; 2] {
    let cache = options::cache(sizes);
    [
        ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, options::entries(sizes, &cache)),
        ColumnFamilyDescriptor::new(STATE_FAMILY, options::state(&cache)),
    ]
}

fn describe(damage: &wal::Damage) -> String {
    let file = damage.file.file_name().unwrap_or_default().to_string_lossy();
    let entries = match damage.entry_before {
        Some(last) => format!(
            "the newest entry before that place is {last}, those from index {} on are damaged or missing",
            last.saturating_add(1)
        ),
        None => "no entry can be made out in it".to_owned(),
    };
    format!("write-ahead file {file} at byte {}: {}; {entries}", damage.offset, damage.reason)
}

/// Writes the first records of a new log, straight into a table file: whatever happens to the write-ahead file later, a
/// log whose beginning is known can never be taken for a new one.
fn begin(db: &DB, family: &ColumnFamily, path: &Path, group: u64) -> Result<(), OpenError> {
    let start = StateRecord::Start.key(group);
    let mut batch = WriteBatch::default();
    batch.put_cf(family, FORMAT_KEY, codec::encode_format(group));
    batch.put_cf(family, start, codec::encode_position(&start, Position::default()));
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    db.write_opt(batch, &synced).and_then(|()| db.flush_cf(family)).map_err(store_error(path))?;
    sync_folder(path)
}

fn load(
    db: &DB,
    family: &ColumnFamily,
    path: &Path,
    group: u64,
    tail_cache_bytes: usize,
) -> Result<(LogMeta, Tail), OpenError> {
    let get = |key: &[u8]| {
        db.get_cf(family, key).map_err(|error| match error.kind() {
            ErrorKind::Corruption => corrupt(path, format!("the log's state cannot be read: {error}")),
            _ => store_error(path)(error),
        })
    };
    let format = get(FORMAT_KEY)?.ok_or_else(|| {
        corrupt(path, "the format record is missing: this is no log, or its beginning is lost".into())
    })?;
    let (version, found) =
        codec::decode_format(&format).map_err(|what| corrupt(path, format!("the format record: {what}")))?;
    if version != FORMAT_VERSION {
        return Err(OpenError::Format { path: path.into(), found: version, expected: FORMAT_VERSION });
    }
    if found != group {
        return Err(OpenError::WrongGroup { path: path.into(), found, expected: group });
    }

    let mut meta = LogMeta::default();
    let key = StateRecord::Start.key(group);
    let value = get(&key)?.ok_or_else(|| corrupt(path, "the record of the log's start is missing".into()))?;
    meta.start = codec::decode_position(&key, &value)
        .map_err(|what| corrupt(path, format!("the record of the log's start: {what}")))?;
    let key = StateRecord::HardState.key(group);
    if let Some(value) = get(&key)? {
        meta.hard_state = codec::decode_hard_state(&key, &value)
            .map_err(|what| corrupt(path, format!("the hard state (term, vote, commit): {what}")))?;
    }
    let key = StateRecord::ConfState.key(group);
    if let Some(value) = get(&key)? {
        meta.conf = codec::decode_conf_state(&key, &value)
            .map_err(|what| corrupt(path, format!("the configuration: {what}")))?;
    }
    let key = StateRecord::Snapshot.key(group);
    if let Some(value) = get(&key)? {
        let snapshot = codec::decode_snapshot(&key, &value)
            .map_err(|what| corrupt(path, format!("the snapshot's record: {what}")))?;
        meta.snapshot = Some(snapshot);
    }

    let mut tail = Tail::new(tail_cache_bytes);
    let mut last = meta.start;
    let mut went_back = None;
    let first = meta.start.index.checked_add(1).ok_or_else(|| corrupt(path, "the log starts at the end".into()))?;
    scan(db, group, first, None, |entry| {
        if entry.term < last.term {
            went_back = Some(format!(
                "entry {} has term {}, but the one before it has term {}",
                entry.index, entry.term, last.term
            ));
            return false;
        }
        last = Position { index: entry.index, term: entry.term };
        tail.replace_from([entry]);
        true
    })
    .map_err(|what| corrupt(path, what))?;
    if let Some(what) = went_back {
        return Err(corrupt(path, what));
    }
    meta.last = last;
    check(&meta).map_err(|what| corrupt(path, what))?;
    Ok((meta, tail))
}

/// Whether hard state, start, snapshot and entries fit together.
fn check(meta: &LogMeta) -> Result<(), String> {
    let LogMeta { hard_state, start, last, snapshot, .. } = meta;
    if hard_state.commit > last.index {
        return Err(format!(
            "entries {} to {} are committed, but the log ends at {}",
            last.index + 1,
            hard_state.commit,
            last.index
        ));
    }
    if hard_state.commit < start.index {
        return Err(format!(
            "the log starts after entry {}, but only entries up to {} are committed",
            start.index, hard_state.commit
        ));
    }
    if hard_state.term < last.term {
        return Err(format!(
            "entry {} has term {}, but the newest term on record is {}",
            last.index, last.term, hard_state.term
        ));
    }
    match snapshot {
        Some(snapshot) if snapshot.index > start.index => Err(format!(
            "a snapshot at index {} was installed, but the log starts after entry {}",
            snapshot.index, start.index
        )),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error(path, "syncing the folder"))
}

fn corrupt(path: &Path, what: String) -> OpenError {
    OpenError::Corrupt { path: path.into(), what }
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.into(), action, source }
}

fn store_error(path: &Path) -> impl FnOnce(rocksdb::Error) -> OpenError {
    move |error| OpenError::Store { path: path.into(), message: error.to_string() }
}
