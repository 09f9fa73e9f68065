//! Tries: to see the host's clock. Outcome: each function is refused, or answers with the entry's own time, which is equal on
//! every replica; never with another one.

use guest_hostile::{Attack, Context, Failure, Store, tell};

pub struct Clock;

guest_hostile::module!(crate::Clock);

/// How to ask for the time, and the same from the seconds of the entry's time.
const FUNCTIONS: &[(&str, &str)] = &[
    ("strftime('%s', 'now')", "CAST(?1 AS TEXT)"),
    ("unixepoch()", "?1"),
    ("CAST(unixepoch('now', 'subsec') AS INTEGER)", "?1"),
    ("datetime('now')", "datetime(?1, 'unixepoch')"),
    ("date('now')", "date(?1, 'unixepoch')"),
    ("time('now')", "time(?1, 'unixepoch')"),
    ("datetime()", "datetime(?1, 'unixepoch')"),
    ("CURRENT_TIMESTAMP", "datetime(?1, 'unixepoch')"),
    ("CURRENT_DATE", "date(?1, 'unixepoch')"),
    ("CURRENT_TIME", "time(?1, 'unixepoch')"),
    ("CAST(julianday('now') AS INTEGER)", "CAST(julianday(?1, 'unixepoch') AS INTEGER)"),
    ("timediff('now', '2020-01-01')", "timediff(datetime(?1, 'unixepoch'), '2020-01-01')"),
    // The zone is the host's own: there is no honest answer.
    ("datetime('2020-01-01', 'localtime')", "'none'"),
    ("datetime('2020-01-01', 'utc')", "'none'"),
];

impl Attack for Clock {
    const NAME: &'static str = "clock";

    fn attack(store: &dyn Store, context: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let seconds = i64::try_from(context.time_us / 1_000_000).unwrap_or_default();
        let mut answer = String::new();
        for (asked, honest) in FUNCTIONS {
            let told = tell(store, &format!("SELECT {asked}"), &[]);
            let entrys = tell(store, &format!("SELECT {honest} WHERE ?1"), &[seconds.into()]);
            let verdict = match told.starts_with("done:") {
                false => "refused".to_owned(),
                // The entry's time has a fraction of a second, and this one has none.
                true if told.split('.').next() == entrys.split('.').next() => "entry's".to_owned(),
                true => format!("another: {told}"),
            };
            answer += &format!("{verdict} <= {asked}\n");
        }
        Ok(answer.into())
    }
}
