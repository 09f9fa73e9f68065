//! Modules in the machine's tables: parts come in, complete ones are known, one is active.
//!
//! Everything here is decided by entries alone, so the bounds are constants and not a host's configuration.

use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest as _, Sha256};
use telegraft_node::ports::{Code, MachineFault};
use telegraft_proto::internal::ModuleChunk;
use telegraft_raft::Index;

use crate::{
    errors::fault,
    guest::{Ended, cut, rejection},
    limits::Limits,
    module::Digest,
};

/// Modules of which parts may be here at one time; the one that waited longest gives way.
pub const UPLOADS_MAX: usize = 4;

/// Bytes of a module, whatever a host's own limit says.
pub const MODULE_BYTES_MAX: u64 = 256 << 20;

/// Bytes of a name or version that are kept from a part's own words.
const LABEL_BYTES_MAX: usize = 64;

/// A module that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleRecord {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its name: what the uploading host found, and from its first activation on what the module itself says.
    pub name: String,
    /// Its version, likewise.
    pub version: String,
    /// The version of its data layout, likewise.
    pub schema: u32,
    /// Bytes.
    pub size: u64,
    /// Index at which it was complete.
    pub uploaded_index: Index,
    /// Index of its newest activation, 0 for never.
    pub activated_index: Index,
    /// Whether it is the active one.
    pub active: bool,
    /// Whether its newest activation allowed one instance for many entries, and the audit has not ended it.
    pub reuse: bool,
    /// The engine that its newest activation recorded, empty where there was none.
    pub engine: String,
}

/// The active module as the table has it.
#[derive(Clone, Debug)]
pub(crate) struct ActiveRow {
    pub digest: Digest,
    pub service: Vec<u8>,
}

/// Takes a part of a module that may have `bytes_max` bytes. True where it completed a module that was not known.
pub(crate) fn take_chunk(conn: &Connection, at: Index, bytes_max: u64, chunk: &ModuleChunk) -> Result<bool, Ended> {
    let digest = Digest::try_from(&*chunk.digest).map_err(|e| invalid(e.to_string()))?;
    if module(conn, &digest)?.is_some() {
        return Ok(false);
    }
    let len = chunk.data.len() as u64;
    if chunk.size == 0 || chunk.size > MODULE_BYTES_MAX {
        return Err(invalid(format!("a module has 1 to {MODULE_BYTES_MAX} bytes, not {}", chunk.size)));
    }
    if chunk.size > bytes_max {
        let message =
            format!("the module has {} bytes, over the machine's budget of {bytes_max} (module_bytes)", chunk.size);
        return Err(rejection(Code::ResourceExhausted, message).into());
    }
    if len == 0 {
        return Err(invalid("a part of a module must not be empty"));
    }
    let upload = sql("an upload", || {
        conn.prepare_cached("SELECT size, received FROM _telegraft_uploads WHERE digest = ?1")?
            .query_row([digest.0.as_slice()], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
            .optional()
    })?;
    let received = match upload {
        _ if chunk.offset == 0 => {
            if upload.is_some() {
                drop_upload(conn, &digest)?;
            }
            make_room(conn)?;
            0
        }
        Some((size, received)) if chunk.offset == received && chunk.size == size => received,
        Some((size, received)) => {
            let message = format!(
                "module {digest} is here up to byte {received} of {size}; this part begins at {} of {}; send the upload again from offset 0",
                chunk.offset, chunk.size
            );
            return Err(rejection(Code::FailedPrecondition, message).into());
        }
        None => {
            let message = format!(
                "no part of module {digest} is here; this part begins at {}; send the upload again from offset 0",
                chunk.offset
            );
            return Err(rejection(Code::FailedPrecondition, message).into());
        }
    };
    let end = received.saturating_add(len);
    if end > chunk.size {
        return Err(invalid(format!("the part ends at byte {end}, beyond the module's size of {}", chunk.size)));
    }
    sql("a module's part", || {
        conn.prepare_cached("INSERT INTO _telegraft_chunks VALUES (?1, ?2, ?3)")?.execute(params![
            digest.0.as_slice(),
            received as i64,
            &*chunk.data
        ])
    })?;
    if end < chunk.size {
        sql("an upload", || {
            conn.prepare_cached("INSERT OR REPLACE INTO _telegraft_uploads VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                digest.0.as_slice(),
                chunk.size as i64,
                end as i64,
                at as i64
            ])
        })?;
        return Ok(false);
    }
    if hash(conn, &digest)? != digest {
        // The entry is undone, so the parts before this one stay: a good last part still completes them, and if one of
        // them is bad an upload from offset 0 replaces them.
        return Err(invalid(format!("the module's bytes do not have the digest {digest}; send the upload again")));
    }
    sql("a module", || {
        conn.prepare_cached("DELETE FROM _telegraft_uploads WHERE digest = ?1")?.execute([digest.0.as_slice()])?;
        conn.prepare_cached("INSERT INTO _telegraft_modules VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, '')")?.execute(
            params![
                digest.0.as_slice(),
                cut(&chunk.name, LABEL_BYTES_MAX),
                cut(&chunk.version, LABEL_BYTES_MAX),
                chunk.schema,
                chunk.size as i64,
                at as i64
            ],
        )
    })?;
    Ok(true)
}

/// The oldest uploads give way until one more fits.
fn make_room(conn: &Connection) -> Result<(), Ended> {
    let waiting = sql("the uploads", || {
        let mut statement = conn.prepare_cached("SELECT digest FROM _telegraft_uploads ORDER BY touched, digest")?;
        let rows = statement.query_map([], |row| digest_at(row, 0))?;
        rows.collect::<Result<Vec<_>, _>>()
    })?;
    let excess = (waiting.len() + 1).saturating_sub(UPLOADS_MAX);
    waiting.iter().take(excess).try_for_each(|digest| drop_upload(conn, digest))
}

fn drop_upload(conn: &Connection, digest: &Digest) -> Result<(), Ended> {
    sql("an upload", || {
        conn.prepare_cached("DELETE FROM _telegraft_uploads WHERE digest = ?1")?.execute([digest.0.as_slice()])?;
        conn.prepare_cached("DELETE FROM _telegraft_chunks WHERE digest = ?1")?.execute([digest.0.as_slice()])
    })?;
    Ok(())
}

fn each_chunk(conn: &Connection, digest: &Digest, mut on: impl FnMut(&[u8])) -> Result<(), MachineFault> {
    sql("a module's parts", || {
        let mut statement =
            conn.prepare_cached("SELECT data FROM _telegraft_chunks WHERE digest = ?1 ORDER BY start")?;
        let mut rows = statement.query([digest.0.as_slice()])?;
        while let Some(row) = rows.next()? {
            on(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    })
}

fn hash(conn: &Connection, digest: &Digest) -> Result<Digest, MachineFault> {
    let mut hasher = Sha256::new();
    each_chunk(conn, digest, |data| hasher.update(data))?;
    Ok(Digest(hasher.finalize().into()))
}

/// The bytes of a complete module.
pub(crate) fn bytes(conn: &Connection, digest: &Digest) -> Result<Vec<u8>, MachineFault> {
    let mut bytes = Vec::new();
    each_chunk(conn, digest, |data| bytes.extend_from_slice(data))?;
    if Digest::of(&bytes) == *digest {
        Ok(bytes)
    } else {
        Err(MachineFault(format!(
            "the bytes of module {digest} in the database are damaged: stop this host, move machine.db, machine.db-wal and \
             machine.db-shm away and start it again; the state is rebuilt from the log"
        )))
    }
}

const RECORD: &str = "SELECT m.digest, name, version, schema, size, uploaded, activated, reuse, engine, \
    EXISTS (SELECT 1 FROM _telegraft_active a WHERE a.digest = m.digest) FROM _telegraft_modules m";

fn record(row: &Row<'_>) -> rusqlite::Result<ModuleRecord> {
    Ok(ModuleRecord {
        digest: digest_at(row, 0)?,
        name: row.get(1)?,
        version: row.get(2)?,
        schema: row.get(3)?,
        size: row.get::<_, i64>(4)? as u64,
        uploaded_index: row.get::<_, i64>(5)? as u64,
        activated_index: row.get::<_, i64>(6)? as u64,
        reuse: row.get(7)?,
        engine: row.get(8)?,
        active: row.get(9)?,
    })
}

pub(crate) fn digest_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get::<_, [u8; 32]>(column).map(Digest)
}

/// A complete module.
pub(crate) fn module(conn: &Connection, digest: &Digest) -> Result<Option<ModuleRecord>, MachineFault> {
    sql("a module", || {
        conn.prepare_cached(&format!("{RECORD} WHERE digest = ?1"))?.query_row([digest.0.as_slice()], record).optional()
    })
}

/// All complete modules, in the order in which they were.
pub(crate) fn modules(conn: &Connection) -> Result<Vec<ModuleRecord>, MachineFault> {
    sql("the modules", || {
        let mut statement = conn.prepare_cached(&format!("{RECORD} ORDER BY uploaded, digest"))?;
        let rows = statement.query_map([], record)?;
        rows.collect()
    })
}

/// The data layout that this name last had.
pub(crate) fn layout(conn: &Connection, name: &str) -> Result<Option<u32>, MachineFault> {
    sql("a data layout", || {
        conn.prepare_cached("SELECT schema FROM _telegraft_layouts WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()
    })
}

/// The data layouts of all names.
pub(crate) fn layouts(conn: &Connection) -> Result<Vec<(String, u32)>, MachineFault> {
    sql("the data layouts", || {
        let mut statement = conn.prepare_cached("SELECT name, schema FROM _telegraft_layouts ORDER BY name")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    })
}

/// Sets the data layout of a name, or forgets it.
pub(crate) fn set_layout(conn: &Connection, name: &str, schema: Option<u32>) -> Result<(), MachineFault> {
    sql("a data layout", || match schema {
        Some(schema) => conn
            .prepare_cached("INSERT OR REPLACE INTO _telegraft_layouts VALUES (?1, ?2)")?
            .execute(params![name, schema]),
        None => conn.prepare_cached("DELETE FROM _telegraft_layouts WHERE name = ?1")?.execute([name]),
    })
    .map(drop)
}

/// Makes a module the active one: the record's own words, and the active row.
pub(crate) fn activate(conn: &Connection, record: &ModuleRecord, service: &[u8]) -> Result<(), MachineFault> {
    sql("an activation", || {
        conn.prepare_cached(
            "UPDATE _telegraft_modules SET name = ?2, version = ?3, schema = ?4, activated = ?5, reuse = ?6, engine = ?7 \
             WHERE digest = ?1",
        )?
        .execute(params![
            record.digest.0.as_slice(),
            record.name,
            record.version,
            record.schema,
            record.activated_index as i64,
            record.reuse,
            record.engine
        ])?;
        conn.prepare_cached("INSERT OR REPLACE INTO _telegraft_active VALUES (1, ?1, ?2)")?
            .execute(params![record.digest.0.as_slice(), service])
    })
    .map(drop)
}

/// From here on every entry gets a fresh instance of this module.
pub(crate) fn end_reuse(conn: &Connection, digest: &Digest) -> Result<(), MachineFault> {
    sql("a module", || {
        conn.prepare_cached("UPDATE _telegraft_modules SET reuse = 0 WHERE digest = ?1")?.execute([digest.0.as_slice()])
    })
    .map(drop)
}

/// The active module, if there is one.
pub(crate) fn active(conn: &Connection) -> Result<Option<ActiveRow>, MachineFault> {
    sql("the active module", || {
        conn.prepare_cached("SELECT digest, service FROM _telegraft_active")?
            .query_row([], |row| Ok(ActiveRow { digest: digest_at(row, 0)?, service: row.get(1)? }))
            .optional()
    })
}

/// The machine's budgets; none before they were set.
pub(crate) fn limits(conn: &Connection) -> Result<Option<Limits>, MachineFault> {
    sql("the budgets", || {
        conn.prepare_cached(
            "SELECT fuel, memory_bytes, sql_steps, rows, result_bytes, reply_bytes, value_bytes, database_bytes, \
             module_bytes FROM _telegraft_limits",
        )?
        .query_row([], |row| {
            let u = |i: usize| row.get::<_, i64>(i).map(|v| v as u64);
            Ok(Limits {
                fuel: u(0)?,
                memory_bytes: u(1)?,
                sql_steps: u(2)?,
                rows: u(3)?,
                result_bytes: u(4)?,
                reply_bytes: u(5)?,
                value_bytes: u(6)?,
                database_bytes: u(7)?,
                module_bytes: u(8)?,
            })
        })
        .optional()
    })
}

/// Sets the machine's budgets.
pub(crate) fn set_limits(conn: &Connection, l: &Limits) -> Result<(), MachineFault> {
    sql("the budgets", || {
        conn.prepare_cached("INSERT OR REPLACE INTO _telegraft_limits VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute(l.named().map(|(_, value)| value as i64))
    })
    .map(drop)
}

/// Runs the host's own SQL; `what` it is about stands in the fault.
pub(crate) fn sql<T>(what: &str, run: impl FnOnce() -> rusqlite::Result<T>) -> Result<T, MachineFault> {
    run().map_err(|e| fault(&format!("cannot read or write {what}"), &e))
}

fn invalid(message: impl Into<String>) -> Ended {
    rejection(Code::InvalidArgument, message).into()
}
