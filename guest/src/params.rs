//! A statement's parameters from plain values: [`params!`](crate::params) and what it takes.

use bytes::Bytes;
use uuid::Uuid;

use crate::{Failure, Param, StoreError};

/// Parameters of one statement, in order, as [`params!`](crate::params) makes them; or why they cannot be passed.
pub type Params<'p, const N: usize> = Result<[Param<'p>; N], OutOfRange>;

/// The parameters of a statement, `?1` first: `params![id, &request.name, None::<i64>]`. Each is borrowed, not copied; what
/// can stand there is [`ToParam`].
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        $crate::collect_params([$($crate::ToParam::to_param(&$value)),*])
    };
}

/// What [`params!`](crate::params) expands to.
#[doc(hidden)]
#[inline]
pub fn collect_params<'p, const N: usize>(values: [Result<Param<'p>, OutOfRange>; N]) -> Params<'p, N> {
    let mut params = [const { Param::Null }; N];
    for (param, value) in params.iter_mut().zip(values) {
        *param = value?;
    }
    Ok(params)
}

/// A number that SQLite's signed integers of 64 bits cannot hold. `?` makes RESOURCE_EXHAUSTED of it, as of everything that
/// is too large for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange(u64);

impl From<OutOfRange> for StoreError {
    #[cold]
    fn from(OutOfRange(number): OutOfRange) -> Self {
        StoreError::TooLarge(format!("the number {number} is beyond SQLite's integers, which end at {}", i64::MAX))
    }
}

impl From<OutOfRange> for Failure {
    #[cold]
    fn from(error: OutOfRange) -> Self {
        StoreError::from(error).into()
    }
}

/// What can be a parameter.
pub trait ToParam {
    /// The parameter.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`], for an unsigned number that is too large.
    fn to_param(&self) -> Result<Param<'_>, OutOfRange>;
}

macro_rules! to_param {
    ($($type:ty: $value:ident => $param:expr;)+) => {$(
        impl ToParam for $type {
            #[inline]
            fn to_param(&self) -> Result<Param<'_>, OutOfRange> {
                let $value = self;
                Ok($param)
            }
        }
    )+};
}

to_param! {
    bool: value => Param::Integer(i64::from(*value));
    i32: value => Param::Integer(i64::from(*value));
    u32: value => Param::Integer(i64::from(*value));
    i64: value => Param::Integer(*value);
    u64: value => Param::Integer(i64::try_from(*value).map_err(|_| OutOfRange(*value))?);
    usize: value => Param::Integer(i64::try_from(*value).map_err(|_| OutOfRange(*value as u64))?);
    f64: value => Param::Real(*value);
    str: value => Param::Text(value);
    String: value => Param::Text(value);
    [u8]: value => Param::Blob(value);
    Vec<u8>: value => Param::Blob(value);
    Bytes: value => Param::Blob(value);
    Uuid: value => Param::Blob(value.as_bytes());
}

impl<const N: usize> ToParam for [u8; N] {
    fn to_param(&self) -> Result<Param<'_>, OutOfRange> {
        Ok(Param::Blob(self))
    }
}

impl<T: ToParam + ?Sized> ToParam for &T {
    #[inline]
    fn to_param(&self) -> Result<Param<'_>, OutOfRange> {
        (**self).to_param()
    }
}

/// NULL for `None`.
impl<T: ToParam> ToParam for Option<T> {
    #[inline]
    fn to_param(&self) -> Result<Param<'_>, OutOfRange> {
        self.as_ref().map_or(Ok(Param::Null), ToParam::to_param)
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

/// SQLite's integers are signed: what is beyond them counts as the greatest one. Times and indexes never get there; where a
/// client's number could, [`params!`](crate::params) refuses it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureCode;

    #[test]
    fn plain_values_become_parameters_in_order() {
        let (name, id) = (String::from("ada"), Uuid::from_u128(7));
        let expected = [
            Param::Blob(id.as_bytes()),
            Param::Text("ada"),
            Param::Text("x"),
            Param::Integer(3),
            Param::Integer(-1),
            Param::Integer(1),
            Param::Null,
            Param::Text("ada"),
            Param::Blob(&[1, 2]),
            Param::Real(0.5),
        ];
        let show = |params: Params<'_, 10>| format!("{:?}", params.unwrap());
        assert_eq!(
            show(params![id, &name, "x", 3_u32, -1_i64, true, None::<i64>, Some(&name), [1_u8, 2], 0.5]),
            format!("{expected:?}")
        );
        assert!(params![].unwrap().is_empty());
    }

    #[test]
    fn a_number_that_sqlite_cannot_hold_is_refused_and_not_bent() {
        assert!(matches!(params![i64::MAX as u64], Ok([Param::Integer(i64::MAX)])));
        let failure = Failure::from(params![1_i64, i64::MAX as u64 + 1].unwrap_err());
        assert_eq!(failure.code, FailureCode::ResourceExhausted);
        assert!(failure.message.contains("9223372036854775808"), "{}", failure.message);
    }
}
