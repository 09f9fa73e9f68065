//! Tries: to overflow SQLite's stack by expressions, subqueries and JSON that are nested too deep. Outcome: each is refused as
//! invalid.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct SqlDepth;

guest_hostile::module!(crate::SqlDepth);

impl Attack for SqlDepth {
    const NAME: &'static str = "sql_depth";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let nested = |open: &str, inner: &str, close: &str, depth: usize| {
            format!("SELECT {}{inner}{}", open.repeat(depth), close.repeat(depth))
        };
        let statements = [
            nested("(", "1", ")", 20_000),
            nested("- ", "1", "", 20_000),
            nested("1 + ", "1", "", 10_000),
            nested("NOT ", "1", "", 10_000),
            nested("(SELECT ", "1", ")", 4_000),
            nested("CASE WHEN 1 THEN ", "1", " END", 2_000),
            nested("abs(", "1", ")", 4_000),
            "SELECT json(replace(hex(zeroblob(100000)), '00', '['))".to_owned(),
            "SELECT json(replace(hex(zeroblob(100000)), '00', '{\"a\":'))".to_owned(),
        ];
        Ok(report(store, statements.iter().map(String::as_str)))
    }
}
