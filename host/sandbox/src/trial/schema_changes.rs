//! The guest's schema as SQLite keeps it, and what became of it.

use std::collections::BTreeMap;

use rusqlite::Connection;
use telegraft_node::ports::MachineFault;

use crate::errors::fault;

/// What became of a part of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It is gone.
    Dropped,
    /// Its definition is another.
    Changed,
}

/// A table, index, view or trigger whose definition is another than before. One that is renamed goes and comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaChange {
    /// What became of it.
    pub change: Change,
    /// "table", "index", "view" or "trigger".
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The SQL that defined it; empty where there was none.
    pub before: String,
    /// The SQL that defines it; empty where there is none.
    pub after: String,
}

/// The definitions of all that is the guest's, by kind and name. What SQLite makes by itself for a table's constraints
/// stands in the table's own definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Schema(BTreeMap<(String, String), String>);

impl Schema {
    pub(super) fn read(conn: &Connection) -> Result<Schema, MachineFault> {
        let read = || -> rusqlite::Result<_> {
            let mut statement = conn.prepare(
                "SELECT type, name, coalesce(sql, '') FROM sqlite_schema WHERE substr(name, 1, 11) <> '_telegraft_' \
                 AND substr(tbl_name, 1, 11) <> '_telegraft_' AND substr(name, 1, 7) <> 'sqlite_'",
            )?;
            let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
            rows.collect()
        };
        read().map(Schema).map_err(|e| fault("cannot read the schema", &e))
    }

    /// What is different in `after`: tables first, then the rest, each by name.
    pub(super) fn changes(&self, after: &Schema) -> Vec<SchemaChange> {
        let change = |(kind, name): &(String, String), change, before: &str, after: &str| SchemaChange {
            change,
            kind: kind.clone(),
            name: name.clone(),
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let mut changes: Vec<SchemaChange> = Vec::new();
        for (key, old) in &self.0 {
            match after.0.get(key) {
                Some(new) if new == old => {}
                Some(new) => changes.push(change(key, Change::Changed, old, new)),
                None => changes.push(change(key, Change::Dropped, old, "")),
            }
        }
        let created = after.0.iter().filter(|(key, _)| !self.0.contains_key(*key));
        changes.extend(created.map(|(key, new)| change(key, Change::Created, "", new)));
        changes.sort_by(|a, b| (a.kind != "table", &a.kind, &a.name).cmp(&(b.kind != "table", &b.kind, &b.name)));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(first: &str, second: &str) -> Vec<(Change, String, String)> {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!("CREATE TABLE _telegraft_meta(x UNIQUE); {first}")).unwrap();
        let before = Schema::read(&conn).unwrap();
        conn.execute_batch(&format!("CREATE INDEX _telegraft_i ON _telegraft_meta(x); {second}")).unwrap();
        let found = before.changes(&Schema::read(&conn).unwrap());
        found.into_iter().map(|c| (c.change, c.kind, c.name)).collect()
    }

    #[test]
    fn what_is_created_changed_and_dropped_is_told_tables_first() {
        let found = changes(
            "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b UNIQUE); CREATE VIEW gone AS SELECT 1; CREATE TABLE same(x);",
            "ALTER TABLE t ADD COLUMN c; DROP VIEW gone; CREATE INDEX i ON t(c); CREATE TABLE zoo(x);",
        );
        let expected = [
            (Change::Changed, "table", "t"),
            (Change::Created, "table", "zoo"),
            (Change::Created, "index", "i"),
            (Change::Dropped, "view", "gone"),
        ];
        assert_eq!(found, expected.map(|(c, kind, name)| (c, kind.to_owned(), name.to_owned())));
    }

    #[test]
    fn the_hosts_own_tables_and_what_sqlite_makes_by_itself_are_no_change() {
        assert_eq!(changes("", ""), []);
        assert_eq!(changes("", "CREATE TABLE t(a UNIQUE)").len(), 1);
    }
}
