//! What SQL takes from the log entry: time and randomness.

use telegraft_node::ports::{Code, Outcome, Queries};
use telegraft_proto::internal::Command;

use crate::probe::{Rig, call, code, command, message, number};

/// 2009-02-13 23:31:30.123456, a Friday.
const TIME_US: u64 = 1_234_567_890_123_456;

fn at(rig: &mut Rig, time_us: u64, method: &str, sql: &str) -> Outcome {
    let next = rig.next();
    rig.command(Command { time_us, ..command(next, call(method, sql)) })
}

fn text(outcome: &Outcome) -> String {
    String::from_utf8(outcome.as_ref().expect("outcome").to_vec()).expect("text")
}

#[test]
fn the_current_time_is_the_entrys_on_every_road() {
    let mut rig = Rig::probe();
    for (sql, expected) in [
        ("SELECT date()", "2009-02-13"),
        ("SELECT date('now')", "2009-02-13"),
        ("SELECT time('NOW')", "23:31:30"),
        ("SELECT datetime()", "2009-02-13 23:31:30"),
        ("SELECT datetime('now')", "2009-02-13 23:31:30"),
        ("SELECT datetime(x'6e6f77')", "2009-02-13 23:31:30"),
        ("SELECT datetime('now' || char(0) || 'x')", "2009-02-13 23:31:30"),
        ("SELECT datetime('subsec')", "2009-02-13 23:31:30.123"),
        ("SELECT datetime('subsecond', '+1 day')", "2009-02-14 23:31:30.123"),
        ("SELECT datetime('now', 'subsec')", "2009-02-13 23:31:30.123"),
        ("SELECT datetime('now', '-1 month', 'start of month')", "2009-01-01 00:00:00"),
        ("SELECT time('subsec', 'auto')", "23:31:30.123"),
        ("SELECT coalesce(date('now', 'unixepoch'), 'null')", "null"),
        ("SELECT coalesce(date('now', 'julianday'), 'null')", "null"),
        ("SELECT CURRENT_DATE", "2009-02-13"),
        ("SELECT CURRENT_TIME", "23:31:30"),
        ("SELECT CURRENT_TIMESTAMP", "2009-02-13 23:31:30"),
        ("SELECT unixepoch() || ''", "1234567890"),
        ("SELECT unixepoch('subsec') || ''", "1234567890.123"),
        ("SELECT julianday() - 2454876 > 0.48 AND julianday('now') = julianday() || ''", "0"),
        ("SELECT strftime('%F %T %w')", "2009-02-13 23:31:30 5"),
        ("SELECT strftime('%f', 'now')", "30.123"),
        ("SELECT strftime('%s', 'subsec')", "1234567890.123"),
        ("SELECT timediff('now', '2009-02-12 23:31:30')", "+0000-00-01 00:00:00.123"),
        ("SELECT timediff('2009-02-14 23:31:30.123', 'now')", "+0000-00-01 00:00:00.000"),
        ("SELECT timediff('now', 'subsec')", "+0000-00-00 00:00:00.000"),
        // What has nothing to do with the current time is as ever.
        ("SELECT datetime(1092941466, 'unixepoch')", "2004-08-19 18:51:06"),
        ("SELECT date('2004-02-29', '+1 year')", "2005-03-01"),
        ("SELECT strftime('%J', '2000-01-01 12:00')", "2451545"),
        ("SELECT coalesce(strftime(), 'null') || coalesce(date('nonsense'), 'null')", "nullnull"),
    ] {
        let outcome = at(&mut rig, TIME_US, "q", sql);
        assert!(outcome.is_ok(), "{sql}: {outcome:?}");
        if expected != "0" {
            assert_eq!(text(&outcome), expected, "{sql}");
        }
        // A query tells the time of the newest entry, which is this one.
        assert_eq!(rig.reader.query("q", sql.as_bytes()).unwrap().1, outcome, "{sql}");
    }
    // Before the epoch's first second, and after SQLite's last year.
    assert_eq!(text(&at(&mut rig, u64::MAX, "q", "SELECT datetime('subsec')")), "9999-12-31 23:59:59.999");
    let mut rig = Rig::probe();
    let early = at(&mut rig, 1_999_999, "q", "SELECT datetime('subsec')");
    assert_eq!(text(&early), "1970-01-01 00:00:01.999");
}

#[test]
fn the_hosts_zone_is_refused_with_a_reason() {
    let mut rig = Rig::probe();
    let outcome = rig.one(call("q", "SELECT datetime('now', '+1 day', 'LocalTime')"));
    assert_eq!(code(&outcome), Some(Code::PermissionDenied));
    assert!(message(&outcome).contains("time zone"), "{outcome:?}");
}

#[test]
fn defaults_triggers_and_views_may_use_the_entry() {
    let mut rig = Rig::probe();
    for sql in [
        "CREATE TABLE a(k INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP, ms REAL DEFAULT (unixepoch('subsec')), \
         dice INTEGER DEFAULT (random()), id BLOB DEFAULT (randomblob(16)))",
        "CREATE TABLE seen(at TEXT)",
        "CREATE TRIGGER a_seen AFTER INSERT ON a BEGIN INSERT INTO seen VALUES (datetime('now', '+1 hour')); END",
        "CREATE VIEW late AS SELECT k FROM a WHERE at < datetime('now')",
        "CREATE TABLE copied AS SELECT datetime('now') AS at",
    ] {
        let outcome = at(&mut rig, TIME_US, "exec", sql);
        assert!(outcome.is_ok(), "{sql}: {outcome:?}");
    }
    at(&mut rig, TIME_US, "exec", "INSERT INTO a(k) VALUES (1), (2)").unwrap();
    assert_eq!(rig.text("SELECT at FROM a WHERE k = 1"), "2009-02-13 23:31:30");
    assert_eq!(rig.text("SELECT ms || '' FROM a WHERE k = 2"), "1234567890.123");
    assert_eq!(rig.number("SELECT count(DISTINCT dice) + count(DISTINCT id) + sum(length(id)) FROM a"), 2 + 2 + 32);
    assert_eq!(rig.text("SELECT at FROM seen"), "2009-02-14 00:31:30");
    assert_eq!(rig.number("SELECT count(*) FROM late"), 0);
    assert_eq!(rig.text("SELECT at FROM copied"), "2009-02-13 23:31:30");
    at(&mut rig, TIME_US + 1_000_000, "ignore", "SELECT 1").unwrap();
    assert_eq!(rig.number("SELECT count(*) FROM late"), 2);
}

/// They are computed again when rows are read or the file is copied, and then there is no entry.
#[test]
fn what_the_entry_says_cannot_get_into_generated_columns_and_indexes() {
    let mut rig = Rig::probe();
    for what in ["datetime('now')", "date(k)", "CURRENT_TIMESTAMP", "random()", "randomblob(4)", "timediff(k, 'now')"] {
        for sql in [
            format!("CREATE TABLE z(k, y AS ({what}))"),
            format!("CREATE TABLE z(k, y AS ({what}) STORED)"),
            format!("CREATE INDEX z ON t(coalesce({what}, k))"),
            format!("CREATE INDEX z ON t(k) WHERE k > {what}"),
            format!("ALTER TABLE t ADD COLUMN y AS ({what})"),
        ] {
            let outcome = rig.one(call("exec", &sql));
            assert!(outcome.is_err(), "{sql}");
            assert!(message(&outcome).contains("non-deterministic"), "{sql}: {outcome:?}");
        }
    }
    // A table without rows may get such a column; with rows SQLite wants a constant.
    rig.one(call("exec", "INSERT INTO t VALUES (1, 'x')")).unwrap();
    assert!(rig.one(call("exec", "ALTER TABLE t ADD COLUMN y DEFAULT (datetime('now'))")).is_err());
    // The same with functions that depend on their arguments alone.
    for sql in [
        "CREATE TABLE z(x CHECK (instr(x, 'a') AND x LIKE 'a%'), y AS (replace(x, 'a', 'b')) STORED)",
        "CREATE INDEX z_trim ON z(trim(x)) WHERE x GLOB '*c'",
        "INSERT INTO z(x) VALUES ('aac')",
    ] {
        let outcome = rig.one(call("exec", sql));
        assert!(outcome.is_ok(), "{sql}: {outcome:?}");
    }
    assert_eq!(rig.text("SELECT y FROM z WHERE trim(x) = 'aac' AND x GLOB '*c'"), "bbc");
}

#[test]
fn a_check_asks_the_entry_that_writes_and_nothing_later() {
    let mut rig = Rig::probe();
    at(&mut rig, TIME_US, "exec", "CREATE TABLE z(k INTEGER, at CHECK (at >= unixepoch()), r CHECK (r = random()))")
        .unwrap();
    at(&mut rig, TIME_US, "exec", "INSERT INTO z VALUES (1, 1234567890, NULL)").unwrap();
    let late = at(&mut rig, TIME_US + 1_000_000, "exec", "INSERT INTO z VALUES (2, 1234567890, NULL)");
    assert_eq!(code(&late), Some(Code::NotFound), "a constraint: {late:?}");
    assert_eq!(code(&at(&mut rig, TIME_US, "exec", "INSERT INTO z VALUES (2, NULL, 1)")), Some(Code::NotFound));
    // The time of the row has long passed, and the file is checked when it is opened.
    let mut rig = rig.reopen();
    assert_eq!(rig.number("SELECT count(*) FROM z"), 1);
    at(&mut rig, TIME_US + 2_000_000, "exec", "UPDATE z SET k = 5").unwrap();
}

/// The stream is a contract: what a replayed entry draws must be what it drew, also after an update of the host.
#[test]
fn random_numbers_come_from_the_entropy_and_begin_anew_with_each_call() {
    let mut rig = Rig::probe();
    let draw = |rig: &mut Rig, entropy: (u64, u64), sql: &str| {
        let next = rig.next();
        let (entropy_high, entropy_low) = entropy;
        rig.command(Command { entropy_high, entropy_low, ..command(next, call("q", sql)) })
    };
    // SHA-256("telegraft random" || 16 zero bytes || block as 8 bytes).
    let first = draw(&mut rig, (0, 0), "SELECT hex(randomblob(40))");
    assert_eq!(text(&first), STREAM);
    assert_eq!(number(&draw(&mut rig, (0, 0), "SELECT random()")), i64::from_le_bytes(hex(&STREAM[..16])));
    assert_eq!(draw(&mut rig, (0, 0), "SELECT hex(randomblob(40))"), first);
    for other in [(1, 0), (0, 1)] {
        assert_ne!(draw(&mut rig, other, "SELECT hex(randomblob(40))"), first);
    }
    let several = "SELECT count(DISTINCT random()) FROM json_each('[1,2,3,4,5,6,7,8,9]')";
    assert_eq!(number(&draw(&mut rig, (7, 7), several)), 9);
    assert_eq!(number(&draw(&mut rig, (7, 7), "SELECT length(randomblob(-3)) + length(randomblob('4'))")), 5);
    // A query draws from the newest entry.
    let newest = draw(&mut rig, (3, 4), "SELECT hex(randomblob(40))");
    assert_eq!(rig.text("SELECT hex(randomblob(40))"), text(&newest));
    let outcome = rig.one(call("q", "SELECT randomblob(1000000000)"));
    assert_eq!(code(&outcome), Some(Code::ResourceExhausted), "{outcome:?}");
}

const STREAM: &str = "1D6EF9D557AD4D30E12C5852D52F8DC0FC67EA3C5DE10F3A47159AC66E4313A9191859F200C376CC";

fn hex(text: &str) -> [u8; 8] {
    u64::from_str_radix(text, 16).expect("hex").to_be_bytes()
}
