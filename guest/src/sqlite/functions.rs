//! What is different about SQL inside a module: time and chance come from the entry, and what replicas could not agree on is
//! refused. The host's rules are stricter and complete (`wit/machine.wit`); these are the ones an author runs into.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use rusqlite::{
    Connection, Error, Result,
    functions::{Context as Call, FunctionFlags},
    hooks::{AuthAction, AuthContext, Authorization},
    types::{ToSqlOutput, Value, ValueRef},
};

use crate::{Context, Random};

/// Refused by name: the history of a connection. (SQLite's mathematical functions are not compiled in, here or on the host.)
const REFUSED: &[&str] = &["changes", "last_insert_rowid", "load_extension", "total_changes"];

/// Functions of SQLite that ask the clock: the name, the one that computes it, arguments before the first time value, and
/// time values (what follows them is modifiers).
const DATES: &[(&str, &str, usize, usize)] = &[
    ("current_date", "date", 0, 1),
    ("current_time", "time", 0, 1),
    ("current_timestamp", "datetime", 0, 1),
    ("date", "date", 0, 1),
    ("datetime", "datetime", 0, 1),
    ("julianday", "julianday", 0, 1),
    ("strftime", "strftime", 1, 1),
    ("time", "time", 0, 1),
    ("timediff", "timediff", 0, 2),
    ("unixepoch", "unixepoch", 0, 1),
];

/// What a connection's functions answer from, and whether it is the module that speaks.
pub(super) struct Rules {
    guest: AtomicBool,
    entry: Mutex<Entry>,
}

struct Entry {
    time_us: u64,
    random: Random,
}

impl Rules {
    /// Puts the rules in force on a new connection.
    pub(super) fn install(connection: &mut Connection) -> Result<Arc<Self>> {
        let context = Context { index: 0, time_us: 0, entropy: (0, 0) };
        let entry = Mutex::new(Entry { time_us: 0, random: Random::new(&context, u64::MAX) });
        let rules = Arc::new(Self { guest: AtomicBool::new(true), entry });

        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        let shared = Arc::clone(&rules);
        connection.create_scalar_function("random", 0, flags, move |_| -> Result<i64> {
            // As SQLite's own, never the one number that has no absolute value.
            Ok((shared.entry().random.draw() as i64).max(-i64::MAX))
        })?;
        let shared = Arc::clone(&rules);
        connection.create_scalar_function("randomblob", 1, flags, move |call| -> Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(call.get::<i64>(0)?).unwrap_or(1).clamp(1, 1 << 20)];
            shared.entry().random.fill(&mut bytes);
            Ok(bytes)
        })?;
        for &(name, original, before, times) in DATES {
            let shared = Arc::clone(&rules);
            // The original is out of reach once it is replaced, so another connection computes it.
            let calendar = Connection::open_in_memory()?;
            connection.create_scalar_function(name, -1, flags, move |call| {
                let time_us = shared.entry().time_us;
                date(&calendar, original, before, times, time_us, call)
            })?;
        }

        let shared = Arc::clone(&rules);
        connection.authorizer(Some(move |asked: AuthContext<'_>| {
            if shared.guest.load(Relaxed) && is_refused(&asked.action) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }))?;
        Ok(rules)
    }

    /// The entry that functions answer from now on.
    pub(super) fn begin(&self, context: &Context) {
        let mut entry = self.entry();
        entry.time_us = context.time_us;
        // A sequence that no `Command::random` has.
        entry.random = Random::new(context, u64::MAX);
    }

    /// Runs what the host does itself, which no rule holds for.
    pub(super) fn as_host<T>(&self, run: impl FnOnce() -> T) -> T {
        let before = self.guest.swap(false, Relaxed);
        let outcome = run();
        self.guest.store(before, Relaxed);
        outcome
    }

    fn entry(&self) -> std::sync::MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_refused(action: &AuthAction<'_>) -> bool {
    match action {
        AuthAction::Function { function_name } => REFUSED.iter().any(|name| name.eq_ignore_ascii_case(function_name)),
        // ALTER TABLE … ADD COLUMN asks for this one itself, on STRICT tables and for CHECK.
        AuthAction::Pragma { pragma_name, .. } => !pragma_name.eq_ignore_ascii_case("quick_check"),
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Analyze { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::CreateVtable { .. }
        | AuthAction::DropVtable { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. } => true,
        _ => false,
    }
}

/// Computes a date or time with the entry's time wherever the original would ask the clock.
fn date(
    calendar: &Connection,
    original: &str,
    before: usize,
    times: usize,
    time_us: u64,
    call: &Call<'_>,
) -> Result<Value> {
    let now = ValueRef::Real((time_us / 1_000) as f64 / 86_400_000.0 + UNIX_EPOCH_JULIAN_DAY);
    let mut arguments: Vec<ValueRef<'_>> = (0..call.len()).map(|number| call.get_raw(number)).collect();
    if arguments.len() == before {
        arguments.push(now);
    }
    for (number, argument) in arguments.iter_mut().enumerate().skip(before) {
        let word = argument.as_str().unwrap_or_default();
        if number < before + times {
            if word.eq_ignore_ascii_case("now") {
                *argument = now;
            }
        } else if word.eq_ignore_ascii_case("localtime") || word.eq_ignore_ascii_case("utc") {
            let why = format!("the modifier '{word}' of {original}() depends on the host's time zone");
            return Err(Error::UserFunctionError(why.into()));
        }
    }
    let places = vec!["?"; arguments.len()].join(",");
    let mut statement = calendar.prepare_cached(&format!("SELECT {original}({places})"))?;
    for (number, argument) in arguments.into_iter().enumerate() {
        statement.raw_bind_parameter(number + 1, ToSqlOutput::Borrowed(argument))?;
    }
    let mut rows = statement.raw_query();
    rows.next()?.ok_or(Error::QueryReturnedNoRows)?.get(0)
}

/// SQLite reads a bare number as a Julian day; this one is 1970-01-01 00:00.
const UNIX_EPOCH_JULIAN_DAY: f64 = 2_440_587.5;
