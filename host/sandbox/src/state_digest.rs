//! One digest over everything that entries decide, computed from the logical content, so that it does not depend on how
//! pages lie in the file, on the version of the file's layout, or on rows that are forgotten but not yet deleted.
//!
//! SHA-256 over, in this order, each item length-prefixed or of fixed size, integers little-endian:
//!
//! 1. the newest time, the logical bytes of the guest's data;
//! 2. the guest's schema: type, name, table and text of each entry, by type and name;
//! 3. the guest's tables by name (and `sqlite_sequence`): name, columns, then each row with its row id, by row id, or by
//!    primary key where a table has no row ids;
//! 4. the sessions that are remembered at this index, by index;
//! 5. uploads with their parts, complete modules, data layouts, the active module, budgets, activations, history.
//!
//! Not in it: the applied index itself (entries that change nothing leave the digest as it is), the newest entropy, the effect
//! digest, checkpoints and what was reported of them.

use rusqlite::{Connection, types::ValueRef};
use sha2::{Digest as _, Sha256};
use telegraft_node::ports::MachineFault;

use crate::{database::quote, errors::fault, schema::Meta, sessions::REMEMBERED};

/// The digest in hexadecimal, in the open read transaction.
pub(crate) fn compute(conn: &Connection, meta: &Meta) -> Result<String, MachineFault> {
    walk(conn, meta).map_err(|e| fault("cannot compute the state digest", &e))
}

fn walk(conn: &Connection, meta: &Meta) -> rusqlite::Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(b"telegraft state 1");
    hasher.update(meta.time_us.to_le_bytes());
    hasher.update(meta.data_bytes.to_le_bytes());
    rows(
        conn,
        &mut hasher,
        "SELECT type, name, tbl_name, sql FROM sqlite_schema \
         WHERE substr(name, 1, 11) <> '_telegraft_' AND substr(tbl_name, 1, 11) <> '_telegraft_' AND name <> 'sqlite_sequence' \
         ORDER BY type, name",
    )?;
    for table in guest_tables(conn)? {
        rows(conn, &mut hasher, &table_walk(conn, &table)?)?;
    }
    let oldest = meta.applied.saturating_sub(REMEMBERED);
    rows(
        conn,
        &mut hasher,
        &format!(
            "SELECT at, client, request, call, code, body FROM _telegraft_sessions WHERE at > {oldest} ORDER BY at"
        ),
    )?;
    for own in [
        "SELECT digest, size, received, touched FROM _telegraft_uploads ORDER BY digest",
        "SELECT digest, start, data FROM _telegraft_chunks ORDER BY digest, start",
        "SELECT digest, name, version, schema, size, uploaded, activated, reuse, engine FROM _telegraft_modules ORDER BY digest",
        "SELECT name, schema FROM _telegraft_layouts ORDER BY name",
        "SELECT digest, service FROM _telegraft_active",
        "SELECT * FROM _telegraft_limits",
        "SELECT * FROM _telegraft_activations ORDER BY at",
        "SELECT * FROM _telegraft_history ORDER BY at",
    ] {
        rows(conn, &mut hasher, own)?;
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn guest_tables(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, 11) <> '_telegraft_' ORDER BY name",
    )?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}

/// The statement that walks a table in the order of its key.
fn table_walk(conn: &Connection, table: &str) -> rusqlite::Result<String> {
    let quoted = quote(table);
    let mut columns: Vec<(String, i64)> = {
        // Without generated columns that are not stored: they follow from the others, and computing them may fail.
        let mut statement = conn.prepare("SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden NOT IN (1, 2)")?;
        let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    let without_rowid: bool =
        conn.query_row("SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1", [table], |row| {
            row.get(0)
        })?;
    let all = columns.iter().map(|(name, _)| quote(name)).collect::<Vec<_>>().join(", ");
    let is_column = |name: &str| columns.iter().any(|(column, _)| column.eq_ignore_ascii_case(name));
    let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !is_column(name));
    Ok(match rowid {
        Some(rowid) if !without_rowid => format!("SELECT {rowid}, {all} FROM {quoted} ORDER BY {rowid}"),
        // A table with columns of all three names: its rows in the order of their content.
        None if !without_rowid => format!("SELECT {all} FROM {quoted} ORDER BY {all}"),
        _ => {
            columns.retain(|(_, place)| *place > 0);
            columns.sort_by_key(|(_, place)| *place);
            let key = columns.iter().map(|(name, _)| quote(name)).collect::<Vec<_>>().join(", ");
            format!("SELECT {all} FROM {quoted} ORDER BY {key}")
        }
    })
}

/// Hashes the statement (so, the table's and the columns' names), each value, and the number of rows.
fn rows(conn: &Connection, hasher: &mut Sha256, sql: &str) -> rusqlite::Result<()> {
    bytes(hasher, b'q', sql.as_bytes());
    let mut statement = conn.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut count: u64 = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        for column in 0..columns {
            match row.get_ref(column)? {
                ValueRef::Null => hasher.update(b"n"),
                ValueRef::Integer(i) => {
                    hasher.update(b"i");
                    hasher.update(i.to_le_bytes());
                }
                ValueRef::Real(r) => {
                    hasher.update(b"r");
                    hasher.update(r.to_bits().to_le_bytes());
                }
                ValueRef::Text(t) => bytes(hasher, b't', t),
                ValueRef::Blob(b) => bytes(hasher, b'b', b),
            }
        }
    }
    hasher.update(b"e");
    hasher.update(count.to_le_bytes());
    Ok(())
}

fn bytes(hasher: &mut Sha256, tag: u8, content: &[u8]) {
    hasher.update([tag]);
    hasher.update((content.len() as u64).to_le_bytes());
    hasher.update(content);
}
