//! The store as a module sees it: the host's behind the WIT interface, or one in memory where a module is tested natively.

pub use crate::bindings::telegraft::machine::store::Rows;
use crate::{Failure, FromRow, Param, StoreError, rows};

/// SQLite: the host's behind the WIT interface, or one in memory where a module is tested natively.
pub trait Store {
    /// Runs one statement; the number of rows it changed, 0 for DDL.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; `?` makes it a [`Failure`].
    fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, StoreError>;

    /// Runs one statement that answers with rows.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; `?` makes it a [`Failure`].
    fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Rows, StoreError>;
}

impl dyn Store + '_ {
    /// All rows of a query, each as a tuple of its columns, or as a struct that [`row!`](crate::row) declares.
    ///
    /// # Errors
    ///
    /// The store's, and INTERNAL where a column is not of the type asked for.
    pub fn all<R: FromRow>(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<R>, Failure> {
        rows::read_all(self.query(sql, params)?, sql)
    }

    /// The first row of a query, if there is one.
    ///
    /// # Errors
    ///
    /// As `all`.
    pub fn first<R: FromRow>(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<R>, Failure> {
        Ok(self.all(sql, params)?.into_iter().next())
    }
}

/// The host's store.
#[cfg(target_family = "wasm")]
pub(crate) struct HostStore;

#[cfg(target_family = "wasm")]
impl Store for HostStore {
    fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, StoreError> {
        crate::bindings::telegraft::machine::store::execute(sql, params)
    }

    fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Rows, StoreError> {
        crate::bindings::telegraft::machine::store::query(sql, params)
    }
}
