//! Rows of a result as tuples and structs: what a column can be read as, and what a row.

use bytes::Bytes;
use uuid::Uuid;

use crate::{Failure, Rows, Value};

/// What a column can be read as. `Option` of it where the column can be NULL.
pub trait FromValue: Sized {
    /// What it is, for messages.
    const WHAT: &'static str;

    /// `None` where the value is something else.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty, $what:literal, $pattern:pat => $read:expr;)+) => {$(
        impl FromValue for $type {
            const WHAT: &'static str = $what;

            fn from_value(value: Value) -> Option<Self> {
                match value {
                    $pattern => $read,
                    _ => None,
                }
            }
        }
    )+};
}

from_value! {
    bool, "0 or 1", Value::Integer(number @ (0 | 1)) => Some(number == 1);
    i32, "an integer of 32 bits", Value::Integer(number) => i32::try_from(number).ok();
    u32, "an integer of 0 or more, of 32 bits", Value::Integer(number) => u32::try_from(number).ok();
    i64, "an integer", Value::Integer(number) => Some(number);
    u64, "an integer of 0 or more", Value::Integer(number) => u64::try_from(number).ok();
    f64, "a real number", Value::Real(number) => Some(number);
    String, "text", Value::Text(text) => Some(text);
    Vec<u8>, "a blob", Value::Blob(bytes) => Some(bytes);
    Bytes, "a blob", Value::Blob(bytes) => Some(Bytes::from(bytes));
    Uuid, "a blob of 16 bytes", Value::Blob(bytes) => Uuid::from_slice(&bytes).ok();
}

impl<T: FromValue> FromValue for Option<T> {
    const WHAT: &'static str = T::WHAT;

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// What a row can be read as: a tuple of its columns, or a struct that [`row!`](crate::row) declares.
pub trait FromRow: Sized {
    /// Number of columns.
    const WIDTH: usize;
    /// The columns' names where they matter; empty where only the order does.
    const NAMES: &'static [&'static str] = &[];

    /// Takes [`FromRow::WIDTH`] values.
    ///
    /// # Errors
    ///
    /// INTERNAL where one is missing or of another type.
    fn from_row(values: &mut dyn Iterator<Item = Value>) -> Result<Self, Failure>;
}

/// Takes one column's value, the `number`th of its row, counted from 1. For [`FromRow::from_row`].
///
/// # Errors
///
/// INTERNAL where it is missing or of another type.
pub fn column<T: FromValue>(number: usize, values: &mut dyn Iterator<Item = Value>) -> Result<T, Failure> {
    values.next().and_then(T::from_value).ok_or_else(|| wrong_type(number, T::WHAT))
}

/// Reads all rows of a result.
///
/// # Errors
///
/// INTERNAL, with the statement, where a row is not of the shape asked for: the module's own defect.
pub(crate) fn read_all<R: FromRow>(rows: Rows, sql: &str) -> Result<Vec<R>, Failure> {
    let width = rows.columns.len();
    // A statement that has no result has no columns either.
    if width > 0 {
        check_columns(&rows.columns, R::WIDTH, R::NAMES, sql)?;
    }
    let mut values = rows.values.into_iter();
    let mut read = Vec::with_capacity(values.len().checked_div(width).unwrap_or(0));
    while values.len() > 0 {
        read.push(R::from_row(&mut values)?);
    }
    Ok(read)
}

/// Apart from the generic code, which there is once for each type of row.
fn check_columns(columns: &[String], width: usize, names: &[&str], sql: &str) -> Result<(), Failure> {
    if columns.len() != width {
        return Err(Failure::internal(format!("a row has {} columns, {width} are read: {sql}", columns.len())));
    }
    let names = names.iter().map(|name| name.strip_prefix("r#").unwrap_or(name));
    match names.zip(columns).find(|(name, column)| name != column) {
        Some((name, column)) => Err(Failure::internal(format!(
            "the row's field {name} stands where the result has the column {column:?} (AS names a column): {sql}"
        ))),
        None => Ok(()),
    }
}

#[cold]
fn wrong_type(number: usize, what: &str) -> Failure {
    Failure::internal(format!("column {number} of a row is not {what}"))
}

macro_rules! from_row {
    ($($width:literal: $($type:ident $number:literal),+;)+) => {$(
        impl<$($type: FromValue),+> FromRow for ($($type,)+) {
            const WIDTH: usize = $width;

            fn from_row(values: &mut dyn Iterator<Item = Value>) -> Result<Self, Failure> {
                Ok(($(column::<$type>($number, values)?,)+))
            }
        }
    )+};
}

from_row! {
    1: A 1;
    2: A 1, B 2;
    3: A 1, B 2, C 3;
    4: A 1, B 2, C 3, D 4;
    5: A 1, B 2, C 3, D 4, E 5;
    6: A 1, B 2, C 3, D 4, E 5, F 6;
    7: A 1, B 2, C 3, D 4, E 5, F 6, G 7;
    8: A 1, B 2, C 3, D 4, E 5, F 6, G 7, H 8;
}

/// Declares a struct that a row can be read as. The result's columns must have the fields' names, in the fields' order; two
/// columns of one type that trade places are so an error and not a wrong answer.
///
/// ```
/// telegraft_guest::row! {
///     /// A user, as the list shows it.
///     #[derive(Debug, PartialEq)]
///     pub struct User {
///         pub id: i64,
///         pub name: String,
///         pub nickname: Option<String>,
///     }
/// }
/// # use telegraft_guest::{MemoryStore, Store};
/// let store = MemoryStore::open().unwrap();
/// let store: &dyn Store = &store;
/// let read = store.all::<User>("SELECT 1 AS id, 'ada' AS name, NULL AS nickname", &[]).unwrap();
/// assert_eq!(read, [User { id: 1, name: "ada".into(), nickname: None }]);
/// assert!(store.all::<User>("SELECT 1 AS id, NULL AS nickname, 'ada' AS name", &[]).is_err());
/// ```
#[macro_export]
macro_rules! row {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_visibility:vis $field:ident : $type:ty),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        $visibility struct $name {
            $($(#[$field_meta])* $field_visibility $field: $type),+
        }

        impl $crate::FromRow for $name {
            const WIDTH: usize = Self::NAMES.len();
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];

            fn from_row(
                values: &mut dyn ::core::iter::Iterator<Item = $crate::Value>,
            ) -> ::core::result::Result<Self, $crate::Failure> {
                let mut number = 0;
                ::core::result::Result::Ok(Self {
                    $($field: {
                        number += 1;
                        $crate::column::<$type>(number, values)?
                    }),+
                })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[&str], values: Vec<Value>) -> Rows {
        Rows { columns: columns.iter().map(|name| (*name).to_owned()).collect(), values }
    }

    row! {
        #[derive(Debug, PartialEq)]
        struct Named {
            r#type: u32,
            text: Option<String>,
        }
    }

    #[test]
    fn structs_are_read_by_name_and_place() {
        let values = || vec![Value::Integer(3), Value::Null, Value::Integer(4), Value::Text("x".into())];
        let read: Vec<Named> = read_all(rows(&["type", "text"], values()), "S").unwrap();
        assert_eq!(read, [Named { r#type: 3, text: None }, Named { r#type: 4, text: Some("x".into()) }]);
        let failure = read_all::<Named>(rows(&["type", "name"], values()), "S").unwrap_err();
        assert!(failure.message.contains("field text") && failure.message.contains("\"name\""), "{failure:?}");
        // Also where no row would have shown it.
        assert!(read_all::<Named>(rows(&["text", "type"], vec![]), "S").is_err());
    }

    #[test]
    fn a_row_of_another_shape_is_the_module_s_defect() {
        let failure = read_all::<(i64, i64)>(rows(&["a"], vec![Value::Integer(1)]), "SELECT a").unwrap_err();
        assert_eq!(failure.message, "a row has 1 columns, 2 are read: SELECT a");
        for value in [Value::Null, Value::Integer(-1), Value::Text("1".into()), Value::Real(1.0)] {
            let failure = read_all::<(String, u64)>(rows(&["a", "b"], vec![Value::Text("x".into()), value]), "S");
            assert_eq!(failure.unwrap_err().message, "column 2 of a row is not an integer of 0 or more");
        }
        assert!(read_all::<(bool,)>(rows(&["a"], vec![Value::Integer(2)]), "S").is_err());
        assert!(read_all::<(u32,)>(rows(&["a"], vec![Value::Integer(1 << 32)]), "S").is_err());
        assert_eq!(read_all::<(i64,)>(rows(&[], vec![]), "DELETE").unwrap(), []);
    }
}
