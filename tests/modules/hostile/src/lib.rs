//! What the hostile modules share. Each file in `examples/` is a module that tries one thing that must not work, and opens
//! with what it tries and what must come of it; `tests/tests/hostile` runs them all on a cluster and holds them to that.
//!
//! Beside its attack each module serves two honest methods, so that a test can see that a host still serves: `Keep`
//! writes a row, `Kept` counts the rows. They share one table, so an attack that harms the data of others is seen.

#![deny(unsafe_code)]

use std::{fmt::Write as _, marker::PhantomData};

pub use telegraft_guest::{Context, Failure, FailureCode, Module, Param, Store, StoreError, Value};

/// The attack, as a command and as a query.
pub const ATTACK: &str = "hostile.v1.Hostile/Attack";
/// An honest command: keeps its payload; the reply is the number of rows that are kept.
pub const KEEP: &str = "hostile.v1.Hostile/Keep";
/// An honest query: the number of rows that are kept.
pub const KEPT: &str = "hostile.v1.Hostile/Kept";

/// Bytes of an answer that go into the module's table.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// One thing that must not work.
pub trait Attack {
    /// Name of the module: that of its file.
    const NAME: &'static str;

    /// Runs in the activation.
    ///
    /// # Errors
    ///
    /// Where the activation is to fail.
    fn prepare(_store: &dyn Store) -> Result<(), Failure> {
        Ok(())
    }

    /// The attack itself.
    ///
    /// # Errors
    ///
    /// What the module says it failed with.
    fn attack(store: &dyn Store, context: &Context, payload: &[u8]) -> Result<Vec<u8>, Failure>;
}

/// Makes a whole module of an [`Attack`].
pub struct Hostile<A>(PhantomData<A>);

impl<A: Attack> Module for Hostile<A> {
    const NAME: &'static str = A::NAME;
    const VERSION: &'static str = "1.0.0";
    const SCHEMA: u32 = 1;
    const SERVICE: &'static [u8] = &[];

    fn init(store: &dyn Store, _: &Context, _: Option<u32>) -> Result<(), Failure> {
        store.execute("CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY, value BLOB NOT NULL)", &[])?;
        // What an attack was told is data too, so replicas that were told different things differ in their digests.
        store.execute("CREATE TABLE IF NOT EXISTS answers (entry INTEGER PRIMARY KEY, answer BLOB NOT NULL)", &[])?;
        A::prepare(store)
    }

    fn apply(store: &dyn Store, context: &Context, method: &str, command: &[u8]) -> Result<Vec<u8>, Failure> {
        match method {
            KEEP => {
                store.execute("INSERT INTO kept (value) VALUES (?1)", &[Param::Blob(command)])?;
                kept(store)
            }
            ATTACK => {
                let answer = A::attack(store, context, command)?;
                let kept = answer.get(..ANSWER_BYTES_MAX).unwrap_or(&answer);
                store.execute("INSERT INTO answers VALUES (?1, ?2)", &[context.index.into(), Param::Blob(kept)])?;
                Ok(answer)
            }
            _ => Err(telegraft_guest::unknown_method(A::NAME, "commands", method)),
        }
    }

    fn query(store: &dyn Store, context: &Context, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure> {
        match method {
            KEPT => kept(store),
            ATTACK => A::attack(store, context, request),
            _ => Err(telegraft_guest::unknown_method(A::NAME, "queries", method)),
        }
    }
}

fn kept(store: &dyn Store) -> Result<Vec<u8>, Failure> {
    let (count,) = store.first::<(i64,)>("SELECT count(*) FROM kept", &[])?.unwrap_or_default();
    Ok(count.to_string().into_bytes())
}

/// Exports an [`Attack`] as the component's module; the path must begin with `crate::`.
#[macro_export]
macro_rules! module {
    ($attack:ty) => {
        telegraft_guest::export!($crate::Hostile<$attack>);
    };
}

/// Runs each statement, whatever the store says, and tells in one line what came of it: `done` and the values, or the
/// kind of the error and its message.
pub fn report<'a>(store: &dyn Store, statements: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut lines = String::new();
    for sql in statements {
        let shown: String = sql.chars().take(80).collect();
        let _ = writeln!(lines, "{} <= {shown}", tell(store, sql, &[]));
    }
    lines.into_bytes()
}

/// What the store says to one statement, in one line.
pub fn tell(store: &dyn Store, sql: &str, params: &[Param<'_>]) -> String {
    match store.query(sql, params) {
        Ok(rows) => {
            let mut line = String::from("done:");
            for value in rows.values {
                let _ = match value {
                    Value::Null => write!(line, " NULL"),
                    Value::Integer(number) => write!(line, " {number}"),
                    Value::Real(number) => write!(line, " {:016x}", number.to_bits()),
                    Value::Text(text) => write!(line, " {text:?}"),
                    Value::Blob(bytes) => write!(line, " {bytes:02x?}"),
                };
            }
            line
        }
        Err(StoreError::Constraint(why)) => format!("constraint: {why}"),
        Err(StoreError::Invalid(why)) => format!("invalid: {why}"),
        Err(StoreError::Denied(why)) => format!("denied: {why}"),
        Err(StoreError::TooLarge(why)) => format!("too large: {why}"),
    }
}

/// A table that counts as long as it is asked to, as the beginning of a statement: `n(i)` from 1 to `rows`.
#[must_use]
pub fn numbers(rows: u64) -> String {
    format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows})")
}
