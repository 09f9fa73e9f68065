//! Where the rows of a guest's statement go, and what they may come to.

use rusqlite::{Row, Statement, types::ValueRef};

use crate::{
    errors::{SqlEnd, fault, over},
    guest::bindings::telegraft::machine::store,
    limits::Limits,
};

/// What is added to the size of a value's bytes when a result is measured.
const VALUE_OVERHEAD_BYTES: u64 = 16;

/// Where the rows of a statement go.
pub(crate) trait Sink {
    /// The statement begins, or begins again: what came before it is dropped.
    fn begin(&mut self, statement: &Statement<'_>);
    fn row(&mut self, row: &Row<'_>) -> Result<(), SqlEnd>;
}

/// Nowhere.
pub(crate) struct SteppedOver;

impl Sink for SteppedOver {
    fn begin(&mut self, _statement: &Statement<'_>) {}

    fn row(&mut self, _row: &Row<'_>) -> Result<(), SqlEnd> {
        Ok(())
    }
}

/// Into one result, within its budgets.
pub(crate) struct Collected {
    limits: Limits,
    pub rows: store::Rows,
    count: u64,
    bytes: u64,
}

impl Collected {
    pub(crate) fn new(limits: Limits) -> Collected {
        let rows = store::Rows { columns: Vec::new(), values: Vec::new() };
        Collected { limits, rows, count: 0, bytes: 0 }
    }
}

impl Sink for Collected {
    fn begin(&mut self, statement: &Statement<'_>) {
        (self.count, self.bytes) = (0, 0);
        self.rows.values.clear();
        self.rows.columns = statement.column_names().map(str::to_owned).collect();
    }

    fn row(&mut self, row: &Row<'_>) -> Result<(), SqlEnd> {
        let limits = &self.limits;
        self.count += 1;
        if self.count > limits.rows {
            return Err(over(format!("a query's result has more than {} rows (rows)", limits.rows)));
        }
        for (i, column) in self.rows.columns.iter().enumerate() {
            let value = match row.get_ref(i) {
                Ok(ValueRef::Null) => store::Value::Null,
                Ok(ValueRef::Integer(i)) => store::Value::Integer(i),
                Ok(ValueRef::Real(r)) => store::Value::Real(r),
                Ok(ValueRef::Text(t)) => {
                    self.bytes += t.len() as u64;
                    match std::str::from_utf8(t) {
                        Ok(t) => store::Value::Text(t.to_owned()),
                        Err(_) => {
                            let why = format!("the text in column {column} is not UTF-8");
                            return Err(SqlEnd::Guest(store::Error::Invalid(why)));
                        }
                    }
                }
                Ok(ValueRef::Blob(b)) => {
                    self.bytes += b.len() as u64;
                    store::Value::Blob(b.to_vec())
                }
                Err(e) => return Err(SqlEnd::Ended(fault("cannot read a row", &e).into())),
            };
            self.bytes += VALUE_OVERHEAD_BYTES;
            if self.bytes > limits.result_bytes {
                return Err(over(format!("a query's result is over {} bytes (result_bytes)", limits.result_bytes)));
            }
            self.rows.values.push(value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_statement_that_begins_again_leaves_nothing_of_its_first_run() {
        let conn = Connection::open_in_memory().unwrap();
        let mut statement = conn.prepare("SELECT 1 AS a, 'two' AS b").unwrap();
        let mut collected = Collected::new(Limits { rows: 1, ..Limits::DEFAULT });
        for _ in 0..2 {
            collected.begin(&statement);
            let mut rows = statement.raw_query();
            let row = rows.next().unwrap().unwrap();
            assert!(collected.row(row).is_ok());
        }
        assert_eq!(collected.rows.columns, ["a", "b"]);
        assert_eq!(collected.rows.values.len(), 2);
    }
}
