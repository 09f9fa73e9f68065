//! A store in memory, so that modules are tested natively, without Wasm and without a host.
//!
//! It runs the same SQL on the same SQLite as the host does. As on the host, the time that SQL sees is the entry's,
//! `random()` is computed from its entropy, and what replicas could not agree on is refused. Different from the host: the numbers that
//! `random()` and `randomblob()` give are others; what is refused is only what an author runs into (the host allows what it
//! knows and nothing else); there are no budgets, and keys of indexes may be of any length.

mod functions;

use std::sync::Arc;

use rusqlite::{
    Connection,
    types::{ToSqlOutput, ValueRef},
};

use self::functions::Rules;
use crate::{Context, Failure, Param, Rows, Store, StoreError, Value};

/// A SQLite database in memory.
pub struct MemoryStore {
    connection: Connection,
    rules: Arc<Rules>,
}

impl MemoryStore {
    /// An empty store.
    ///
    /// # Errors
    ///
    /// `Invalid` where SQLite cannot open a database in memory.
    pub fn open() -> Result<Self, StoreError> {
        let mut connection = Connection::open_in_memory().map_err(store_error)?;
        let rules = Rules::install(&mut connection).map_err(store_error)?;
        Ok(Self { connection, rules })
    }

    /// The entry that SQL's time and random numbers are taken from, from here on.
    pub fn begin(&self, context: &Context) {
        self.rules.begin(context);
    }

    /// Runs a call as the host runs an entry: what it wrote is undone where it fails.
    ///
    /// # Errors
    ///
    /// What the call says, and the savepoint's own errors.
    pub fn entry<T>(&self, call: impl FnOnce(&dyn Store) -> Result<T, Failure>) -> Result<T, Failure> {
        self.as_host("SAVEPOINT entry")?;
        let outcome = call(self);
        if outcome.is_err() {
            self.as_host("ROLLBACK TO entry")?;
        }
        self.as_host("RELEASE entry")?;
        outcome
    }

    /// Runs a call as the host runs a read: writing is an error.
    ///
    /// # Errors
    ///
    /// What the call says.
    pub fn read<T>(&self, call: impl FnOnce(&dyn Store) -> Result<T, Failure>) -> Result<T, Failure> {
        self.as_host("PRAGMA query_only = 1")?;
        let outcome = call(self);
        self.as_host("PRAGMA query_only = 0")?;
        outcome
    }

    /// How SQLite means to run a statement, one line a step: for tests that hold a query to its index.
    ///
    /// # Errors
    ///
    /// For a statement SQLite does not accept.
    pub fn plan(&self, sql: &str) -> Result<Vec<String>, StoreError> {
        let mut statement = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).map_err(store_error)?;
        let steps = statement.raw_query().mapped(|row| row.get("detail")).collect::<Result<_, _>>();
        steps.map_err(store_error)
    }

    fn as_host(&self, sql: &str) -> Result<(), StoreError> {
        self.rules.as_host(|| self.connection.execute_batch(sql)).map_err(store_error)
    }
}

impl Store for MemoryStore {
    fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(store_error)?;
        let changed = statement.execute(rusqlite::params_from_iter(params.iter().map(Bound))).map_err(store_error)?;
        Ok(changed as u64)
    }

    fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Rows, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(store_error)?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query(rusqlite::params_from_iter(params.iter().map(Bound))).map_err(store_error)?;
        let mut values = Vec::new();
        while let Some(row) = rows.next().map_err(store_error)? {
            for column in 0..columns.len() {
                values.push(match row.get_ref(column).map_err(store_error)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(number) => Value::Integer(number),
                    ValueRef::Real(number) => Value::Real(number),
                    ValueRef::Text(text) => Value::Text(
                        String::from_utf8(text.to_vec()).map_err(|error| StoreError::Invalid(error.to_string()))?,
                    ),
                    ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
                });
            }
        }
        Ok(Rows { columns, values })
    }
}

struct Bound<'a>(&'a Param<'a>);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Param::Null => ValueRef::Null,
            Param::Integer(number) => ValueRef::Integer(*number),
            Param::Real(number) => ValueRef::Real(*number),
            Param::Text(text) => ValueRef::Text(text.as_bytes()),
            Param::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn store_error(error: rusqlite::Error) -> StoreError {
    let message = error.to_string();
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => StoreError::Constraint(message),
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::AuthorizationForStatementDenied) => {
            StoreError::Denied(message)
        }
        Some(rusqlite::ErrorCode::TooBig) => StoreError::TooLarge(message),
        // A refused function has no code of its own.
        _ if message.starts_with("not authorized") => StoreError::Denied(message),
        _ => StoreError::Invalid(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Context = Context { index: 2, time_us: 1_700_000_000_123_456, entropy: (1, 2) };

    fn text(store: &MemoryStore, sql: &str) -> String {
        let store: &dyn Store = store;
        store.first::<(String,)>(sql, &[]).unwrap().unwrap().0
    }

    #[test]
    fn the_time_that_sql_sees_is_the_entry_s() {
        let store = MemoryStore::open().unwrap();
        store.begin(&CONTEXT);
        for (sql, expected) in [
            ("SELECT datetime('now')", "2023-11-14 22:13:20"),
            ("SELECT datetime()", "2023-11-14 22:13:20"),
            ("SELECT CURRENT_TIMESTAMP", "2023-11-14 22:13:20"),
            ("SELECT CURRENT_DATE", "2023-11-14"),
            ("SELECT CURRENT_TIME", "22:13:20"),
            ("SELECT strftime('%Y-%m-%d %H:%M:%f', 'NOW')", "2023-11-14 22:13:20.123"),
            ("SELECT date('now', '+1 day')", "2023-11-15"),
            ("SELECT timediff('now', '2023-11-14 22:13:20')", "+0000-00-00 00:00:00.123"),
            ("SELECT unixepoch('now') || ''", "1700000000"),
            ("SELECT datetime('2001-02-03')", "2001-02-03 00:00:00"),
        ] {
            assert_eq!(text(&store, sql), expected, "{sql}");
        }
        store.begin(&Context { time_us: 0, ..CONTEXT });
        assert_eq!(text(&store, "SELECT datetime('now')"), "1970-01-01 00:00:00");
        let zone = store.query("SELECT datetime('now', 'localtime')", &[]).unwrap_err();
        assert!(format!("{zone:?}").contains("time zone"), "{zone:?}");
    }

    #[test]
    fn random_numbers_in_sql_are_the_entry_s() {
        let store = MemoryStore::open().unwrap();
        let draw = |context: &Context| {
            store.begin(context);
            text(&store, "SELECT random() || hex(randomblob(9)) || random()")
        };
        assert_eq!(draw(&CONTEXT), draw(&CONTEXT));
        assert_ne!(draw(&CONTEXT), draw(&Context { entropy: (1, 3), ..CONTEXT }));
        let twice = text(&store, "SELECT CASE WHEN random() = random() THEN 'equal' ELSE 'different' END");
        assert_eq!(twice, "different");
    }

    #[test]
    fn what_replicas_could_not_agree_on_is_denied() {
        let store = MemoryStore::open().unwrap();
        for sql in [
            "BEGIN",
            "SAVEPOINT entry",
            "PRAGMA user_version",
            "ATTACH ':memory:' AS other",
            "CREATE TEMP TABLE t (a)",
            "SELECT last_insert_rowid()",
            "SELECT Changes()",
        ] {
            assert!(matches!(store.query(sql, &[]), Err(StoreError::Denied(_))), "{sql}");
        }
        let outcome = store.read(|store| Ok(store.execute("CREATE TABLE t (a)", &[])?));
        assert!(outcome.unwrap_err().message.contains("does not allow"));
        store.execute("CREATE TABLE t (a)", &[]).unwrap();
        store.execute("ALTER TABLE t ADD COLUMN b", &[]).unwrap();
        store.execute("CREATE TABLE s (a INTEGER) STRICT", &[]).unwrap();
        store.execute("ALTER TABLE s ADD COLUMN b INTEGER", &[]).unwrap();
    }
}
