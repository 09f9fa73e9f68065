//! What a step is worth in time, for statements that make the most of theirs.
use std::time::Instant;

use telegraft_proto::internal::Limits;

use crate::probe::{Rig, call, set};

#[test]
#[ignore = "a measurement"]
fn prices() {
    let steps = 400_000_u64;
    let n = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) ";
    for bytes in [1_000_000_u32] {
        let mut rig = Rig::probe();
        rig.one(set(Limits { value_bytes: u64::from(bytes) + 40_000, sql_steps: 1_000_000_000, ..Limits::default() }))
            .unwrap();
        for sql in [
            "CREATE TABLE c (id INTEGER PRIMARY KEY, x BLOB, y)".to_owned(),
            format!("INSERT INTO c VALUES (1, zeroblob({bytes}), 1), (2, zeroblob({bytes}), 2)"),
            "CREATE TABLE tx (id INTEGER PRIMARY KEY, x TEXT)".to_owned(),
            format!("INSERT INTO tx VALUES (1, hex(zeroblob({bytes}/2))), (2, '[' || replace(hex(zeroblob({bytes}/5)), '00', '1,') || '1]')"),
            "CREATE TABLE keys (k BLOB, j)".to_owned(),
            "CREATE INDEX keysi ON keys(k)".to_owned(),
            "INSERT INTO keys WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 20000) SELECT zeroblob(8000) || i, i FROM n".to_owned(),
            "CREATE TABLE wr (k BLOB PRIMARY KEY, j) WITHOUT ROWID".to_owned(),
            format!("INSERT INTO wr WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 500) SELECT i, zeroblob(8000 + 0*{bytes}) FROM n"),
        ] {
            let out = rig.one(call("exec", &sql));
            assert!(out.is_ok(), "{sql}: {out:?}");
        }
        rig.one(set(Limits { sql_steps: steps, ..Limits::default() })).unwrap();
        let paths = |path: &str| {
            (0..31).map(|i| format!("'{path}'").replace('#', &i.to_string())).collect::<Vec<_>>().join(",")
        };
        let sums = vec!["x"; 200].join("+");
        let l = |select: &str| {
            format!(
                "WITH RECURSIVE l(x, y) AS MATERIALIZED ({select}), n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            )
        };
        let long = l("SELECT substr(x, 1, 400000), substr(x, 1, 400000) FROM c WHERE id = 1");
        let text = l("SELECT x, 1 FROM tx WHERE id = 1");
        let json = l("SELECT x, 1 FROM tx WHERE id = 2");
        let small = l("SELECT '[' || replace(hex(zeroblob(4050)), '00', '1,') || '1]', 1");
        let digits = l("SELECT hex(zeroblob(4075)), 1");
        let from = "FROM n CROSS JOIN l";
        for (name, sql) in [
            ("plain loop", format!("{n} SELECT max(i) FROM n")),
            ("concat", format!("{long} SELECT max(octet_length(x || i)) {from}")),
            (
                "concat many",
                format!(
                    "{long} SELECT max(octet_length(x || i)+octet_length(x||-i)+octet_length(x||i)+octet_length(i||x)) {from}"
                ),
            ),
            ("compare", format!("{long} SELECT count(*) {from} WHERE x = y")),
            ("read long", format!("{n} SELECT max(octet_length(x || '')) FROM n CROSS JOIN c")),
            ("read behind", format!("{n} SELECT sum(y) FROM n CROSS JOIN c")),
            (
                "seek keys",
                format!("{n} SELECT count(*) FROM n WHERE EXISTS (SELECT 1 FROM keys WHERE k = zeroblob(8000) || i)"),
            ),
            ("seek rows", format!("{n} SELECT count(*) FROM n WHERE EXISTS (SELECT 1 FROM wr WHERE k = i % 500)")),
            ("length", format!("{text} SELECT max(length(x)+length(x)+length(x)+length(x)+length(x)) {from}")),
            ("small length", format!("{digits} SELECT max(length(x)+length(x)+length(x)+length(x)+length(x)) {from}")),
            ("cast", format!("{text} SELECT max(CAST(x AS REAL)) {from}")),
            ("sums", format!("{text} SELECT max({sums}) {from}")),
            ("small sums", format!("{digits} SELECT max({sums}) {from}")),
            ("small upper", format!("{digits} SELECT max(upper(x)||upper(x)||upper(x)) {from}")),
            ("small quote", format!("{digits} SELECT max(octet_length(quote(x))) {from}")),
            ("small soundex", format!("{digits} SELECT max(soundex(x)) {from}")),
            (
                "small printf",
                format!("{digits} SELECT max(octet_length(printf('%.*c', 16000, 'x'))) {from} WHERE i = i"),
            ),
            ("small json()", format!("{small} SELECT max(octet_length(json(x))) {from}")),
            ("json()", format!("{json} SELECT max(octet_length(json(x))) {from}")),
            (
                "json_remove begin",
                format!("{small} SELECT max(octet_length(json_remove(x, {}))) {from}", paths("$[#]")),
            ),
            (
                "json_remove end",
                format!("{small} SELECT max(octet_length(json_remove(x, {}))) {from}", paths("$[80#]")),
            ),
            (
                "json_extract end",
                format!("{small} SELECT max(octet_length(json_extract(x, {}))) {from}", paths("$[80#]")),
            ),
            (
                "json_set end",
                format!(
                    "{small} SELECT max(octet_length(json_set(x, {}))) {from}",
                    (0..15).map(|i| format!("'$[809{i}]', '{i}'")).collect::<Vec<_>>().join(",")
                ),
            ),
            ("json_each small", format!("{small} SELECT count(*) {from} WHERE EXISTS (SELECT 1 FROM json_each(x))")),
            ("json_each", format!("{json} SELECT count(*) {from} WHERE EXISTS (SELECT 1 FROM json_each(x))")),
            (
                "json_tree small",
                format!("{small} SELECT count(*) {from} WHERE EXISTS (SELECT 1 FROM json_tree(x) WHERE fullkey = '')"),
            ),
            (
                "group_concat",
                format!(
                    "{digits} SELECT max(octet_length(g)) FROM (SELECT group_concat(i) OVER (ROWS BETWEEN 1000 PRECEDING AND CURRENT ROW) AS g {from})"
                ),
            ),
        ] {
            let begun = Instant::now();
            let outcome = rig.one(call("q", &sql));
            let took = begun.elapsed();
            let why = match &outcome {
                Err(r) => r.message.chars().take(60).collect::<String>(),
                Ok(_) => "OK".into(),
            };
            println!(
                "{bytes:>8} {name:<18} {:>9.3} us/step {:>8.2} s at 10M   {why}",
                took.as_secs_f64() * 1e6 / steps as f64,
                took.as_secs_f64() * 1e7 / steps as f64
            );
        }
    }
}
