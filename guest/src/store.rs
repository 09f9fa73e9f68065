//! The store as a module sees it: parameters from plain values, rows into tuples, `?` on every error.

use bytes::Bytes;
use uuid::Uuid;

pub use crate::bindings::telegraft::machine::store::Rows;
use crate::{Failure, Param, StoreError, Value};

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
    /// All rows of a query, each as a tuple of its columns.
    ///
    /// # Errors
    ///
    /// The store's, and INTERNAL where a column is not of the type asked for.
    pub fn all<R: FromRow>(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<R>, Failure> {
        let rows = self.query(sql, params)?;
        let width = rows.columns.len();
        let mut values = rows.values.into_iter();
        let mut read = Vec::with_capacity(values.len().checked_div(width).unwrap_or(0));
        while values.len() > 0 {
            if width != R::WIDTH {
                return Err(Failure::internal(format!("a row has {width} columns, {} are read: {sql}", R::WIDTH)));
            }
            read.push(R::from_row(&mut values)?);
        }
        Ok(read)
    }

    /// The first row of a query, if there is one.
    ///
    /// # Errors
    ///
    /// As [`all`](Self::all).
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

impl<'a> From<&'a str> for Param<'a> {
    fn from(text: &'a str) -> Self {
        Param::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Param<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Param::Blob(bytes)
    }
}

impl<'a> From<&'a Uuid> for Param<'a> {
    fn from(id: &'a Uuid) -> Self {
        Param::Blob(id.as_bytes())
    }
}

impl From<i64> for Param<'_> {
    fn from(number: i64) -> Self {
        Param::Integer(number)
    }
}

/// SQLite's integers are signed: what is beyond them counts as the greatest one. Times and indexes never get there.
impl From<u64> for Param<'_> {
    fn from(number: u64) -> Self {
        Param::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Param<'_> {
    fn from(number: usize) -> Self {
        Param::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// What a column can be read as.
pub trait FromValue: Sized {
    /// What it is, for messages.
    const WHAT: &'static str;

    /// `None` where the value is something else.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! from_value {
    ($type:ty, $what:literal, $pattern:pat => $read:expr) => {
        impl FromValue for $type {
            const WHAT: &'static str = $what;

            fn from_value(value: Value) -> Option<Self> {
                match value {
                    $pattern => $read,
                    _ => None,
                }
            }
        }
    };
}

from_value!(i64, "an integer", Value::Integer(number) => Some(number));
from_value!(u64, "an integer of 0 or more", Value::Integer(number) => u64::try_from(number).ok());
from_value!(String, "text", Value::Text(text) => Some(text));
from_value!(Vec<u8>, "a blob", Value::Blob(bytes) => Some(bytes));
from_value!(Bytes, "a blob", Value::Blob(bytes) => Some(Bytes::from(bytes)));
from_value!(Uuid, "a blob of 16 bytes", Value::Blob(bytes) => Uuid::from_slice(&bytes).ok());

impl<T: FromValue> FromValue for Option<T> {
    const WHAT: &'static str = T::WHAT;

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// A tuple that a row can be read as.
pub trait FromRow: Sized {
    /// Number of columns.
    const WIDTH: usize;

    /// Takes [`FromRow::WIDTH`] values.
    ///
    /// # Errors
    ///
    /// INTERNAL where one is missing or of another type.
    fn from_row(values: &mut dyn Iterator<Item = Value>) -> Result<Self, Failure>;
}

fn column<T: FromValue>(number: usize, values: &mut dyn Iterator<Item = Value>) -> Result<T, Failure> {
    values
        .next()
        .and_then(T::from_value)
        .ok_or_else(|| Failure::internal(format!("column {number} of a row is not {}", T::WHAT)))
}

macro_rules! from_row {
    ($width:literal: $($type:ident $number:literal),+) => {
        impl<$($type: FromValue),+> FromRow for ($($type,)+) {
            const WIDTH: usize = $width;

            fn from_row(values: &mut dyn Iterator<Item = Value>) -> Result<Self, Failure> {
                Ok(($(column::<$type>($number, values)?,)+))
            }
        }
    };
}

from_row!(1: A 1);
from_row!(2: A 1, B 2);
from_row!(3: A 1, B 2, C 3);
from_row!(4: A 1, B 2, C 3, D 4);
from_row!(5: A 1, B 2, C 3, D 4, E 5);
from_row!(6: A 1, B 2, C 3, D 4, E 5, F 6);
from_row!(7: A 1, B 2, C 3, D 4, E 5, F 6, G 7);
from_row!(8: A 1, B 2, C 3, D 4, E 5, F 6, G 7, H 8);
