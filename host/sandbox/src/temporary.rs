//! What SQLite writes to temporary files: sorts, DISTINCT and UNION, materialised views put there what their memory does
//! not hold, and no VM step tells how many bytes a row has. So the files are opened through a layer over the system's own
//! that counts (<https://www.sqlite.org/vfs.html>), and the step budget pays for the bytes.
//!
//! The count is the same on every replica: how much of a sort or of a temporary table is kept in memory hangs on the size of
//! its own cache, which is fixed, and on nothing that other connections do. A statement's own journal is left out: how much
//! of the database it keeps hangs on the layout of its pages.
//!
//! They lie in the host's data folder, on the disk that it watches as it is, rather than in the system's folder for such
//! files, which may be small, or memory. SQLite removes their names at once, so a crash leaves none.

use std::{
    cell::Cell,
    ffi::{CStr, CString},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
    sync::OnceLock,
};

use rusqlite::{
    Error as SqlError,
    ffi::{self, sqlite3_file, sqlite3_filename, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs},
};

/// The layer's name, for opening connections.
const NAME: &CStr = c"telegraft";

/// The kinds of temporary files that are counted (<https://www.sqlite.org/c3ref/c_open_autoproxy.html>). A sort's is a
/// "temporary journal".
const COUNTED: i32 = ffi::SQLITE_OPEN_TEMP_DB | ffi::SQLITE_OPEN_TRANSIENT_DB | ffi::SQLITE_OPEN_TEMP_JOURNAL;

thread_local! {
    /// Bytes written by this thread. SQLite works in the thread that calls it: it is given no others.
    static WRITTEN: Cell<u64> = const { Cell::new(0) };
}

type Open = unsafe extern "C" fn(*mut sqlite3_vfs, sqlite3_filename, *mut sqlite3_file, i32, *mut i32) -> i32;
type Write = unsafe extern "C" fn(*mut sqlite3_file, *const std::ffi::c_void, i32, sqlite3_int64) -> i32;

/// The system's own way of opening.
static OPEN: OnceLock<Open> = OnceLock::new();
static METHODS: OnceLock<Methods> = OnceLock::new();

/// What can be done with a temporary file.
struct Methods {
    /// Where the system's methods are. It has one set for all files that need no locks.
    system: usize,
    /// Of these.
    write: Write,
    /// A copy of them, with [`write`] in the place of the system's.
    ours: sqlite3_io_methods,
}

/// Bytes that this thread has written to temporary files, ever.
pub(crate) fn written() -> u64 {
    WRITTEN.get()
}

/// Has this process's temporary files made in `folder`, unless `SQLITE_TMPDIR` in its environment names another. To be
/// called before the first connection is opened; later calls do nothing.
pub(crate) fn keep_in(folder: &Path) {
    static KEPT: OnceLock<()> = OnceLock::new();
    let Ok(folder) = CString::new(folder.as_os_str().as_bytes()) else { return };
    if std::env::var_os("SQLITE_TMPDIR").is_none() {
        KEPT.get_or_init(|| set_folder(&folder));
    }
}

#[allow(
    unsafe_code,
    reason = "SQLite takes the folder in a variable of C; the pragma for it does the same and is deprecated"
)]
fn set_folder(folder: &CStr) {
    // SAFETY: written once, before there is a connection that could read it. The text is one of SQLite's own, as the
    // variable asks, and lives for ever; without memory for it the variable is null, as it was.
    unsafe { ffi::sqlite3_temp_directory = ffi::sqlite3_mprintf(c"%s".as_ptr(), folder.as_ptr()) }
}

/// The name that opens connections whose temporary files are counted.
pub(crate) fn vfs() -> rusqlite::Result<&'static CStr> {
    static REGISTERED: OnceLock<i32> = OnceLock::new();
    match *REGISTERED.get_or_init(register) {
        ffi::SQLITE_OK => Ok(NAME),
        code => Err(SqlError::SqliteFailure(ffi::Error::new(code), Some("no layer over the file system".to_owned()))),
    }
}

#[allow(
    unsafe_code,
    reason = "SQLite's interface to file systems is one of C functions; rusqlite has no safe form of it"
)]
fn register() -> i32 {
    // SAFETY: initialising more than once is allowed. The system's layer is found by SQLite itself, is never changed nor
    // freed, and is copied whole. The copy is the system's but for its name and its way of opening; it keeps the system's
    // private data, which the system's functions look for, and lives for ever, as registering asks.
    unsafe {
        let code = ffi::sqlite3_initialize();
        if code != ffi::SQLITE_OK {
            return code;
        }
        let system = ffi::sqlite3_vfs_find(ptr::null());
        let Some(system) = system.as_ref() else {
            return ffi::SQLITE_NOTFOUND;
        };
        let Some(opens) = system.xOpen else {
            return ffi::SQLITE_NOTFOUND;
        };
        OPEN.get_or_init(|| opens);
        let ours = sqlite3_vfs { zName: NAME.as_ptr(), pNext: ptr::null_mut(), xOpen: Some(open), ..*system };
        ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 0)
    }
}

/// Opens as the system does; temporary files get our way of writing.
#[allow(unsafe_code, reason = "see `register`")]
unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: sqlite3_filename,
    file: *mut sqlite3_file,
    flags: i32,
    opened: *mut i32,
) -> i32 {
    let Some(system) = OPEN.get() else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: the arguments are SQLite's, handed on as they came.
    let code = unsafe { system(vfs, name, file, flags, opened) };
    if code != ffi::SQLITE_OK || flags & COUNTED == 0 {
        return code;
    }
    // SAFETY: the file was opened just now, so it has its methods, which live for ever; they are copied, and only the
    // copy is changed. What the system keeps of the file is behind the pointer to the methods and is left alone.
    unsafe {
        let Some((theirs, write_theirs)) = (*file).pMethods.as_ref().and_then(|theirs| Some((theirs, theirs.xWrite?)))
        else {
            return ffi::SQLITE_CANTOPEN;
        };
        let system = ptr::from_ref(theirs).addr();
        let methods = METHODS.get_or_init(|| Methods {
            system,
            write: write_theirs,
            ours: sqlite3_io_methods { xWrite: Some(write), ..*theirs },
        });
        if methods.system != system {
            // Ours would not fit.
            if let Some(close) = theirs.xClose {
                close(file);
            }
            (*file).pMethods = ptr::null();
            return ffi::SQLITE_CANTOPEN;
        }
        (*file).pMethods = &raw const methods.ours;
    }
    code
}

/// Counts, and writes as the system does.
#[allow(unsafe_code, reason = "see `register`")]
unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const std::ffi::c_void,
    amount: i32,
    offset: sqlite3_int64,
) -> i32 {
    let Some(Methods { write: system, .. }) = METHODS.get() else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // A thread that ends has nothing more to count.
    let _ = WRITTEN.try_with(|written| written.set(written.get().saturating_add(u64::try_from(amount).unwrap_or(0))));
    // SAFETY: the arguments are SQLite's, handed on as they came, to the function that came with this file.
    unsafe { system(file, bytes, amount, offset) }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, OpenFlags};

    use super::*;

    fn sort(conn: &Connection, rows: u32) -> u64 {
        let before = written();
        let sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?1) \
                   SELECT max(length(x)) FROM (SELECT hex(zeroblob(500)) || n AS x FROM c ORDER BY x LIMIT -1 OFFSET 1)";
        let longest: u32 = conn.query_row(sql, [rows], |row| row.get(0)).unwrap();
        assert!(longest > 1000);
        written() - before
    }

    #[test]
    fn what_a_sort_writes_is_counted_and_the_database_s_own_writes_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags_and_vfs(folder.path().join("a.db"), flags, vfs().unwrap()).unwrap();
        assert_eq!(sort(&conn, 100), 0, "it fits into memory");
        let large = sort(&conn, 100_000);
        // Every row once when it is put away, and again as often as parts are merged.
        assert!((100_000_000..1_000_000_000).contains(&large), "{large}");
        assert_eq!(sort(&conn, 100_000), large, "the same again");

        let before = written();
        conn.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (hex(zeroblob(1000000)));").unwrap();
        conn.execute_batch("UPDATE t SET x = x || 1; DELETE FROM t;").unwrap();
        assert_eq!(written(), before);
    }

    /// What it sets is the whole process's.
    #[test]
    fn the_files_are_where_they_are_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        keep_in(folder.path());
        let conn = Connection::open_with_flags_and_vfs(folder.path().join("b.db"), flags, vfs().unwrap()).unwrap();
        let sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 100000) \
                   SELECT hex(zeroblob(500)) || n AS x FROM c ORDER BY x";
        let mut statement = conn.prepare(sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        rows.next().unwrap().unwrap();
        let open =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        let temporary =
            open.filter(|path| path.starts_with(folder.path()) && path.to_string_lossy().ends_with("(deleted)"));
        assert!(temporary.count() > 0, "no temporary file in {}", folder.path().display());
        let left =
            std::fs::read_dir(folder.path()).unwrap().filter_map(|file| file.ok()?.file_name().into_string().ok());
        assert!(left.into_iter().all(|name| name.starts_with("b.db")), "a name was left");
    }
}
