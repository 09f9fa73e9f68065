//! How long the keys of a schema's indexes may be. A search in an index compares its key with some keys of the tree, each
//! of them read whole, in one step of SQLite's virtual machine; so keys stay within the smallest reach
//! ([`crate::reach`]), whatever the values of the other columns come to.
//!
//! A statement of the smallest reach cannot make a longer key, since SQLite bounds the record that it is. For one of a
//! greater reach the pre-update hook asks here. What the hook cannot tell, the key of an index on an expression or on a
//! virtual column, has no such statement at all.

use std::collections::BTreeMap;

use rusqlite::{Connection, types::ValueRef};

use crate::reach::REACH_MIN;

/// What the keys of a schema are made of.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    tables: BTreeMap<String, Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// WITHOUT ROWID: the whole row is a key.
    is_index: bool,
    /// Name of an index whose keys cannot be told from the row.
    untold: Option<String>,
    /// Name and columns of each index.
    indexes: Vec<(String, Vec<usize>)>,
}

impl Keys {
    /// Those of the guest's tables.
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Keys> {
        let mut tables: BTreeMap<String, Table> = BTreeMap::new();
        let mut statement = conn.prepare_cached(
            "SELECT name, wr, EXISTS (SELECT 1 FROM pragma_table_xinfo(t.name) WHERE hidden = 2) FROM pragma_table_list AS t \
             WHERE schema = 'main' AND type = 'table' AND substr(name, 1, 11) <> '_telegraft_' AND substr(name, 1, 7) <> 'sqlite_'",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (name, is_index, has_virtual): (String, bool, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let mut table = Table { is_index, ..Table::default() };
            let mut statement = conn.prepare_cached(
                "SELECT l.name, x.cid FROM pragma_index_list(?1) AS l, pragma_index_xinfo(l.name) AS x \
                 WHERE x.key ORDER BY l.seq, x.seqno -- _telegraft_",
            )?;
            let mut columns = statement.query([&name])?;
            while let Some(row) = columns.next()? {
                let (index, column): (String, i64) = (row.get(0)?, row.get(1)?);
                if has_virtual || column < -1 {
                    table.untold = Some(index);
                    continue;
                }
                if table.indexes.last().is_none_or(|(last, _)| *last != index) {
                    table.indexes.push((index, Vec::new()));
                }
                if let (Some((_, columns)), Ok(column)) = (table.indexes.last_mut(), usize::try_from(column)) {
                    columns.push(column);
                }
            }
            tables.insert(name, table);
        }
        Ok(Keys { tables })
    }

    /// Why a row of so many columns cannot be written, if it cannot.
    pub(crate) fn refuse<'v>(
        &self,
        table: &str,
        columns: i32,
        value: impl Fn(i32) -> rusqlite::Result<ValueRef<'v>>,
    ) -> Option<String> {
        let known = self.tables.get(table)?;
        if let Some(index) = &known.untold {
            return Some(format!(
                "the table {table} has an index on an expression or a virtual column ({index}): it takes no statement with \
                 values over {REACH_MIN} bytes, or while the schema has such a definition. Keep what is to be found in a \
                 column of its own, or a STORED one"
            ));
        }
        let bytes = |column: i32| match value(column) {
            Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => bytes.len(),
            _ => 8,
        };
        if known.is_index {
            let row: usize = (0..columns).map(bytes).sum();
            return (!fits(row)).then(|| {
                format!(
                    "a row of {table} would have {row} bytes: in a table WITHOUT ROWID the row is a key, and a key has at most \
                     {REACH_MIN}"
                )
            });
        }
        known.indexes.iter().find_map(|(index, of)| {
            let key: usize = of.iter().filter_map(|column| i32::try_from(*column).ok()).map(bytes).sum();
            (!fits(key)).then(|| {
                format!("a key of the index {index} of {table} would have {key} bytes: a key has at most {REACH_MIN}")
            })
        })
    }
}

fn fits(bytes: usize) -> bool {
    usize::try_from(REACH_MIN).is_ok_and(|max| bytes <= max)
}
