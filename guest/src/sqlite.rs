//! A store in memory, so that modules are tested natively, without Wasm and without a host.
//!
//! It runs the same SQL on the same SQLite as the host does; what the host adds (budgets, refused statements, functions
//! that answer from the entry) is not here.

use rusqlite::{
    Connection,
    types::{ToSqlOutput, ValueRef},
};

use crate::{Failure, Param, Rows, Store, StoreError, Value};

/// A SQLite database in memory.
pub struct MemoryStore {
    connection: Connection,
}

impl MemoryStore {
    /// An empty store.
    ///
    /// # Errors
    ///
    /// `Invalid` where SQLite cannot open a database in memory.
    pub fn open() -> Result<Self, StoreError> {
        Ok(Self { connection: Connection::open_in_memory().map_err(store_error)? })
    }

    /// Runs a call as the host runs an entry: what it wrote is undone where it fails.
    ///
    /// # Errors
    ///
    /// What the call says, and the savepoint's own errors.
    pub fn entry<T>(&self, call: impl FnOnce(&dyn Store) -> Result<T, Failure>) -> Result<T, Failure> {
        self.execute("SAVEPOINT entry", &[])?;
        let outcome = call(self);
        if outcome.is_err() {
            self.execute("ROLLBACK TO entry", &[])?;
        }
        self.execute("RELEASE entry", &[])?;
        outcome
    }

    /// Runs a call as the host runs a read: writing is an error.
    ///
    /// # Errors
    ///
    /// What the call says.
    pub fn read<T>(&self, call: impl FnOnce(&dyn Store) -> Result<T, Failure>) -> Result<T, Failure> {
        self.execute("PRAGMA query_only = 1", &[])?;
        let outcome = call(self);
        self.execute("PRAGMA query_only = 0", &[])?;
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
        _ => StoreError::Invalid(message),
    }
}
