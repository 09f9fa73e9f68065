//! What long values cost, how a statement that meets one begins again, and how long keys may be.

use telegraft_node::ports::{Code, Outcome};
use telegraft_proto::internal::{Limits, command::Body};

use crate::probe::{PROBE, Probe, Rig, activation, call, code, message, number, set, whole};

/// A table whose values are in no index, with a short row and one of 100,000 bytes.
const LONG: [&str; 3] = [
    "CREATE TABLE long (k INTEGER PRIMARY KEY, v TEXT)",
    "INSERT INTO long VALUES (1, 'short')",
    "INSERT INTO long VALUES (2, hex(zeroblob(50000)))",
];

fn rig_with_long() -> Rig {
    let mut rig = Rig::probe();
    for sql in LONG {
        rig.one(call("exec", sql)).unwrap();
    }
    rig
}

/// The SQL steps of one call.
fn steps(rig: &mut Rig, body: Body) -> u64 {
    rig.machine.measure(true);
    let _ = rig.one(body);
    let costs = rig.machine.take_costs();
    rig.machine.measure(false);
    costs.last().unwrap().1.sql_steps
}

fn too_large(outcome: &Outcome) -> bool {
    // As the probe passes `too-large` on.
    code(outcome) == Some(Code::ResourceExhausted)
}

#[test]
fn a_step_costs_what_the_longest_value_makes_it() {
    let mut rig = rig_with_long();
    rig.one(call("exec", "INSERT INTO long VALUES (3, hex(zeroblob(10000)))")).unwrap();
    let mut read =
        |k: u32| steps(&mut rig, call("q", format!("SELECT length(v || '') FROM long WHERE k = {k}"))) as f64;
    let (short, twenty, hundred) = (read(1), read(3), read(2));
    let text = (1 + "SELECT length(v || '') FROM long WHERE k = 1".len() / 8) as f64;
    // A run that meets the value and stops short of its end, and one with the reach that it needs, of 32 or 128 KiB.
    assert!((4.0..5.5).contains(&((twenty - text) / (short - text))), "{short} {twenty} {text}");
    assert!((18.0..21.0).contains(&((hundred - text) / (short - text))), "{short} {hundred} {text}");
    // What is only handed over or passed by costs nothing more than its statement's reach.
    assert_eq!(read(1), short);
    let mut by = |sql: &str| steps(&mut rig, call("q", sql));
    assert_eq!(by("SELECT octet_length(v) FROM long WHERE k = 1"), by("SELECT octet_length(v) FROM long WHERE k = 2"));
}

#[test]
fn a_result_is_that_of_the_last_run_alone() {
    let mut rig = rig_with_long();
    for sql in [
        "SELECT group_concat(length(v || k)) FROM long",
        "SELECT sum(n) || ',' || count(*) FROM (SELECT length(v || k) AS n FROM long ORDER BY k)",
    ] {
        assert_eq!(rig.text(sql), if sql.contains("sum") { "100007,2" } else { "6,100001" });
    }
    // The first row goes out before the second one is met; a result within its budget stays so.
    rig.one(set(Limits { rows: 2, ..Limits::default() })).unwrap();
    let first = rig.one(call("q", "SELECT length(v || k) FROM long ORDER BY k"));
    assert_eq!(number(&first), 6);
    rig.one(set(Limits { rows: 1, ..Limits::default() })).unwrap();
    assert_eq!(code(&rig.one(call("q", "SELECT length(v || k) FROM long"))), Some(Code::ResourceExhausted));
}

#[test]
fn a_call_that_has_changed_rows_before_it_meets_a_long_value_begins_again_whole() {
    let append = "UPDATE long SET v = v || 'x'";
    let sizes = "SELECT group_concat(length(v)) FROM long";
    let logged = "CREATE TRIGGER tr AFTER UPDATE ON long BEGIN INSERT INTO t(v) VALUES (NEW.k || ':' || (SELECT count(*) FROM t)); END";
    let mut alone = rig_with_long();
    alone.one(call("exec", logged)).unwrap();
    let before = alone.reader.limits().unwrap().2;
    alone.one(call("exec", append)).unwrap();
    assert_eq!(alone.text(sizes), "6,100001");
    assert_eq!(alone.text("SELECT group_concat(v) FROM t"), "1:0,2:1");
    // Two bytes, and two rows of 8, 8 and 3.
    assert_eq!(alone.reader.limits().unwrap().2 - before, 2 + 2 * 19);
    // Within a batch, beside others that fail or change the schema, and where instances are reused: all the same.
    let mut batched = Rig::empty();
    batched.install(&PROBE.build(), false);
    let bodies: Vec<Body> = LONG.iter().chain([&logged, &append]).map(|sql| call("exec", sql)).collect();
    for outcome in batched.batch(bodies) {
        outcome.unwrap();
    }
    assert_eq!(batched.digest(), alone.digest());
    assert_eq!(batched.reader.effect_digest(), alone.reader.effect_digest());
    let mut reused = Rig::empty();
    reused.install(&PROBE.build(), true);
    for sql in LONG.iter().chain([&logged, &append]) {
        reused.one(call("exec", sql)).unwrap();
    }
    assert_eq!(reused.text(sizes), "6,100001");
    assert_eq!(reused.reader.effect_digest().0, alone.reader.effect_digest().0);
    // A call's own earlier statements are undone with it: the probe's method runs its statement twice.
    alone.one(call("2", append)).unwrap();
    assert_eq!(alone.text(sizes), "8,100003");
    // And what fails is undone whole.
    let digest = alone.text(sizes);
    assert!(alone.one(call("exec", "UPDATE long SET v = iif(k = 2, abs(-9223372036854775808), v || v)")).is_err());
    assert_eq!(alone.text(sizes), digest);
}

#[test]
fn an_init_begins_again_as_a_call_does() {
    let second = Probe {
        version: "2.0.0",
        schema: 2,
        init: ["CREATE TABLE again AS SELECT k, v || 'x' AS v FROM long", "UPDATE long SET v = v || 'y' WHERE ?1 = 1"],
        ..PROBE
    };
    let mut rig = rig_with_long();
    rig.one(whole(&second.build())).unwrap();
    rig.one(activation(&second.build(), false)).unwrap();
    assert_eq!(rig.text("SELECT group_concat(length(v)) FROM again"), "6,100001");
    assert_eq!(rig.text("SELECT group_concat(length(v)) FROM long"), "6,100001");
}

#[test]
fn keys_stay_short_whatever_else_a_row_holds() {
    let mut rig = rig_with_long();
    let long = "hex(zeroblob(10000))";
    let refused = |rig: &mut Rig, sql: &str, word: &str| {
        let outcome = rig.one(call("exec", sql));
        assert_eq!(code(&outcome), Some(Code::Aborted), "{sql}: {outcome:?}");
        assert!(message(&outcome).contains(word), "{sql}: {outcome:?}");
    };
    refused(&mut rig, &format!("INSERT INTO t VALUES (1, {long})"), "sqlite_autoindex_t_1");
    for sql in [
        "CREATE TABLE two (a, b, c, UNIQUE (a, b))",
        "CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID",
        "CREATE TABLE e (k, v)",
        "CREATE INDEX on_expression ON e (lower(k))",
        "CREATE TABLE g (k, v, low AS (lower(k)) STORED)",
        "CREATE INDEX on_stored ON g (low)",
        "CREATE TABLE g2 (k, v, low AS (lower(k)))",
        "CREATE INDEX on_virtual ON g2 (low)",
    ] {
        rig.one(call("exec", sql)).unwrap();
    }
    for column in ["two (c)", "g (v)"] {
        rig.one(call("exec", format!("INSERT INTO {column} VALUES ({long})"))).unwrap();
    }
    // Each alone would do.
    let half = "substr(hex(zeroblob(10000)), 1, 5000)";
    rig.one(call("exec", format!("INSERT INTO two VALUES ({half}, 1, 1), (2, {half}, 2)"))).unwrap();
    refused(&mut rig, &format!("INSERT INTO two VALUES ({half}, {half}, 3)"), "sqlite_autoindex_two_1");
    refused(&mut rig, &format!("UPDATE two SET b = {half} WHERE c = 1"), "sqlite_autoindex_two_1");
    refused(&mut rig, &format!("INSERT INTO w VALUES ('a', {long})"), "WITHOUT ROWID");
    refused(&mut rig, &format!("INSERT INTO g (k) VALUES ({long})"), "on_stored");
    refused(&mut rig, &format!("INSERT INTO e VALUES ('a', {long})"), "on_expression");
    refused(&mut rig, &format!("INSERT INTO g2 (k, v) VALUES ('a', {long})"), "on_virtual");
    for table in ["e", "g2 (k, v)", "w"] {
        rig.one(call("exec", format!("INSERT INTO {table} VALUES ('a', 'b')"))).unwrap();
    }
    // An index over what is there.
    let outcome = rig.one(call("exec", "CREATE INDEX i ON long (v)"));
    assert!(too_large(&outcome) && message(&outcome).contains("8192"), "{outcome:?}");
    rig.one(call("exec", "CREATE INDEX i ON long (k)")).unwrap();
    rig.one(call("exec", "CREATE INDEX partial ON long (v) WHERE k < 2")).unwrap();
    rig.one(call("exec", "REINDEX")).unwrap();
    // A text in the schema reaches as far as its statements do.
    rig.one(call("exec", format!("CREATE VIEW wide AS SELECT '{}' AS x", "a".repeat(20_000)))).unwrap();
    let outcome = rig.one(call("exec", "CREATE INDEX j ON long (k)"));
    assert!(too_large(&outcome) && message(&outcome).contains("definition"), "{outcome:?}");
    refused(&mut rig, &format!("INSERT INTO t VALUES (1, {long})"), "sqlite_autoindex_t_1");
}

/// Statements with texts of every length, compiled before under other circumstances or not.
#[test]
fn what_a_statement_costs_does_not_hang_on_what_ran_before() {
    let text = |bytes: usize| "a".repeat(bytes);
    let statements: Vec<Body> = [15_000, 17_000, 70_000, 250_000]
        .into_iter()
        .flat_map(|bytes| {
            [
                call("q", format!("SELECT length('{}')", text(bytes))),
                call("exec", format!("INSERT INTO long VALUES ({bytes}, '{}')", text(bytes))),
                call("q", format!("SELECT length(v || '') FROM long WHERE k = {bytes}")),
                call("q", "SELECT max(length(v || '')) FROM long"),
                call("exec", "UPDATE long SET v = v || 'x' WHERE k > 2"),
                call("exec", format!("ALTER TABLE long ADD COLUMN d{bytes} TEXT DEFAULT '{}'", text(bytes))),
                call("q", format!("SELECT length(d{bytes}) FROM long WHERE k = 1")),
                call("q", "SELECT sum(k) FROM long"),
                call("exec", format!("ALTER TABLE long RENAME COLUMN d{bytes} TO other{bytes}")),
                call("exec", format!("CREATE VIEW v{bytes} AS SELECT '{}' AS x, k FROM long", text(bytes))),
                call("q", format!("SELECT length(x) FROM v{bytes}")),
                call("exec", format!("DROP VIEW v{bytes}")),
                call("exec", format!("ALTER TABLE long DROP COLUMN other{bytes}")),
                call("exec", "INSERT INTO t(v) SELECT k FROM long WHERE k > 2"),
            ]
        })
        .collect();
    let mut runs: Vec<(Vec<Outcome>, Vec<u64>, String)> = Vec::new();
    for batch in [1, 5, statements.len(), 0] {
        let mut rig = rig_with_long();
        rig.machine.measure(true);
        let (mut outcomes, mut costs) = (Vec::new(), Vec::new());
        for part in statements.chunks(batch.max(1)) {
            outcomes.extend(rig.batch(part.to_vec()));
            let mut last = std::collections::BTreeMap::new();
            last.extend(rig.machine.take_costs().iter().map(|(index, cost)| (*index, cost.sql_steps)));
            costs.extend(last.into_values());
            if batch == 0 {
                rig = rig.reopen();
                rig.machine.measure(true);
            }
        }
        runs.push((outcomes, costs, rig.digest()));
    }
    assert!(runs[0].0.iter().filter(|outcome| outcome.is_ok()).count() > 48, "{:.2000?}", runs[0].0);
    for other in &runs[1..] {
        assert_eq!(runs[0].1, other.1);
        assert_eq!(runs[0].0, other.0);
        assert_eq!(runs[0].2, other.2);
    }
}

/// SQLite forgets a schema that the transaction has changed when a savepoint is gone back to; what the statement costs to compile
/// and the schema to load must not count a second time.
#[test]
fn a_statement_that_is_taken_back_in_a_batch_with_ddl_costs_what_it_costs_alone() {
    let tables = (0..400).map(|i| call("exec", format!("CREATE TABLE many{i} (a, b)")));
    let history: Vec<Body> = LONG.iter().map(|sql| call("exec", sql)).chain(tables).collect();
    let ddl = || call("exec", "CREATE TABLE other (a)");
    let append = || call("exec", "UPDATE long SET v = v || 'x'");
    let mut measured = Rig::probe();
    measured.batch(history.clone());
    measured.one(ddl()).unwrap();
    let cost = steps(&mut measured, append());
    let many = vec!["k"; 2400].join(",");
    for (budget, statement) in
        [(cost, append()), (10_000_000, call("exec", format!("UPDATE long SET v = v || (k IN ({many}))")))]
    {
        let limits = set(Limits { sql_steps: budget, ..Limits::default() });
        let entries = [ddl(), limits, statement];
        let mut runs = Vec::new();
        for together in [false, true] {
            let mut rig = Rig::probe();
            rig.batch(history.clone());
            let outcomes: Vec<Outcome> = if together {
                rig.batch(entries.clone())
            } else {
                entries.iter().map(|body| rig.one(body.clone())).collect()
            };
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            runs.push((outcomes, rig.digest()));
        }
        assert_eq!(runs[0], runs[1]);
    }
}

#[test]
fn definitions_that_sqlite_could_not_write_down_are_refused_and_no_fault() {
    let mut rig = Rig::probe();
    let quotes = "'".repeat(4060);
    for _ in 0..2 {
        let outcome = rig.one(call("exec", format!("CREATE INDEX \"{quotes}\" ON t(v)")));
        assert!(too_large(&outcome) && message(&outcome).contains("at most 3840"), "{outcome:?}");
    }
    rig.one(call("exec", format!("CREATE INDEX \"{}\" ON t(v)", "'".repeat(3800)))).unwrap();
    rig.one(call("exec", format!("CREATE TABLE \"{quotes}\" (a)"))).unwrap();
    let trigger = format!("CREATE TRIGGER \"{}\" AFTER INSERT ON t BEGIN SELECT 1; END", "'".repeat(16_330));
    rig.one(call("exec", trigger)).unwrap();
    // As many new names as the definition could hold, in memory.
    rig.one(call("exec", format!("CREATE TABLE r (a, CHECK (a NOT IN ({})))", vec!["a"; 4500].join(",")))).unwrap();
    let outcome = rig.one(call("exec", format!("ALTER TABLE r RENAME COLUMN a TO \"{}\"", "n".repeat(250_000))));
    assert!(too_large(&outcome) && message(&outcome).contains("memory"), "{outcome:?}");
    rig.one(call("exec", "ALTER TABLE r RENAME COLUMN a TO b")).unwrap();
}

#[test]
fn what_steps_do_not_count_is_charged() {
    let mut rig = Rig::probe();
    // Checked by statements of SQLite's own.
    rig.one(call("exec", "CREATE TABLE c (a)")).unwrap();
    rig.one(call(
        "exec",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 4000) INSERT INTO c SELECT i FROM n",
    ))
    .unwrap();
    let plain = steps(&mut rig, call("exec", "ALTER TABLE c ADD COLUMN b DEFAULT 1"));
    let checked = steps(&mut rig, call("exec", "ALTER TABLE c ADD COLUMN d DEFAULT 1 CHECK (d + d + d + d + d > 0)"));
    assert!(checked > plain + 4000 * 8, "{plain} {checked}");
    // Rows that go are read, and their long keys compared.
    rig.one(call("exec", "CREATE TABLE gone (a BLOB)")).unwrap();
    rig.one(call("exec", "INSERT INTO gone VALUES (zeroblob(1000000)), (zeroblob(1000000))")).unwrap();
    let delete = steps(&mut rig, call("exec", "DELETE FROM gone"));
    assert!((3_900..4_100).contains(&delete), "{delete}");
    for sql in ["CREATE TABLE k (a BLOB, b)", "CREATE INDEX ka ON k (a)", "CREATE INDEX kab ON k (a, b)"] {
        rig.one(call("exec", sql)).unwrap();
    }
    let mut insert = |bytes: u32| steps(&mut rig, call("exec", format!("INSERT INTO k VALUES (zeroblob({bytes}), 1)")));
    assert!((2 * 7000 / 256..2 * 7000 / 256 + 30).contains(&(insert(7000) - insert(700))));
    // Views on views are compiled for every ALTER TABLE.
    rig.one(call("exec", "CREATE VIEW v0 AS SELECT x.k, x.v FROM t x, t y")).unwrap();
    for i in 1..=11 {
        let below = i - 1;
        rig.one(call("exec", format!("CREATE VIEW v{i} AS SELECT x.k, x.v FROM v{below} x, v{below} y"))).unwrap();
    }
    let outcome = rig.one(call("exec", "ALTER TABLE c RENAME COLUMN a TO z"));
    assert!(too_large(&outcome) && message(&outcome).contains("too complex"), "{outcome:?}");
    rig.one(call("exec", "DROP VIEW v11")).unwrap();
    rig.one(call("exec", "ALTER TABLE c RENAME COLUMN a TO z")).unwrap();
    // And what cannot be charged is refused.
    let outcome = rig.one(call("q", "SELECT path FROM json_tree('[1]')"));
    assert_eq!(code(&outcome), Some(Code::PermissionDenied), "{outcome:?}");
    assert_eq!(rig.text("SELECT group_concat(fullkey) FROM json_tree('[1]')"), "$,$[0]");
    assert_eq!(rig.text("SELECT group_concat(path) FROM json_each('[1]')"), "$");
}

#[test]
fn steps_that_run_out_over_a_long_value_are_said_to_run_out() {
    let mut rig = rig_with_long();
    for budget in [10, 50, 151, 200] {
        rig.one(set(Limits { sql_steps: budget, ..Limits::default() })).unwrap();
        let outcome = rig.one(call("exec", "INSERT INTO t(v) SELECT length(v || '') FROM long"));
        assert!(message(&outcome).contains("SQL budget"), "{budget}: {outcome:?}");
    }
}

#[test]
fn one_long_message_does_not_make_ddl_unaffordable() {
    let mut rig = Rig::probe();
    for sql in [
        "CREATE TABLE m (id INTEGER PRIMARY KEY, body, old)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) INSERT INTO m SELECT i, 'hello', 1 FROM n",
        "INSERT INTO m VALUES (30000, hex(zeroblob(4500)), 1)",
        "CREATE TABLE copy AS SELECT id, body || '' AS body FROM m",
        "ALTER TABLE m DROP COLUMN old",
    ] {
        rig.one(call("exec", sql)).unwrap();
    }
    assert_eq!(rig.number("SELECT count(*) FROM copy"), 20_001);
}

#[test]
fn what_is_deleted_from_sqlite_sequence_makes_no_room() {
    let mut rig = Rig::probe();
    let name = "n".repeat(60_000);
    rig.one(call("exec", format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY AUTOINCREMENT, v)"))).unwrap();
    rig.one(call("exec", format!("INSERT INTO {name}(v) VALUES (zeroblob(50000))"))).unwrap();
    let before = rig.reader.limits().unwrap().2;
    rig.one(call("exec", "DELETE FROM sqlite_sequence")).unwrap();
    assert_eq!(rig.reader.limits().unwrap().2, before);
}

#[test]
fn a_key_that_was_too_long_is_forgotten_with_its_entry() {
    let mut rig = Rig::probe();
    // It ends by its row id, which is looked at first.
    let both = rig.one(call("exec", "INSERT INTO t VALUES (9223372036854775807, hex(zeroblob(10000)))"));
    assert!(message(&both).contains("row id"), "{both:?}");
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'short')")).unwrap();
}
