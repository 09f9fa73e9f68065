//! What a method is handed: [`Query`], which can only read, and [`Command`], which can write too.

use std::{cell::Cell, ops::Deref};

use uuid::Uuid;

use crate::{Context, Failure, FromRow, FromValue, Ids, OutOfRange, Param, Random, Store, StoreError};

/// One read: the tables, and the time of the newest entry. There is no way to write through it.
///
/// `params` is what [`params!`](crate::params) makes; one row of a result is a tuple or a struct ([`FromRow`]).
pub struct Query<'a> {
    store: &'a dyn Store,
    context: &'a Context,
}

impl<'a> Query<'a> {
    /// A read of `store`, as of the entry `context`.
    pub fn new(store: &'a dyn Store, context: &'a Context) -> Self {
        Self { store, context }
    }

    /// All rows of a query.
    ///
    /// # Errors
    ///
    /// The store's, and INTERNAL where the rows are not of the shape asked for: both are the module's own defects.
    pub fn query_as<'p, R: FromRow>(
        &self,
        sql: &str,
        params: Result<impl AsRef<[Param<'p>]>, OutOfRange>,
    ) -> Result<Vec<R>, Failure> {
        self.store.all(sql, params?.as_ref())
    }

    /// The first row of a query, `None` where there is none.
    ///
    /// # Errors
    ///
    /// As [`Query::query_as`].
    pub fn query_optional<'p, R: FromRow>(
        &self,
        sql: &str,
        params: Result<impl AsRef<[Param<'p>]>, OutOfRange>,
    ) -> Result<Option<R>, Failure> {
        self.store.first(sql, params?.as_ref())
    }

    /// The first row of a query that always has one, as those of `count(*)` and of `RETURNING` have.
    ///
    /// # Errors
    ///
    /// As [`Query::query_as`], and INTERNAL where there is no row.
    pub fn query_one<'p, R: FromRow>(
        &self,
        sql: &str,
        params: Result<impl AsRef<[Param<'p>]>, OutOfRange>,
    ) -> Result<R, Failure> {
        self.query_optional(sql, params)?.ok_or_else(|| Failure::internal(format!("not a single row: {sql}")))
    }

    /// The one column of the first row, `None` where there is no row. (A column that can be NULL is an `Option` itself.)
    ///
    /// # Errors
    ///
    /// As [`Query::query_as`].
    pub fn query_value<'p, T: FromValue>(
        &self,
        sql: &str,
        params: Result<impl AsRef<[Param<'p>]>, OutOfRange>,
    ) -> Result<Option<T>, Failure> {
        Ok(self.query_optional::<(T,)>(sql, params)?.map(|(value,)| value))
    }

    /// Microseconds since the Unix epoch: when the leader stamped the entry, in a query the newest one. Never smaller than in
    /// an earlier entry.
    pub fn now_us(&self) -> u64 {
        self.context.time_us
    }

    /// Index of the entry in the machine's log, in a query of the newest one.
    pub fn index(&self) -> u64 {
        self.context.index
    }
}

/// One command: everything a [`Query`] can, and writing, new ids, random numbers. What it writes is undone where the method
/// ends in a [`Failure`].
pub struct Command<'a> {
    query: Query<'a>,
    /// How many ids and random sequences the method has had.
    ids: Cell<Option<Ids>>,
    sequences: Cell<u64>,
}

impl<'a> Command<'a> {
    /// A command on `store`, in the entry `context`.
    pub fn new(store: &'a dyn Store, context: &'a Context) -> Self {
        Self { query: Query::new(store, context), ids: Cell::new(None), sequences: Cell::new(0) }
    }

    /// Runs one statement; the number of rows it changed, 0 for DDL.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; `?` makes it a [`Failure`]. A constraint that did not hold can be told from the rest; where that is a
    /// usual answer, `ON CONFLICT … DO NOTHING` and the number of rows are plainer.
    pub fn execute<'p>(
        &self,
        sql: &str,
        params: Result<impl AsRef<[Param<'p>]>, OutOfRange>,
    ) -> Result<u64, StoreError> {
        self.query.store.execute(sql, params?.as_ref())
    }

    /// A new id: a UUIDv7 (RFC 9562) of the entry's time, different from all others, the same on every replica.
    pub fn new_id(&self) -> Uuid {
        let mut ids = self.ids.take().unwrap_or_else(|| self.query.context.ids());
        let id = ids.draw();
        self.ids.set(Some(ids));
        id
    }

    /// Random numbers, the same on every replica; each call begins another sequence. They are fair, not secret.
    pub fn random(&self) -> Random {
        let stream = self.sequences.get();
        self.sequences.set(stream + 1);
        Random::new(self.query.context, stream)
    }
}

/// A command can read what a query can: functions that take `&Query` serve both.
impl<'a> Deref for Command<'a> {
    type Target = Query<'a>;

    fn deref(&self) -> &Query<'a> {
        &self.query
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FailureCode, MemoryStore, params};

    const CONTEXT: Context = Context { index: 9, time_us: 1_700_000_000_000_000, entropy: (1, 2) };

    #[test]
    fn rows_are_asked_for_in_four_ways() {
        let store = MemoryStore::open().unwrap();
        let command = Command::new(&store, &CONTEXT);
        command.execute("CREATE TABLE t (id BLOB, n INTEGER) STRICT", params![]).unwrap();
        let id = command.new_id();
        for n in [1_i64, 2, 3] {
            assert_eq!(command.execute("INSERT INTO t VALUES (?1, ?2)", params![id, n]).unwrap(), 1);
        }
        let query: &Query<'_> = &command;
        let all: Vec<(Uuid, i64)> =
            query.query_as("SELECT id, n FROM t WHERE n > ?1 ORDER BY n", params![1_i64]).unwrap();
        assert_eq!(all, [(id, 2), (id, 3)]);
        let none: Option<(i64,)> = query.query_optional("SELECT n FROM t WHERE n > ?1", params![3_i64]).unwrap();
        assert_eq!(none, None);
        assert_eq!(query.query_one::<(u64, i64)>("SELECT count(*), sum(n) FROM t", params![]).unwrap(), (3, 6));
        assert_eq!(query.query_value::<u64>("SELECT max(n) FROM t", params![]).unwrap(), Some(3));
        assert_eq!(query.query_value::<u64>("SELECT n FROM t WHERE n > 3", params![]).unwrap(), None);
        let failure = query.query_one::<(i64,)>("SELECT n FROM t WHERE n > 3", params![]).unwrap_err();
        assert_eq!(
            (failure.code, &*failure.message),
            (FailureCode::Internal, "not a single row: SELECT n FROM t WHERE n > 3")
        );
        let returned = query.query_value::<u64>("SELECT n FROM t WHERE n = ?1", params![u64::MAX]).unwrap_err();
        assert_eq!(returned.code, FailureCode::ResourceExhausted);
        let constraint = command.execute("INSERT INTO t VALUES (?1, 'x')", params![id]).unwrap_err();
        assert!(matches!(constraint, StoreError::Constraint(_)), "{constraint:?}");
    }

    #[test]
    fn ids_and_random_numbers_are_the_entry_s() {
        let store = MemoryStore::open().unwrap();
        let command = Command::new(&store, &CONTEXT);
        let mut ids = CONTEXT.ids();
        assert_eq!([command.new_id(), command.new_id()], [ids.draw(), ids.draw()]);
        assert_eq!((command.now_us(), command.index()), (1_700_000_000_000_000, 9));
        let again = Command::new(&store, &CONTEXT);
        let drawn = [command.random().draw(), command.random().draw()];
        assert_eq!(drawn, [again.random().draw(), again.random().draw()]);
        assert_ne!(drawn[0], drawn[1]);
    }
}
