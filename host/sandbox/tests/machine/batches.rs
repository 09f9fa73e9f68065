//! Every kind of change, with long values among them, comes to the same however its entries lie in batches and whatever
//! restarts lie between: outcomes, steps, effects and state.

use std::collections::BTreeMap;

use telegraft_node::ports::Outcome;
use telegraft_proto::internal::command::Body;

use crate::probe::{PROBE, Rig, call};

/// Calls in the order of the log; some are sent twice, once so that the module goes on whatever the store says.
fn history() -> Vec<Body> {
    let ddl = [
        "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, k TEXT UNIQUE, v, n DEFAULT 0)",
        "CREATE TABLE w (k TEXT, p, q, PRIMARY KEY (p, k)) WITHOUT ROWID",
        "CREATE INDEX wq ON w (q)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, a REFERENCES a(id) ON DELETE CASCADE ON UPDATE CASCADE, d TEXT REFERENCES a(k) ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED, x)",
        "CREATE TABLE log (n INTEGER PRIMARY KEY, what, was)",
        "CREATE TABLE g (p, q, r AS (p || q) STORED, s, UNIQUE (r))",
        "CREATE TABLE bare (v)",
        "CREATE TABLE twin (v)",
        "CREATE TRIGGER au AFTER UPDATE ON a BEGIN INSERT INTO log(what, was) VALUES ('u' || NEW.id, OLD.v); UPDATE a SET n = n + 1 WHERE id = NEW.id AND OLD.n = NEW.n; END",
        "CREATE TRIGGER ad BEFORE DELETE ON a BEGIN INSERT INTO log(what, was) VALUES ('d' || OLD.id, length(OLD.v || '')); END",
        "CREATE TRIGGER bi BEFORE INSERT ON bare WHEN NEW.v = 'ignore' BEGIN SELECT RAISE(IGNORE); END",
    ];
    let dml = [
        "INSERT INTO a(k, v) SELECT 'k' || value, iif(value = 7, replace(hex(zeroblob(30000)), '00', 'x'), 'v' || value) FROM json_each('[1,2,3,4,5,6,7,8]')",
        "INSERT INTO c(a, d, x) SELECT id, k, v || '!' FROM a ORDER BY id",
        "UPDATE a SET v = v || '-' || id",
        "UPDATE a SET id = id + 100, v = v || '' WHERE id > 2",
        "INSERT INTO a(k, v) VALUES ('k1', 'up'), ('k9', hex(zeroblob(9000))), ('k2', 'up2'), ('k9', 'again') ON CONFLICT (k) DO UPDATE SET v = excluded.v || v, n = n + 10",
        "REPLACE INTO a(id, k, v) SELECT id + 1, k, v || 'r' FROM a WHERE k IN ('k1', 'k7')",
        "INSERT INTO w SELECT k, length(v || '') % 3, id FROM a",
        "UPDATE w SET q = q || (SELECT substr(v || '', 1, 5) FROM a WHERE a.k = w.k)",
        "UPDATE OR REPLACE w SET p = (SELECT length(v || '') FROM a WHERE a.k = w.k) % 2",
        "INSERT INTO g(p, q, s) SELECT k, id, v FROM a",
        "UPDATE g SET p = p || length(s || ''), s = s || 'z'",
        "INSERT INTO bare SELECT iif(k = 'k3', 'ignore', v || k) FROM a",
        "INSERT INTO twin SELECT * FROM bare",
        "INSERT OR IGNORE INTO a(k, v) SELECT k || iif(length(v || '') > 100, '', 'new'), v FROM a",
        "INSERT OR FAIL INTO a(k, v) SELECT 'f' || id, v || 'f' FROM a WHERE id < 200",
        "DELETE FROM c WHERE length(x || '') % 2 = 0",
        "DELETE FROM a WHERE length(v || '') > 10 AND id % 2 = 1",
        "UPDATE a SET k = k || 'y', v = v || 'y' FROM (SELECT max(length(v || '')) AS m FROM a) WHERE length(a.v || '') <= m",
        "INSERT INTO bare SELECT zeroblob(rowid * 300000) FROM twin",
        "UPDATE bare SET v = zeroblob(rowid * 300000)",
        "DELETE FROM bare WHERE length(v || zeroblob(rowid * 300000)) > 0",
        "DELETE FROM w WHERE (SELECT length(v || '') FROM a WHERE a.k = w.k || 'y') IS NULL",
        "UPDATE a SET v = abs(iif(id > 150, -9223372036854775808, 1)) WHERE length(v || '') > 0",
        "UPDATE a SET k = 'same' WHERE length(v || '') > 0",
        "INSERT INTO a(v, k) SELECT v || v, k || '2' FROM a RETURNING id",
        "DELETE FROM sqlite_sequence WHERE length(name || hex(zeroblob(9000))) > 0",
        "INSERT INTO a(k, v) VALUES ('last', 1)",
    ];

    let mut bodies: Vec<Body> = ddl.iter().map(|sql| call("exec", sql)).collect();
    for (i, sql) in dml.iter().enumerate() {
        bodies.push(call("exec", sql));
        bodies.push(call("ignore", sql));
        if i % 3 == 0 {
            let default = "d".repeat(i * 700);
            bodies.push(call("exec", format!("CREATE TABLE side{i} (x, y DEFAULT '{default}')")));
        }
        if i % 4 == 0 {
            bodies.push(call("exec", format!("ALTER TABLE side{} ADD COLUMN z{i} DEFAULT 1", i / 3 * 3)));
            bodies.push(call("ddl", sql));
        }
        if i % 5 == 0 {
            bodies.push(call("q", "SELECT sum(length(v || '')) FROM a"));
        }
    }
    bodies
}

/// What came of one way to apply them.
struct Run {
    outcomes: Vec<Outcome>,
    steps: Vec<u64>,
    effects: [u8; 32],
    /// None where instances are reused: whether they are is part of the state.
    state: Option<String>,
}

#[test]
fn batches_and_restarts_decide_nothing() {
    let bodies = history();
    let mut runs: Vec<Run> = Vec::new();
    // Of one entry each with a restart after it; and of several, one with reuse.
    for (size, reuse) in [(1, false), (3, false), (7, true), (bodies.len(), false), (0, false)] {
        let mut rig = Rig::empty();
        rig.install(&PROBE.build(), reuse);
        rig.machine.measure(true);
        let (mut outcomes, mut steps) = (Vec::new(), Vec::new());
        for part in bodies.chunks(size.max(1)) {
            outcomes.extend(rig.batch(part.to_vec()));
            // Of an entry that ran more than once, the last run's.
            let last: BTreeMap<_, _> =
                rig.machine.take_costs().iter().map(|(index, cost)| (*index, cost.sql_steps)).collect();
            steps.extend(last.into_values());
            if size == 0 {
                rig = rig.reopen();
                rig.machine.measure(true);
            }
        }
        let state = (!reuse).then(|| rig.digest());
        runs.push(Run { outcomes, steps, effects: rig.reader.effect_digest().1, state });
    }
    let first = &runs[0];
    assert!(first.outcomes.iter().filter(|outcome| outcome.is_ok()).count() > 75, "{:.3000?}", first.outcomes);
    for (number, run) in runs.iter().enumerate() {
        for (at, (one, other)) in first.outcomes.iter().zip(&run.outcomes).enumerate() {
            assert_eq!(one, other, "run {number}, entry {at}");
        }
        assert_eq!(first.steps, run.steps, "run {number}: steps");
        assert_eq!(first.effects, run.effects, "run {number}: effects");
        assert!(run.state.is_none() || run.state == first.state, "run {number}: state");
    }
}
