//! The state that is kept when a module with another data layout takes over, so that an operator can go back to it: a copy
//! of the whole database in a file of its own, and its return into the tables.
//!
//! A file is made from the last commit before the entry of the activation, synced, and only then is the activation
//! committed; which activations have one is replicated state. A host whose disk has no room for the copy stands still before
//! the activation: it could neither carry it out nor refuse it alone. What is put back are the guest's tables, views, indexes and
//! triggers; everything of the host's goes on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, limits::Limit, types::ValueRef};
use telegraft_node::ports::{Code, MachineFault};
use telegraft_raft::Index;

use crate::{
    database::{Database, SQL_BYTES_MAX, quote},
    errors::{fault, is_guests},
    guest::{Ended, rejection},
    schema,
    snapshot::{copy, file_fault, remove_database, sync_dir},
};

/// SQLite's own maximum for a statement's text.
const SQL_BYTES_HOST: i32 = 1_000_000_000;

/// Before and behind the index of the activation in a file's name.
const NAME: (&str, &str) = ("kept-", ".db");

/// What is to stay free beside a kept state: the activation itself writes, and so does the log meanwhile.
const SPACE_LEFT_BYTES: u64 = 32 << 20;

/// What the system says is free on the disk of `path`, for this user.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let volume = nix::sys::statvfs::statvfs(path)?;
    Ok(volume.blocks_available().saturating_mul(volume.fragment_size()))
}

/// Bytes of disk space without which the state of `conn`, as it was committed, cannot be kept for the activation at `at`.
pub(crate) fn space_needed(conn: &Connection, dir: &Path, at: Index) -> Result<u64, MachineFault> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let copy = pragma("page_count").and_then(|pages| Ok(pages.saturating_mul(pragma("page_size")?)));
    let copy = copy.map_err(|e| fault("cannot ask for the size of the database", &e))?.unsigned_abs();
    // What an attempt that was cut off has left gives way.
    let left = fs::metadata(path(dir, at)).map_or(0, |file| file.len());
    Ok(copy.saturating_sub(left).saturating_add(SPACE_LEFT_BYTES))
}

/// The file of the state before the activation at `at`.
pub(crate) fn path(dir: &Path, at: Index) -> PathBuf {
    dir.join(format!("{}{at}{}", NAME.0, NAME.1))
}

/// Whether the file is there, and holds the state from before that activation.
pub(crate) fn is_sound(dir: &Path, at: Index) -> bool {
    let path = path(dir, at);
    let applied = || {
        let bytes = fs::metadata(&path).ok()?.len();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let kept = Connection::open_with_flags(&path, flags).ok()?;
        schema::check(&kept, bytes).ok()?.ok()?;
        schema::read_meta(&kept).ok().map(|meta| meta.applied)
    };
    applied() == Some(at.saturating_sub(1))
}

/// Copies the last committed state of the database at `from`, for the activation at `at`.
pub(crate) fn keep(dir: &Path, from: &Path, at: Index) -> Result<(), MachineFault> {
    let to = path(dir, at);
    remove_database(&to)?;
    // A connection of its own does not see what the writing one has not committed.
    let reader = Database::open_reader(from)?;
    copy(&reader, &to).map_err(|MachineFault(why)| {
        let where_to = to.display();
        MachineFault(format!("the state before the activation at index {at} cannot be kept in {where_to}: {why}"))
    })?;
    reader.close()?;
    fs::File::open(&to).and_then(|file| file.sync_all()).map_err(|e| file_fault("sync", &to, &e))?;
    sync_dir(dir)
}

/// Whether there are files of activations other than `wanted`.
pub(crate) fn has_others(dir: &Path, wanted: &[Index]) -> Result<bool, MachineFault> {
    Ok(!others(dir, wanted)?.is_empty())
}

/// Removes the files of all activations but `wanted`.
pub(crate) fn remove_others(dir: &Path, wanted: &[Index]) -> Result<(), MachineFault> {
    others(dir, wanted)?.iter().try_for_each(|path| remove_database(path))
}

fn others(dir: &Path, wanted: &[Index]) -> Result<Vec<PathBuf>, MachineFault> {
    let mut others = Vec::new();
    let entries = fs::read_dir(dir).map_err(|e| file_fault("list", dir, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| file_fault("list", dir, &e))?;
        let name = entry.file_name();
        let index = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME.0)?.strip_suffix(NAME.1))
            .and_then(|index| index.parse::<Index>().ok());
        if index.is_some_and(|index| !wanted.contains(&index)) {
            others.push(entry.path());
        }
    }
    Ok(others)
}

/// Puts the guest's tables of the file in the place of those in `conn`, in the open transaction. Foreign keys must be off.
///
/// A table whose rows cannot be written again (a generated column that cannot be computed) is the guest's doing, the same on
/// every replica: a rejection.
pub(crate) fn put_back(conn: &Connection, from: &Path) -> Result<(), Ended> {
    let put_back = || -> rusqlite::Result<()> {
        // They were true when the rows were written; those that ask for the time may not be so now.
        conn.pragma_update(None, "ignore_check_constraints", true)?;
        // A definition may have grown beyond what a guest may write at once.
        conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_HOST)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let kept = Connection::open_with_flags(from, flags)?;
        drop_all(conn)?;
        let objects = objects(&kept)?;
        for Object { name, sql, .. } in objects.iter().filter(|object| object.kind == "table") {
            conn.execute_batch(sql)?;
            copy_rows(&kept, conn, name)?;
        }
        copy_sequences(&kept, conn)?;
        // Indexes, views and triggers after the rows: quicker, and no trigger acts on what is put back.
        for kind in ["index", "view", "trigger"] {
            for Object { sql, .. } in objects.iter().filter(|object| object.kind == kind) {
                conn.execute_batch(sql)?;
            }
        }
        Ok(())
    };
    let done = put_back();
    let again = conn
        .pragma_update(None, "ignore_check_constraints", false)
        .and_then(|()| conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX));
    match done.and(again.map(drop)) {
        Ok(()) => Ok(()),
        Err(error) if error.sqlite_error_code().is_some_and(is_guests) => {
            let message = format!("the kept state cannot be put back: {error}");
            Err(rejection(Code::FailedPrecondition, message).into())
        }
        Err(error) => Err(fault(&format!("cannot put the kept state {} back", from.display()), &error).into()),
    }
}

struct Object {
    kind: String,
    name: String,
    sql: String,
}

/// What a guest has defined, in the order in which it did.
fn objects(conn: &Connection) -> rusqlite::Result<Vec<Object>> {
    let mut statement = conn.prepare(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_' \
         AND substr(name, 1, 11) <> '_telegraft_' AND substr(tbl_name, 1, 11) <> '_telegraft_' ORDER BY rowid",
    )?;
    let rows = statement.query_map([], |row| Ok(Object { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? }))?;
    rows.collect()
}

fn drop_all(conn: &Connection) -> rusqlite::Result<()> {
    let objects = objects(conn)?;
    // Triggers and views first: they may name tables. Indexes go with their tables.
    for kind in ["trigger", "view", "table"] {
        for Object { name, .. } in objects.iter().filter(|object| object.kind == kind) {
            conn.execute_batch(&format!("DROP {kind} main.{}", quote(name)))?;
        }
    }
    if has_sequences(conn)? {
        conn.execute_batch("DELETE FROM sqlite_sequence")?;
    }
    Ok(())
}

fn has_sequences(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence')", [], |row| row.get(0))
}

fn copy_sequences(from: &Connection, to: &Connection) -> rusqlite::Result<()> {
    if !has_sequences(from)? {
        return Ok(());
    }
    to.execute_batch("DELETE FROM sqlite_sequence")?;
    copy_all(
        from,
        to,
        "SELECT name, seq FROM sqlite_sequence ORDER BY rowid",
        "INSERT INTO sqlite_sequence(name, seq) VALUES (?1, ?2)",
    )
}

/// The rows of one table with their row ids, as far as these can be named.
fn copy_rows(from: &Connection, to: &Connection, table: &str) -> rusqlite::Result<()> {
    let mut columns: Vec<String> = {
        let mut statement = from.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0")?;
        let rows = statement.query_map([table], |row| row.get(0))?;
        rows.collect::<Result<_, _>>()?
    };
    let without_rowid: bool =
        from.query_row("SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1", [table], |row| {
            row.get(0)
        })?;
    let mut all: Vec<String> = {
        let mut statement = from.prepare("SELECT name FROM pragma_table_xinfo(?1)")?;
        let rows = statement.query_map([table], |row| row.get(0))?;
        rows.collect::<Result<_, _>>()?
    };
    all.retain(|name| ["rowid", "_rowid_", "oid"].iter().any(|rowid| rowid.eq_ignore_ascii_case(name)));
    let free =
        ["rowid", "_rowid_", "oid"].into_iter().find(|rowid| !all.iter().any(|name| name.eq_ignore_ascii_case(rowid)));
    // Also where a column is another name of the row id: both are given the same value.
    if let (false, Some(rowid)) = (without_rowid, free) {
        columns.insert(0, rowid.to_owned());
    }
    let names = columns.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    let places = (1..=columns.len()).map(|i| format!("?{i}")).collect::<Vec<_>>().join(", ");
    let table = quote(table);
    copy_all(
        from,
        to,
        &format!("SELECT {names} FROM main.{table}"),
        &format!("INSERT INTO main.{table}({names}) VALUES ({places})"),
    )
}

fn copy_all(from: &Connection, to: &Connection, select: &str, insert: &str) -> rusqlite::Result<()> {
    let mut select = from.prepare(select)?;
    let columns = select.column_count();
    let mut insert = to.prepare(insert)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            match row.get_ref(column)? {
                ValueRef::Null => insert.raw_bind_parameter(column + 1, rusqlite::types::Null)?,
                ValueRef::Integer(i) => insert.raw_bind_parameter(column + 1, i)?,
                ValueRef::Real(r) => insert.raw_bind_parameter(column + 1, r)?,
                text @ ValueRef::Text(_) => {
                    insert.raw_bind_parameter(column + 1, rusqlite::types::ToSqlOutput::Borrowed(text))?
                }
                ValueRef::Blob(b) => insert.raw_bind_parameter(column + 1, b)?,
            }
        }
        insert.raw_execute()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_is_free_and_where_it_cannot() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).unwrap() > 0);
        assert_eq!(free_bytes(&folder.path().join("nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
