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

/// One step for so many bytes of a key, which is compared with some ten others on its way. Decides results.
const KEY_BYTES_PER_STEP: u64 = 256;

/// The keys of shorter rows cost nothing, where they can be told.
const KEYS_FREE_BYTES: usize = 1 << 10;

/// What the keys of a schema are made of.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    tables: BTreeMap<String, Table>,
    any_untold: bool,
}

#[derive(Debug, Default)]
struct Table {
    /// WITHOUT ROWID: the whole row is a key.
    is_index: bool,
    /// Names of indexes whose keys cannot be told from the row.
    untold: Vec<String>,
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
                    if table.untold.last() != Some(&index) {
                        table.untold.push(index);
                    }
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
        let any_untold = tables.values().any(|table| !table.untold.is_empty());
        Ok(Keys { tables, any_untold })
    }

    /// Whether a row with so many bytes can cost anything.
    pub(crate) fn may_cost(&self, bytes: usize) -> bool {
        self.any_untold || bytes > KEYS_FREE_BYTES
    }

    /// What it costs in steps to find a row's place in its indexes, beyond what short keys do.
    pub(crate) fn cost<'v>(
        &self,
        table: &str,
        columns: i32,
        value: impl Fn(i32) -> rusqlite::Result<ValueRef<'v>>,
    ) -> u64 {
        let Some(known) = self.tables.get(table) else { return 0 };
        let of = |columns: &[usize]| {
            columns.iter().filter_map(|column| i32::try_from(*column).ok()).map(|i| bytes(value(i))).sum::<usize>()
        };
        // Those that cannot be told are as long as they may be.
        let untold = known.untold.len() * usize::try_from(REACH_MIN).unwrap_or_default();
        let told: usize = known.indexes.iter().map(|(_, columns)| of(columns)).sum();
        let row: usize = if known.is_index { (0..columns).map(|i| bytes(value(i))).sum() } else { 0 };
        (untold + told + row) as u64 / KEY_BYTES_PER_STEP
    }

    /// Why a row of so many columns cannot be written, if it cannot.
    pub(crate) fn refuse<'v>(
        &self,
        table: &str,
        columns: i32,
        value: impl Fn(i32) -> rusqlite::Result<ValueRef<'v>>,
    ) -> Option<String> {
        let known = self.tables.get(table)?;
        if let Some(index) = known.untold.first() {
            return Some(format!(
                "the table {table} has an index on an expression or a virtual column ({index}): it takes no statement with \
                 values over {REACH_MIN} bytes, or while the schema has such a definition. Keep what is to be found in a \
                 column of its own, or a STORED one"
            ));
        }
        if known.is_index {
            let row: usize = (0..columns).map(|i| bytes(value(i))).sum();
            return (!fits(row)).then(|| {
                format!(
                    "a row of {table} would have {row} bytes: in a table WITHOUT ROWID the row is a key, and a key has at most \
                     {REACH_MIN}"
                )
            });
        }
        known.indexes.iter().find_map(|(index, of)| {
            let key: usize = of.iter().filter_map(|column| i32::try_from(*column).ok()).map(|i| bytes(value(i))).sum();
            (!fits(key)).then(|| {
                format!("a key of the index {index} of {table} would have {key} bytes: a key has at most {REACH_MIN}")
            })
        })
    }
}

fn bytes(value: rusqlite::Result<ValueRef<'_>>) -> usize {
    match value {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => bytes.len(),
        _ => 8,
    }
}

fn fits(bytes: usize) -> bool {
    usize::try_from(REACH_MIN).is_ok_and(|max| bytes <= max)
}
