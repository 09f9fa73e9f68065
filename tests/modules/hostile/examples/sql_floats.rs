//! Tries: numbers whose text or sum might hang on the processor or on the order of rows. Outcome: the same everywhere.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct SqlFloats;

guest_hostile::module!(crate::SqlFloats);

const STATEMENTS: &[&str] = &[
    "SELECT 0.1 + 0.2, 1e308 * 10, -1e308 * 10, 1e400 - 1e400, 5e-324 / 2, -0.0",
    "SELECT CAST(0.1 + 0.2 AS TEXT), printf('%.17g', 1.0 / 3), printf('%.30f', 2.0 / 3), printf('%g', 1e21)",
    "SELECT CAST('1e-400' AS REAL), CAST('0x10' AS INTEGER), CAST('9223372036854775808' AS INTEGER), 9223372036854775807 + 1",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) SELECT sum(1.0 / i), avg(i / 7.0), total(0.1) FROM n",
    "SELECT round(2.5), round(-0.5), round(1e15 + 0.3, 1)",
    "SELECT typeof(1e1000), CAST(1e1000 AS INTEGER), 1.5 % 1, -7 / 2, -7 % 3, 1 / 0",
    "SELECT json('[1e400, 0.1, 1.0]'), json_extract('[0.30000000000000004]', '$[0]')",
];

impl Attack for SqlFloats {
    const NAME: &'static str = "sql_floats";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
