//! Tries: to change how the host's connection works, as a statement and as a table. Outcome: each is refused.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct Pragmas;

guest_hostile::module!(crate::Pragmas);

const STATEMENTS: &[&str] = &[
    "PRAGMA writable_schema = 1",
    "PRAGMA foreign_keys = 0",
    "PRAGMA defer_foreign_keys = 1",
    "PRAGMA recursive_triggers = 1",
    "PRAGMA user_version = 9",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA synchronous = OFF",
    "PRAGMA max_page_count = 1",
    "PRAGMA case_sensitive_like = 1",
    "PRAGMA reverse_unordered_selects = 1",
    "PRAGMA query_only = 0",
    "PRAGMA trusted_schema = 1",
    "PRAGMA temp_store_directory = 'x'",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA integrity_check",
    "PRAGMA table_info(kept)",
    "PRAGMA main.cache_size = 1",
    "PRAGMA optimize",
    "PRAGMA hard_heap_limit = 1",
    "SELECT * FROM pragma_table_info('kept')",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_function_list",
    "SELECT * FROM pragma_compile_options",
    "SELECT * FROM main.pragma_table_list",
    r#"SELECT * FROM "pragma_user_version""#,
];

impl Attack for Pragmas {
    const NAME: &'static str = "pragmas";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
