//! What SQL a guest may use, and what it may not.

use telegraft_node::ports::Code;
use telegraft_proto::internal::Limits;

use crate::probe::{PROBE, Rig, call, code, message, number, set};

/// All of these are denied, by whichever layer, and change nothing.
const FORBIDDEN: &[&str] = &[
    "SELECT datetime('now', 'localtime')",
    "SELECT date('2020-01-01', 'UTC')",
    "SELECT strftime('%H', 'now', x'6c6f63616c74696d65')",
    "SELECT time('12:00', 'localtime' || char(0) || 'x')",
    "SELECT sqrt(2)",
    "SELECT floor(1.5)",
    "SELECT changes()",
    "SELECT total_changes()",
    "SELECT last_insert_rowid()",
    "SELECT load_extension('x')",
    "SELECT sqlite_version()",
    "SELECT sqlite_source_id()",
    "SELECT fts3_tokenizer('x')",
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT x",
    "RELEASE x",
    "RELEASE _telegraft_entry",
    "ROLLBACK TO _telegraft_entry",
    "ATTACH ':memory:' AS a",
    "DETACH main",
    "VACUUM",
    "VACUUM INTO '/tmp/x'",
    "PRAGMA user_version = 9",
    "PRAGMA table_info(t)",
    "SELECT * FROM pragma_table_info('t')",
    "SELECT * FROM dbstat",
    "ANALYZE",
    "EXPLAIN SELECT 1",
    "EXPLAIN QUERY PLAN SELECT 1",
    "CREATE TEMP TABLE z(x)",
    "CREATE TABLE temp.z(x)",
    "CREATE TEMP VIEW z AS SELECT 1",
    "CREATE TEMP TRIGGER z AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE z USING fts5(x)",
    "CREATE VIRTUAL TABLE z USING rtree(a, b, c)",
    "CREATE TABLE _telegraft_z(x)",
    "CREATE TABLE _TELEGRAFT_z(x)",
    "CREATE VIEW _telegraft_z AS SELECT 1",
    "CREATE INDEX _telegraft_z ON t(v)",
    "CREATE TRIGGER _telegraft_z AFTER INSERT ON t BEGIN SELECT 1; END",
    "ALTER TABLE t RENAME TO _telegraft_t",
    "ALTER TABLE _telegraft_meta RENAME TO mine",
    "SELECT * FROM _telegraft_meta",
    "SELECT count(*) FROM main._Telegraft_Sessions",
    "SELECT * FROM \"_telegraft_meta\"",
    "SELECT * FROM [_telegraft_meta]",
    "UPDATE _telegraft_meta SET applied = 0",
    "DELETE FROM _telegraft_sessions",
    "DROP TABLE _telegraft_meta",
    "CREATE INDEX z ON _telegraft_meta(applied)",
    "CREATE TRIGGER z AFTER UPDATE ON _telegraft_meta BEGIN SELECT 1; END",
    "CREATE VIEW z AS SELECT * FROM _telegraft_meta",
    "SELECT rootpage FROM sqlite_schema",
    "SELECT sql FROM sqlite_master",
    "UPDATE sqlite_master SET sql = ''",
    "SELECT * FROM sqlite_temp_master",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM bytecode('SELECT 1')",
];

#[test]
fn what_could_differ_between_replicas_or_belongs_to_the_host_is_denied() {
    let mut rig = Rig::probe();
    let before = rig.digest();
    for sql in FORBIDDEN {
        for method in ["exec", "q"] {
            let outcome = rig.one(call(method, sql));
            let denied = code(&outcome) == Some(Code::PermissionDenied);
            // SQLite itself refuses it, or knows no such table or function in this build: as good.
            let unknown = code(&outcome) == Some(Code::InvalidArgument)
                && (message(&outcome).contains("no such") || message(&outcome).contains("cannot VACUUM"));
            assert!(denied || unknown, "{method} {sql}: {outcome:?}");
        }
    }
    // Nothing changed but the time.
    let mut untouched = Rig::probe();
    for _ in 0..2 * FORBIDDEN.len() {
        untouched.one(call("ignore", "SELECT 1")).unwrap();
    }
    assert_ne!(before, rig.digest());
    assert_eq!(untouched.digest(), rig.digest());
}

#[test]
fn a_function_that_this_build_lacks_is_refused_as_one_that_it_has() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "CREATE VIEW root AS SELECT sqrt(2) AS r")).unwrap();
    for (sql, words) in [
        ("SELECT sqrt(2)", "the function sqrt() is not available to a module: it comes from the C library"),
        ("SELECT SQRT(2)", "compute it in the module"),
        ("SELECT r FROM root", "compute it in the module"),
        ("SELECT fts5(1)", "virtual tables are not available to a module"),
        ("SELECT changes()", "use the count that `execute` returns"),
    ] {
        let outcome = rig.one(call("q", sql));
        assert_eq!(code(&outcome), Some(Code::PermissionDenied), "{sql}: {outcome:?}");
        assert!(message(&outcome).contains(words), "{sql}: {outcome:?}");
    }
    // One that nobody has ever heard of is a slip of the author's.
    let outcome = rig.one(call("q", "SELECT squirt(2)"));
    assert!(
        code(&outcome) == Some(Code::InvalidArgument) && message(&outcome).contains("no such function"),
        "{outcome:?}"
    );
}

#[test]
fn functions_hidden_in_the_schema_are_refused_where_they_would_run() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "CREATE VIEW v1 AS SELECT changes() AS r")).unwrap();
    assert!(rig.one(call("q", "SELECT r FROM v1")).is_err());
    let trigger = "CREATE TRIGGER t1 AFTER INSERT ON t BEGIN UPDATE t SET v = total_changes() WHERE k = NEW.k; END";
    rig.one(call("exec", trigger)).unwrap();
    assert!(rig.one(call("exec", "INSERT INTO t VALUES (1, 'x')")).is_err());
    for sql in [
        "CREATE TABLE e(x INTEGER, y DEFAULT (last_insert_rowid()))",
        "CREATE TABLE f(x CHECK (x > pi()))",
        "CREATE TABLE g(x, y AS (changes()))",
        "CREATE INDEX h ON t(sqrt(k))",
    ] {
        assert!(rig.one(call("exec", sql)).is_err(), "{sql}");
    }
}

#[test]
fn ordinary_sql_works() {
    let mut rig = Rig::probe();
    for sql in [
        "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL COLLATE NOCASE, n REAL CHECK (n > 0))",
        "CREATE TABLE b(a INTEGER REFERENCES a(id) ON DELETE CASCADE, k BLOB, PRIMARY KEY (a, k)) WITHOUT ROWID",
        "CREATE UNIQUE INDEX a_name ON a(name) WHERE n > 1",
        "CREATE VIEW names AS SELECT name FROM a",
        "CREATE TRIGGER a_added AFTER INSERT ON a BEGIN INSERT INTO b VALUES (NEW.id, x'01'); END",
        "INSERT INTO a(name, n) VALUES ('x', 1.5), ('y', 2.5)",
        "INSERT INTO a(id, name, n) VALUES (1, 'z', 1) ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        "UPDATE a SET n = n * 2 WHERE name LIKE 'z%'",
        "ALTER TABLE a ADD COLUMN extra TEXT DEFAULT 'none'",
        "ALTER TABLE a RENAME COLUMN extra TO more",
        "ALTER TABLE a RENAME TO aa",
        "ALTER TABLE aa DROP COLUMN more",
        "REINDEX",
        "ALTER TABLE aa ADD COLUMN even INTEGER CHECK (even % 2 = 0)",
        "CREATE TABLE strict(x INTEGER) STRICT",
        "ALTER TABLE strict ADD COLUMN y TEXT NOT NULL DEFAULT 'y' CHECK (y <> '')",
        "DELETE FROM aa WHERE id = 2",
        "DROP VIEW names",
        "CREATE TABLE copied AS SELECT name FROM aa",
        "DROP TABLE copied",
        "DELETE FROM sqlite_sequence WHERE name = 'none'",
    ] {
        let outcome = rig.one(call("exec", sql));
        assert!(outcome.is_ok(), "{sql}: {outcome:?}");
    }
    assert_eq!(rig.number("SELECT count(*) FROM b"), 1);
    assert_eq!(rig.text("SELECT group_concat(upper(name), ',') FROM aa"), "Z");
    assert_eq!(rig.text("SELECT json_extract('{\"a\":[1,\"two\"]}', '$.a[1]')"), "two");
    assert_eq!(rig.number("SELECT count(*) FROM json_each('[1,2,3]')"), 3);
    assert_eq!(rig.number("SELECT row_number() OVER (ORDER BY id) FROM aa"), 1);
}

#[test]
fn execute_counts_only_its_own_rows() {
    let mut rig = Rig::probe();
    assert_eq!(number(&rig.one(call("exec", "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')"))), 3);
    // Neither DDL nor a read shows what the connection changed before.
    assert_eq!(number(&rig.one(call("exec", "CREATE TABLE other(x)"))), 0);
    assert_eq!(number(&rig.one(call("exec", "UPDATE t SET v = 'z' || v WHERE k < 3"))), 2);
    assert_eq!(number(&rig.one(call("exec", "SELECT * FROM t"))), 0);
    assert_eq!(number(&rig.one(call("exec", "DELETE FROM t WHERE k > 1 RETURNING k"))), 2);
    assert_eq!(number(&rig.one(call("exec", "REINDEX"))), 0);
    assert_eq!(number(&rig.one(call("exec", "DELETE FROM t WHERE k = 99"))), 0);
}

#[test]
fn the_largest_row_id_is_out_of_reach() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "CREATE TABLE seq(id INTEGER PRIMARY KEY AUTOINCREMENT)")).unwrap();
    for sql in [
        "INSERT INTO t VALUES (9223372036854775807, 'x')",
        "INSERT INTO seq VALUES (9223372036854775807)",
        "INSERT INTO t VALUES (1, 'one'), (9223372036854775807, 'x'), (NULL, 'random')",
    ] {
        let outcome = rig.one(call("ignore", sql));
        assert_eq!(code(&outcome), Some(Code::Aborted), "{sql}");
        assert!(message(&outcome).contains("9223372036854775807"));
    }
    for sql in [
        "UPDATE sqlite_sequence SET seq = 9223372036854775807",
        "INSERT INTO sqlite_sequence VALUES ('seq', 9223372036854775807)",
    ] {
        assert_eq!(code(&rig.one(call("exec", sql))), Some(Code::PermissionDenied), "{sql}");
    }
    assert_eq!(rig.number("SELECT count(*) FROM t"), 0);
    assert_eq!(number(&rig.one(call("exec", "INSERT INTO seq DEFAULT VALUES"))), 1);
}

#[test]
fn bad_statements_are_told_apart() {
    let mut rig = Rig::probe();
    for (sql, words) in [
        ("", "empty"),
        ("   -- nothing", "empty"),
        (";", "empty"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT ?1", "1 parameters, 0 were given"),
        ("SELEKT", "syntax error"),
        ("SELECT neither()", "no such function"),
        ("SELECT \"text\"", "no such column"),
        ("SELECT CAST(x'ff' AS TEXT)", "not UTF-8"),
    ] {
        let outcome = rig.one(call("q", sql));
        assert_eq!(code(&outcome), Some(Code::InvalidArgument), "{sql:?}: {outcome:?}");
        assert!(message(&outcome).contains(words), "{sql:?}: {outcome:?}");
    }
}

/// Budgets are replicated, so what a statement costs must not depend on what the connection did before: whether the
/// statement was compiled before, whether the schema changed since, whether it must be loaded again.
#[test]
fn a_statement_costs_the_same_on_a_warm_and_on_a_fresh_connection() {
    let module = PROBE.build();
    let sum = "SELECT sum(k) FROM t WHERE v > 'a'";
    let passes = |rig: &mut Rig, steps: u64| {
        rig.one(set(Limits { sql_steps: steps, ..Limits::default() })).unwrap();
        rig.one(call("q", sum)).is_ok()
    };
    let costs = |rig: &mut Rig, cost: u64| passes(rig, cost) && !passes(rig, cost - 1) && passes(rig, cost);
    let mut warm = Rig::empty();
    warm.install(&module, false);
    // A schema so large that loading it costs more than the statement.
    warm.batch((0..400).map(|i| call("exec", format!("CREATE TABLE many_{i}(x)"))));
    warm.batch((0..600).map(|k| call("exec", format!("INSERT INTO t VALUES ({k}, 'v{k}')"))));
    let (mut low, mut high) = (1, 100_000);
    while low < high {
        let middle = (low + high) / 2;
        if passes(&mut warm, middle) { high = middle } else { low = middle + 1 }
    }
    let cost = low;
    assert!((1000..4000).contains(&cost), "{cost}");
    assert!(costs(&mut warm, cost), "warm");
    // In one batch, so that no statement of the host loads the schema between them.
    let limits = |sql_steps: u64| set(Limits { sql_steps, ..Limits::default() });
    let outcomes = warm.batch([limits(100_000), call("ddl", sum), limits(cost + 180), call("q", sum)]);
    assert!(
        message(&outcomes[1]) == "own failure" && outcomes[3].is_ok(),
        "just after a schema change that was undone: {outcomes:?}"
    );
    assert!(costs(&mut warm, cost), "after a schema change that was undone");
    warm.one(call("exec", "CREATE TABLE x(y)")).unwrap();
    assert!(warm.one(call("q", sum)).is_ok(), "just after a schema change");
    assert!(costs(&mut warm, cost), "after a schema change");
    warm.one(call("exec", "INSERT OR ROLLBACK INTO t VALUES (1, '')")).unwrap_err();
    assert!(warm.one(call("q", sum)).is_ok(), "just after a lost transaction");
    assert!(costs(&mut warm.reopen(), cost), "fresh");
}
