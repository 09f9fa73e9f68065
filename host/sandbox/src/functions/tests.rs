//! The replacements against the originals.

use proptest::prelude::*;
use rusqlite::types::Value;

use super::*;
use crate::policy;

/// A connection with the replacements, and one without.
struct Pair {
    ours: Connection,
    original: Connection,
}

impl Pair {
    fn new() -> Pair {
        let mut ours = Connection::open_in_memory().unwrap();
        let policy = policy::install(&mut ours).unwrap();
        policy.meter.begin(i64::MAX, 1_000_000);
        policy.entry.begin(TIME_US, (1, 2));
        Pair { ours, original: Connection::open_in_memory().unwrap() }
    }

    fn both(&self, sql: &str, arguments: &[Value]) -> [Result<Value, String>; 2] {
        [&self.ours, &self.original].map(|conn| {
            let get = || conn.query_row(sql, rusqlite::params_from_iter(arguments), |row| row.get_ref(0).map(bytes));
            get().map_err(|e| e.to_string())
        })
    }

    fn same(&self, sql: &str, arguments: &[Value]) -> Result<(), TestCaseError> {
        let [ours, original] = self.both(sql, arguments);
        prop_assert_eq!(ours, original, "{} {:?}", sql, arguments);
        Ok(())
    }
}

/// 2023-11-14 22:13:20.5
const TIME_US: u64 = 1_700_000_000_500_000;

/// Text as bytes, since it need not be UTF-8.
fn bytes(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Text(text) => Value::Text(text.iter().map(|byte| char::from(*byte)).collect()),
        other => other.try_into().unwrap(),
    }
}

/// Values made of few characters, so that they match each other often; as blobs some that are not UTF-8.
fn value() -> impl Strategy<Value = Value> {
    let few = prop::sample::select(vec![
        "a", "b", "A", "é", "É", "%", "_", "*", "?", "[", "]", "^", "-", "\\", "\u{0}", "€", "'", "\"", "4", "f", " ",
    ]);
    let text = prop::collection::vec(few, 0..12).prop_map(|parts| parts.concat());
    let some_bytes =
        prop::sample::select(vec![b'a', 0xc3, 0xa9, 0x80, 0xff, 0xe2, 0x82, 0xac, 0xf0, 0, b'%', b'*', 0xc0]);
    prop_oneof![
        8 => text.prop_map(Value::Text),
        3 => prop::collection::vec(some_bytes, 0..8).prop_map(Value::Blob),
        1 => Just(Value::Null),
        1 => any::<i64>().prop_map(Value::Integer),
        1 => (-30..30_i64).prop_map(Value::Integer),
        1 => (-1e6..1e6_f64).prop_map(Value::Real),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn text_functions_answer_as_sqlite_does(a in value(), b in value(), c in value()) {
        thread_local!(static PAIR: Pair = Pair::new());
        PAIR.with(|pair| -> Result<(), TestCaseError> {
            // Of a blob that happens to look like JSONB and is none, SQLite makes broken JSONB; ours says so.
            let has_blobs = [&a, &b].iter().any(|value| matches!(value, Value::Blob(_)));
            let [one, two, three] = [vec![a.clone()], vec![a.clone(), b.clone()], vec![a, b, c]];
            for sql in ["SELECT trim(?)", "SELECT ltrim(?)", "SELECT rtrim(?)", "SELECT hex(unhex(?))"] {
                pair.same(sql, &one)?;
            }
            for sql in [
                "SELECT trim(?, ?)", "SELECT ltrim(?, ?)", "SELECT rtrim(?, ?)", "SELECT instr(?, ?)", "SELECT ? LIKE ?",
                "SELECT ? GLOB ?", "SELECT typeof(trim(?, ?))", "SELECT hex(unhex(?, ?))",
            ] {
                pair.same(sql, &two)?;
            }
            for sql in [
                "SELECT json_group_array(column1) FROM (VALUES (?), (?), (1.5), (json('[1]')))",
                "SELECT hex(jsonb_group_array(column1)) FROM (VALUES (?), (?))",
                "SELECT json_group_object(column1, 1) FROM (VALUES (?), (?))",
                "SELECT group_concat(g) FROM (SELECT json_group_array(column1) OVER (ROWS 1 PRECEDING) g FROM (VALUES (?), (?), (3)))",
                "SELECT group_concat(g) FROM (SELECT json_group_object(column1, 2) OVER (ROWS 1 PRECEDING) g FROM (VALUES (?), (?), (NULL)))",
            ] {
                if !has_blobs {
                    pair.same(sql, &two)?;
                }
            }
            for sql in ["SELECT replace(?, ?, ?)", "SELECT ? LIKE ? ESCAPE ?", "SELECT like(?, ?, ?)"] {
                pair.same(sql, &three)?;
            }
            Ok(())
        })?;
    }

    #[test]
    fn json_functions_with_many_paths_answer_as_sqlite_does(
        json in json(), paths in prop::collection::vec(path(), 3), value in value(), more in json(),
    ) {
        thread_local!(static PAIR: Pair = Pair::new());
        PAIR.with(|pair| -> Result<(), TestCaseError> {
            let value = if matches!(value, Value::Blob(_)) { Value::Null } else { value };
            let mut arguments = vec![Value::Text(json), value, Value::Text(more)];
            arguments.extend(paths.into_iter().map(Value::Text));
            for name in ["set", "insert", "replace", "array_insert"] {
                pair.same(&format!("SELECT json_{name}(?1, ?4, ?2, ?5, json(?3)), ?6"), &arguments)?;
                pair.same(&format!("SELECT json_array(json_{name}(?1, ?4, json(?3), ?5, ?2, ?6, json_array(?2)), ?2)"), &arguments)?;
                pair.same(&format!("SELECT hex(jsonb_{name}(?1, ?4, ?2, ?5, jsonb(?3))), ?6"), &arguments)?;
                pair.same(&format!("SELECT json_{name}(?1, ?4, ?2, ?5), ?3, ?6"), &arguments)?;
            }
            for name in ["extract", "remove"] {
                pair.same(&format!("SELECT json_array(json_{name}(?1, ?4, ?5, ?6), ?2), ?3"), &arguments)?;
                pair.same(&format!("SELECT typeof(json_{name}(?1, ?4, ?5, ?6)), ?2, ?3"), &arguments)?;
                pair.same(&format!("SELECT hex(jsonb_{name}(jsonb(?1), ?4, ?5, ?6)), ?2, ?3"), &arguments)?;
            }
            Ok(())
        })?;
    }

    /// SQLite refuses what asks for the time or the zone in a generated column: of what we pass on, nothing does.
    #[test]
    fn dates_are_sqlites_own_and_never_ask_the_host(time in time(), modifiers in prop::collection::vec(modifier(), 0..4)) {
        thread_local!(static PAIR: Pair = Pair::new());
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let list = std::iter::once(&time).chain(&modifiers).map(|text| literal(text)).collect::<Vec<_>>().join(", ");
        PAIR.with(|pair| -> Result<(), TestCaseError> {
            for name in ["date", "time", "datetime", "julianday", "unixepoch", "strftime"] {
                let format = if name == "strftime" { "'%d %e %f %F %G %g %H %I %j %J %k %l %m %M %p %P %R %s %S %T %U %u %V %w %W %Y %%', " } else { "" };
                let call = format!("{name}({format}{list})");
                let ours = pair.ours.query_row(&format!("SELECT {call}"), [], |row| row.get::<_, Value>(0)).unwrap();
                // What the original says where it must not ask; none where it would have to.
                let pure = (|| {
                    pair.original.execute_batch(&format!("DROP TABLE IF EXISTS g; CREATE TABLE g(x, y AS ({call})); INSERT INTO g(x) VALUES (1)"))?;
                    pair.original.query_row("SELECT y FROM g", [], |row| row.get::<_, Value>(0))
                })();
                match pure {
                    Ok(original) => prop_assert_eq!(ours, original, "{}", call),
                    Err(e) => {
                        prop_assert!(e.to_string().contains("non-deterministic"), "{}: {}", call, e);
                        let lower = time.to_lowercase();
                        prop_assert!(["now", "subsec", "subsecond"].contains(&lower.as_str()), "{}: {}", call, e);
                        // The same with the entry's time written out.
                        let written = call.replacen(&literal(&time), "'2023-11-14 22:13:20.500'", 1);
                        let shown = pair.original.query_row(
                            &format!("SELECT {}", if lower == "now" { written } else { format!("{}, 'subsec')", &written[..written.len() - 1]) }),
                            [],
                            |row| row.get::<_, Value>(0),
                        );
                        prop_assert_eq!(ours, shown.unwrap(), "{}", call);
                    }
                }
            }
            Ok(())
        })?;
    }
}

/// JSON, some of it in SQLite's wider sense, some of it broken.
fn json() -> impl Strategy<Value = String> {
    let known = [
        "{\"a\":1,\"b\":[1,2,{\"c\":null}]}",
        "[1, 2.50, 1e3, -0, \"x\\u0041\\n\", true, [], {}]",
        "{a:0x1F, b:+1, 'c':[.5, NaN, Infinity,]}",
        "{\"a\":{\"a\":{\"a\":\"\u{e9}\"}},\"b\":\"it's\"}",
        " [ [ 1 , 2 ] , [ 3 ] ] ",
        "\"a\"",
        "null",
        "7",
        "{",
        "",
        "[1,2",
    ];
    prop::sample::select(known.to_vec()).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    let known = [
        "$", "$.a", "$.b", "$.b[0]", "$.b[2].c", "$[0]", "$[#]", "$[#-1]", "$[4]", "$.a.a.a", "$.c[1]", "$.new", "$[",
        "a", "",
    ];
    prop::sample::select(known.to_vec()).prop_map(str::to_owned)
}

fn time() -> impl Strategy<Value = String> {
    let known = [
        "now",
        "Now",
        "subsec",
        "SUBSECOND",
        "2000-02-29",
        "2023-11-14 22:13:20.5",
        "12:30",
        "2451545",
        "1700000000.25",
        "-1",
        "",
        "now ",
        "2000-01-01T00:00:00+05:30",
        "9999-12-31 23:59:59.999",
        "-4713-11-24",
        "nonsense",
        "1e10",
    ];
    prop::sample::select(known.to_vec()).prop_map(str::to_owned)
}

fn modifier() -> impl Strategy<Value = String> {
    let known = [
        "+1 day",
        "-1 month",
        "start of month",
        "start of year",
        "weekday 3",
        "auto",
        "unixepoch",
        "julianday",
        "subsec",
        "subsecond",
        "floor",
        "ceiling",
        "+01:30",
        "-0001-02-03",
        "+1.5 hours",
        "now",
        "end of month",
        "x",
        "",
    ];
    prop::sample::select(known.to_vec()).prop_map(str::to_owned)
}

#[test]
fn every_function_of_this_sqlite_is_on_one_list() {
    let conn = Connection::open_in_memory().unwrap();
    let mut statement = conn.prepare("SELECT DISTINCT lower(name) FROM pragma_function_list ORDER BY 1").unwrap();
    let names: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let refused: Vec<&str> = REFUSED.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    let lists = [PLAIN, METERED, FROM_ENTRY, &refused];
    let mut missing = Vec::new();
    for name in &names {
        match lists.iter().map(|list| list.iter().filter(|known| *known == name).count()).sum::<usize>() {
            0 => missing.push(name),
            1 => {}
            _ => panic!("{name} is listed twice"),
        }
    }
    assert!(missing.is_empty(), "say of these whether a module may call them: {missing:?}");
    for name in PLAIN.iter().chain(METERED).chain(FROM_ENTRY) {
        assert!(names.iter().any(|known| known == name), "{name} is offered and does not exist");
    }
}

/// `docs/sql.md` says of each function what it answers, or why it is refused.
#[test]
fn the_documentation_names_every_function_in_its_section() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sql.md");
    let text = std::fs::read_to_string(path).expect("docs/sql.md");
    let section = |heading: &str| {
        let from = text.split_once(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no section {heading}")).1;
        let section = from.split("\n#").next().unwrap_or_default();
        let mut names: Vec<&str> = section
            .split('`')
            .skip(1)
            .step_by(2)
            .filter_map(|code| code.split_once('(').map(|(name, _)| name))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let sorted = |list: &[&'static str]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    let refused: Vec<&str> = REFUSED.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    for (heading, list) in [
        ("As SQLite", PLAIN),
        ("As SQLite, charged", METERED),
        ("From the entry", FROM_ENTRY),
        ("Refused functions", &refused),
    ] {
        assert_eq!(section(heading), sorted(list), "section {heading} and the list differ");
    }
}
