//! What one statement may cost, and what no replica may differ in: work that a VM step does not tell of, compilation,
//! memory, names that SQLite makes up.

use std::time::{Duration, Instant};

use telegraft_node::ports::{Code, Outcome, Queries};
use telegraft_proto::internal::{Limits, command::Body};

use crate::probe::{Rig, call, code, message, set};

/// A recursive table of numbers.
const NUMBERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ";

fn used_up(outcome: &Outcome) -> bool {
    code(outcome) == Some(Code::ResourceExhausted) && message(outcome).contains("SQL budget")
}

#[test]
fn work_that_outgrows_its_arguments_ends_with_the_budget_and_soon() {
    let mut rig = Rig::probe();
    let (long, short) = ("hex(zeroblob(500000))", "hex(zeroblob(100000))");
    for sql in [
        // Each of these takes SQLite alone seconds to minutes.
        format!("SELECT trim({long}, replace({long}, '0', 'a') || '0')"),
        format!("SELECT '{}' || {long} LIKE '%{}1'", "a", "0".repeat(10_000)),
        format!("SELECT {long} GLOB '*{}1'", "0".repeat(10_000)),
        format!("SELECT {long} GLOB '*[{}1]'", "a".repeat(40_000)),
        format!("SELECT unhex(replace({short}, '0', '€'), replace({short}, '0', 'é') || '€')"),
        format!("SELECT json_patch('{{' || '\"a\":1,' || {long} || '}}', {long})"),
        format!("{NUMBERS}100000) SELECT sum(length(replace({short}, '0', i))) FROM n"),
        format!("{NUMBERS}100000) SELECT sum(length(randomblob(1000000))) FROM n"),
        format!("{NUMBERS}10000000) SELECT sum(length(datetime('now'))) FROM n"),
    ] {
        let begun = Instant::now();
        let outcome = rig.one(call("q", &sql));
        assert!(used_up(&outcome), "{}…: {:.200}", sql.get(..60).unwrap_or(&sql), format!("{outcome:?}"));
        assert!(begun.elapsed() < Duration::from_secs(300), "{}…: {:?}", &sql[..60], begun.elapsed());
    }
    // What SQLite would need seconds for is linear here.
    let halves = format!("SELECT instr({long}, substr({long}, 1, 400000) || '1')");
    assert_eq!(crate::probe::number(&rig.one(call("q", &halves))), 0);
}

#[test]
fn a_function_that_uses_the_budget_up_does_not_cost_the_transaction() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "CREATE TABLE long (k, v)")).unwrap();
    let outcomes = rig.batch([
        call("exec", "INSERT INTO t VALUES (1, 'before')"),
        call("exec", format!("{NUMBERS}100000) INSERT INTO long SELECT i + 10, randomblob(1000000) FROM n")),
        call("exec", "INSERT INTO t VALUES (2, 'after')"),
    ]);
    assert!(outcomes[0].is_ok() && used_up(&outcomes[1]) && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(rig.text("SELECT group_concat(v) FROM t"), "before,after");
}

/// SQLite's own collects until memory ends, and then asks how long it may be.
#[test]
fn a_group_of_json_cannot_outgrow_a_value() {
    let mut rig = Rig::probe();
    for group in
        ["json_group_array(z)", "jsonb_group_array(z)", "json_group_object('k', z)", "jsonb_group_object(i, z)"]
    {
        let sql = format!("{NUMBERS}100000) SELECT {group} FROM (SELECT hex(zeroblob(100000)) AS z, i FROM n)");
        let outcome = rig.one(call("q", &sql));
        assert_eq!(code(&outcome), Some(Code::ResourceExhausted), "{group}: {:.200}", format!("{outcome:?}"));
    }
    assert_eq!(rig.text("SELECT json_group_array(value) FROM json_each('[1, \"a\", null]')"), "[1,\"a\",null]");
    assert_eq!(rig.text("SELECT json_array(json_group_array(1))"), "[[1]]");
    let arguments = vec!["1"; 33].join(",");
    assert_eq!(code(&rig.one(call("q", format!("SELECT json_array({arguments})")))), Some(Code::InvalidArgument));
}

#[test]
fn views_on_views_are_too_complex_long_before_they_take_seconds() {
    let mut rig = Rig::probe();
    let mut make =
        vec![call("exec", "CREATE VIEW v0 AS SELECT k AS x FROM t"), call("exec", "CREATE VIEW s0 AS SELECT 1 AS x")];
    for i in 1..=14 {
        let below = i - 1;
        make.push(call("exec", format!("CREATE VIEW v{i} AS SELECT x FROM v{below} UNION ALL SELECT x FROM v{below}")));
        make.push(call(
            "exec",
            format!("CREATE VIEW s{i} AS SELECT (SELECT x FROM s{below}) + (SELECT x FROM s{below}) AS x"),
        ));
    }
    for outcome in rig.batch(make) {
        outcome.unwrap();
    }
    let begun = Instant::now();
    for sql in ["SELECT x FROM v14", "SELECT x FROM s14 LIMIT 1", "INSERT INTO t SELECT x, x FROM v14"] {
        let outcome = rig.one(call("exec", sql));
        assert_eq!(code(&outcome), Some(Code::PermissionDenied), "{sql}: {outcome:?}");
        assert!(message(&outcome).contains("too complex"), "{outcome:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(300), "{:?}", begun.elapsed());
    assert!(rig.one(call("q", "SELECT count(*) FROM v5")).is_ok());
}

/// A statement that is dear to compile costs the same each time, wherever it is compiled.
#[test]
fn compilation_costs_the_same_on_a_warm_and_on_a_fresh_connection() {
    let mut warm = Rig::probe();
    warm.one(call("exec", "CREATE VIEW v0 AS SELECT k AS x FROM t")).unwrap();
    for i in 1..=8 {
        let below = i - 1;
        let sql = format!("CREATE VIEW v{i} AS SELECT x FROM v{below} UNION ALL SELECT x FROM v{below}");
        warm.one(call("exec", sql)).unwrap();
    }
    let dear = "SELECT count(*) FROM v8";
    let passes = |rig: &mut Rig, steps: u64| {
        rig.one(set(Limits { sql_steps: steps, ..Limits::default() })).unwrap();
        rig.one(call("q", dear)).is_ok()
    };
    let (mut low, mut high) = (1, 1_000_000);
    while low < high {
        let middle = (low + high) / 2;
        if passes(&mut warm, middle) { high = middle } else { low = middle + 1 }
    }
    assert!(low > 50_000, "{low}");
    let mut fresh = warm.reopen();
    assert!(passes(&mut fresh, low) && !passes(&mut fresh, low - 1) && passes(&mut fresh, low));
}

/// To the sixth column of one name SQLite gives a random one.
#[test]
fn names_that_sqlite_makes_up_at_random_are_refused() {
    let mut rig = Rig::probe();
    let six = "SELECT 1 AS a, 2 AS A, 3 AS a, 4 AS a, 5 AS a, 6 AS a";
    let same = "SELECT 0, 0, 0, 0, 0, 0";
    for sql in [
        format!("SELECT * FROM ({six})"),
        format!("SELECT * FROM ({same})"),
        format!("SELECT 1, x.*, 2 FROM ({six}) AS x"),
        format!("WITH c AS ({six}) SELECT * FROM c"),
    ] {
        let outcome = rig.one(call("q", &sql));
        assert_eq!(code(&outcome), Some(Code::InvalidArgument), "{sql}: {outcome:?}");
        assert!(message(&outcome).contains("same name"), "{outcome:?}");
    }
    rig.one(call("exec", format!("CREATE VIEW v AS {six}"))).unwrap();
    for sql in [
        format!("CREATE TABLE c AS {six}"),
        format!("CREATE TABLE c AS {same}"),
        format!("CREATE TABLE c AS SELECT 1, * FROM ({six})"),
        "CREATE TABLE c AS SELECT * FROM v".to_owned(),
    ] {
        let outcome = rig.one(call("exec", &sql));
        assert!(outcome.is_err(), "{sql}: {outcome:?}");
        assert!(message(&outcome).contains("same name"), "{sql}: {outcome:?}");
    }
    assert!(rig.one(call("exec", "CREATE TABLE c AS SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a, 5 AS a")).is_ok());
    assert_eq!(rig.number("SELECT \"a:4\" FROM c"), 5);
}

#[test]
fn a_generated_column_that_cannot_be_computed_does_not_stop_the_digest() {
    let mut rig = Rig::probe();
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'no json')")).unwrap();
    rig.one(call("exec", "ALTER TABLE t ADD COLUMN y AS (json(v))")).unwrap();
    assert!(rig.one(call("q", "SELECT y FROM t")).is_err());
    let before = rig.digest();
    rig.one(call("exec", "DELETE FROM t")).unwrap();
    assert_ne!(rig.digest(), before);
}

/// The same entries on a machine with history and on one that replays them, in other batches, with restarts between.
#[test]
fn a_connection_with_history_and_a_fresh_one_give_the_same() {
    let twelve = "SELECT 1 AS a, 2, 3, 4, 5, 6, 7";
    let entries: Vec<Body> = [
        (
            "exec",
            "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, at DEFAULT CURRENT_TIMESTAMP, r DEFAULT (random()))",
        ),
        ("exec", "INSERT INTO a DEFAULT VALUES"),
        ("fail", "INSERT INTO a DEFAULT VALUES"),
        ("trap", "CREATE TABLE gone(x)"),
        ("ddl", "SELECT 1"),
        ("exec", "INSERT INTO a(id) VALUES (9223372036854775807)"),
        ("exec", "UPDATE a SET id = 9223372036854775807"),
        ("exec", "INSERT OR ROLLBACK INTO a(id) VALUES (1)"),
        ("exec", "INSERT INTO a DEFAULT VALUES"),
        ("q", "SELECT changes()"),
        ("q", "SELECT last_insert_rowid()"),
        ("exec", "CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID"),
        ("exec", "INSERT INTO w SELECT hex(randomblob(4)), random() FROM a"),
        ("exec", "INSERT INTO w SELECT k, v FROM w"),
        ("exec", "CREATE INDEX i ON w(v) WHERE v LIKE '1%'"),
        ("exec", "ALTER TABLE a ADD COLUMN note TEXT DEFAULT 'x'"),
        ("exec", "ALTER TABLE a ADD COLUMN more TEXT CHECK (more <> 'no')"),
        ("exec", "SELECT nonsense FROM a"),
        ("exec", "DROP TABLE nothing"),
        ("q", "SELECT group_concat(at || r) FROM a"),
        (
            "exec",
            "CREATE TRIGGER tr AFTER INSERT ON a BEGIN UPDATE a SET note = datetime('now') WHERE id = NEW.id; END",
        ),
        ("exec", "INSERT INTO a(id) VALUES (100), (NULL), (50) RETURNING id"),
        ("exec", "DELETE FROM sqlite_sequence"),
        ("exec", "INSERT INTO a DEFAULT VALUES"),
        ("exec", "REINDEX"),
        ("q", "SELECT json_group_array(id) FROM a"),
        ("exec", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO w SELECT i, i FROM n"),
        ("q", "SELECT count(*) FROM w"),
        ("exec", "DROP TABLE w"),
        ("q", twelve),
    ]
    .into_iter()
    .map(|(method, sql)| call(method, sql))
    .collect();
    let mut warm = Rig::probe();
    // History that must not show: statements compiled, failures, counts, row ids.
    for rig in [&mut warm] {
        for sql in
            ["INSERT INTO t VALUES (77, 'x')", "INSERT INTO t VALUES (77, 'x')", "DELETE FROM t", "SELECT 1; SELECT 2"]
        {
            let _ = rig.one(call("exec", sql));
        }
        let _ = rig.one(call("q", "SELECT count(*) FROM w"));
    }
    let first: Vec<Outcome> = entries.iter().map(|body| warm.one(body.clone())).collect();
    assert!(first.iter().filter(|outcome| outcome.is_ok()).count() > 14, "{first:?}");
    for batch in [1, 7, entries.len()] {
        let mut other = Rig::probe();
        // As many entries, without what they did.
        for _ in 0..5 {
            other.one(call("ignore", "SELECT 1")).unwrap();
        }
        let mut second = Vec::new();
        for part in entries.chunks(batch) {
            second.extend(other.batch(part.to_vec()));
            if batch < entries.len() {
                other = other.reopen();
            }
        }
        assert_eq!(first, second, "batches of {batch}");
        assert_eq!(warm.digest(), other.digest(), "batches of {batch}");
    }
}

/// SQLite writes default values and messages down within the largest value, and takes what it cannot write for a lack of
/// memory, also where a statement runs.
#[test]
fn definitions_as_long_as_a_statement_are_no_fault_whatever_the_budgets() {
    let mut rig = Rig::probe();
    rig.one(set(Limits { value_bytes: 1, ..Limits::default() })).unwrap();
    assert_eq!(rig.reader.limits().unwrap().1.value_bytes, telegraft_sandbox::Limits::MIN.value_bytes);
    let long = "a".repeat(260_000);
    rig.one(call("exec", "CREATE TABLE d (a INTEGER PRIMARY KEY, y)")).unwrap();
    rig.one(call("exec", "INSERT INTO d VALUES (1, 1), (2, 2), (3, 3)")).unwrap();
    for sql in [
        format!("ALTER TABLE d ADD COLUMN x TEXT DEFAULT '{long}'"),
        "SELECT length(x) FROM d".to_owned(),
        "DELETE FROM d WHERE a = 1".to_owned(),
        "UPDATE d SET y = 5, x = 'k' WHERE a = 2".to_owned(),
        "CREATE TABLE IF NOT EXISTS d (a)".to_owned(),
        "INSERT INTO d (a) VALUES (4)".to_owned(),
        format!("CREATE VIEW v AS SELECT '{long}' AS x"),
        "SELECT length(x) FROM v".to_owned(),
    ] {
        let outcome = rig.one(call("exec", &sql));
        assert!(outcome.is_ok(), "{sql:.60}: {outcome:?}");
    }
    let lengths = rig.reader.query("q", b"SELECT sum(length(x)) FROM d").unwrap().1;
    assert_eq!(crate::probe::number(&lengths), 520_001);
    let mut again = rig.reopen();
    assert!(again.one(call("exec", "DELETE FROM d")).is_ok());
}

/// An entry that is undone makes SQLite forget a schema that its transaction has changed, also where another entry did.
#[test]
fn steps_are_the_same_wherever_a_batch_ends_around_a_change_of_the_schema() {
    let sql = format!("{NUMBERS}100) SELECT count(*) FROM n, t WHERE k > 0");
    let mut costs = Vec::new();
    let mut outcomes = Vec::new();
    for one_batch in [true, false] {
        let mut rig = Rig::probe();
        // A schema that takes thousands of steps to load.
        for outcome in rig.batch((0..400).map(|i| call("exec", format!("CREATE TABLE many{i} (a, b, c)")))) {
            outcome.unwrap();
        }
        rig.one(call("exec", "INSERT INTO t VALUES (1, 'a')")).unwrap();
        rig.machine.measure(true);
        rig.one(call("q", &sql)).unwrap();
        let used = rig.machine.take_costs().last().unwrap().1.sql_steps;
        rig.one(set(Limits { sql_steps: used + 64, ..Limits::default() })).unwrap();
        let calls = [
            call("exec", "CREATE TABLE u (x)"),
            call("q", &sql),
            call("exec", "INSERT INTO t VALUES (1, 'b')"),
            call("q", &sql),
            call("exec", "INSERT INTO t VALUES (1, 'c')"),
            call("q", &sql),
        ];
        let ended: Vec<_> =
            if one_batch { rig.batch(calls) } else { calls.into_iter().map(|call| rig.one(call)).collect() };
        assert!(ended[0].is_ok() && ended[1].is_ok() && ended[2].is_err() && ended[3].is_ok(), "{ended:?}");
        outcomes.push(ended);
        costs.push(rig.machine.take_costs().iter().map(|(index, cost)| (*index, cost.sql_steps)).collect::<Vec<_>>());
    }
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(costs[0], costs[1]);
}

#[test]
fn what_a_statement_writes_to_temporary_files_costs_steps() {
    let mut rig = Rig::probe();
    let sorted = |bytes: u32, rows: u32| {
        format!(
            "{NUMBERS}{rows}) SELECT count(x) FROM (SELECT hex(zeroblob({bytes})) || i AS x FROM n ORDER BY x LIMIT -1 OFFSET 1)"
        )
    };
    assert_eq!(crate::probe::number(&rig.one(call("q", sorted(500, 30_000)))), 29_999);
    // 300,000 rows of some 8 KB: a third of the budget in VM steps and functions, 2.4 GB in temporary files.
    let begun = Instant::now();
    let outcome = rig.one(call("q", sorted(4000, 300_000)));
    assert!(used_up(&outcome), "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(300), "{:?}", begun.elapsed());
    let distinct = format!("{NUMBERS}300000) SELECT count(*) FROM (SELECT DISTINCT hex(zeroblob(4000)) || i FROM n)");
    assert!(used_up(&rig.one(call("q", distinct))));
    // Also where something is written: other entries of the batch are as they were.
    let outcomes = rig.batch([
        call("exec", "INSERT INTO t VALUES (1, 'before')"),
        call("exec", format!("INSERT INTO t SELECT 2, * FROM ({})", sorted(4000, 300_000))),
        call("exec", "INSERT INTO t VALUES (3, 'after')"),
    ]);
    assert!(outcomes[0].is_ok() && used_up(&outcomes[1]) && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(rig.text("SELECT group_concat(v) FROM t"), "before,after");
}
