//! Tries: virtual tables, whose insides are the host's own. Outcome: each is refused, or there is no such thing.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct VirtualTables;

guest_hostile::module!(crate::VirtualTables);

const STATEMENTS: &[&str] = &[
    "CREATE VIRTUAL TABLE mine USING fts5(x)",
    "CREATE VIRTUAL TABLE mine USING fts3(x)",
    "CREATE VIRTUAL TABLE mine USING fts4(x)",
    "CREATE VIRTUAL TABLE mine USING rtree(id, low, high)",
    "CREATE VIRTUAL TABLE mine USING dbstat",
    "CREATE VIRTUAL TABLE mine USING csv(filename = 'x')",
    "CREATE VIRTUAL TABLE mine USING pragma_table_info",
    "CREATE VIRTUAL TABLE temp.mine USING fts5(x)",
    "CREATE VIRTUAL TABLE mine USING json_each",
    "SELECT * FROM dbstat",
    "SELECT * FROM bytecode('SELECT 1')",
    "SELECT * FROM tables_used('SELECT 1')",
    "SELECT * FROM generate_series(1, 2)",
    "SELECT fts3_tokenizer('simple')",
    "SELECT rtreecheck('kept')",
    "SELECT matchinfo(kept) FROM kept",
    "SELECT 'a' MATCH 'a'",
];

impl Attack for VirtualTables {
    const NAME: &'static str = "virtual_tables";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
