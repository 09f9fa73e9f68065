//! Date, time and random functions, answered from the log entry instead of the host's clock and random source.
//!
//! **Time.** The current time is the entry's, in the milliseconds that SQLite counts in (cut, not rounded; after the year
//! 9999, which SQLite does not know, its last millisecond). The calendar is SQLite's own: a call is computed by the
//! original function on a private connection, with the entry's time put in wherever the original would have asked the
//! clock. These are all the places: no time value at all; a time value `now`; a time value `subsec` or `subsecond`, which
//! means `now` with that modifier. The modifiers `localtime` and `utc` depend on the host's time zone and are refused.
//!
//! **Randomness.** Block *n* of the stream is SHA-256 over `telegraft random`, the entry's entropy (high half, then low)
//! and *n*, each as eight little-endian bytes. `random()` takes the next eight bytes of the stream as a little-endian
//! number, `randomblob(n)` the next *n* bytes. The stream begins anew with each call of a guest: an entry applied again
//! draws the same. A query draws from the newest entry's entropy, as its context does.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{
    Connection, OpenFlags,
    functions::{Context, FunctionFlags},
    types::{ToSqlOutput, ValueRef},
};
use sha2::{Digest as _, Sha256};

use super::{Answer, json::as_function_error, refuse, too_big};
use crate::policy::Policy;

/// 9999-12-31 23:59:59.999, the last millisecond of SQLite's calendar.
const TIME_MS_MAX: u64 = 253_402_300_799_999;

/// Steps that a call of a date or time function costs on top, and bytes of format or result for another one.
const DATE_STEPS: u64 = 2;
const DATE_BYTES_PER_STEP: u64 = 128;

/// Random bytes for one step.
const RANDOM_BYTES_PER_STEP: u64 = 32;

/// More arguments than any use of these functions has; SQLite itself allows a thousand.
const ARGUMENTS_MAX: usize = 64;

/// What the functions answer from. One for each connection.
#[derive(Debug, Default)]
pub(crate) struct EntrySource {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    time_us: u64,
    entropy: (u64, u64),
    /// The entry's time as SQLite reads it, once it was asked for.
    now: Option<String>,
    /// The next block of the random stream, and what is left of the block before it.
    block: u64,
    rest: Vec<u8>,
    /// Computes dates. Made when it is first needed.
    calendar: Option<Connection>,
}

impl EntrySource {
    /// A call of a guest begins.
    pub(crate) fn begin(&self, time_us: u64, entropy: (u64, u64)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.time_us != time_us {
            inner.now = None;
        }
        inner.time_us = time_us;
        inner.entropy = entropy;
        inner.block = 0;
        inner.rest.clear();
    }

    fn fill(&self, out: &mut [u8]) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).fill(out);
    }

    /// Runs `sql`, which gives one value, on the private connection.
    pub(super) fn compute(&self, sql: &str, arguments: &[ValueRef<'_>]) -> rusqlite::Result<Answer> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.compute(sql, arguments).map_err(as_function_error)
    }
}

impl Inner {
    fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.rest.is_empty() {
                let mut hasher = Sha256::new();
                hasher.update(b"telegraft random");
                for number in [self.entropy.0, self.entropy.1, self.block] {
                    hasher.update(number.to_le_bytes());
                }
                self.rest.extend_from_slice(&hasher.finalize());
                self.block += 1;
            }
            let n = self.rest.len().min(out.len());
            let (now, later) = out.split_at_mut(n);
            for (byte, random) in now.iter_mut().zip(self.rest.drain(..n)) {
                *byte = random;
            }
            out = later;
        }
    }

    fn compute(&mut self, sql: &str, arguments: &[ValueRef<'_>]) -> rusqlite::Result<Answer> {
        let conn = match &mut self.calendar {
            Some(conn) => conn,
            none => none.insert(private_connection()?),
        };
        let mut statement = conn.prepare_cached(sql)?;
        for (i, argument) in arguments.iter().enumerate() {
            statement.raw_bind_parameter(i + 1, ToSqlOutput::Borrowed(*argument))?;
        }
        let mut rows = statement.raw_query();
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        row.get_ref(0).map(Answer::from)
    }

    /// The entry's time, in a form that every date and time function reads to the millisecond.
    fn now(&mut self) -> rusqlite::Result<String> {
        if let Some(now) = &self.now {
            return Ok(now.clone());
        }
        let ms = (self.time_us / 1000).min(TIME_MS_MAX);
        let seconds = ms as f64 / 1000.0;
        let sql = "SELECT strftime('%Y-%m-%d %H:%M:%f', ?1, 'unixepoch')";
        let now = match self.compute(sql, &[ValueRef::Real(seconds)])? {
            Answer::Text(text) => String::from_utf8_lossy(&text).into_owned(),
            _ => return Err(rusqlite::Error::QueryReturnedNoRows),
        };
        Ok(self.now.insert(now).clone())
    }
}

fn private_connection() -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_MEMORY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(":memory:", flags)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

pub(super) fn register(conn: &Connection, policy: &Arc<Policy>, name: &str, arguments: i32) -> rusqlite::Result<()> {
    let policy = Arc::clone(policy);
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    match name {
        "random" => conn.create_scalar_function(name, arguments, flags, move |_| -> rusqlite::Result<Answer> {
            policy.meter.charge(1)?;
            let mut bytes = [0; 8];
            policy.entry.fill(&mut bytes);
            // As SQLite's own, never the one number that has no absolute value.
            Ok(Answer::Integer(i64::from_le_bytes(bytes).max(-i64::MAX)))
        }),
        "randomblob" => conn.create_scalar_function(name, arguments, flags, move |ctx| random_blob(&policy, ctx)),
        _ => {
            let function = DateFunction::named(name);
            conn.create_scalar_function(name, arguments, flags, move |ctx| {
                let arguments: Vec<ValueRef<'_>> = (0..ctx.len()).map(|i| ctx.get_raw(i)).collect();
                function.answer(&policy, &arguments)
            })
        }
    }
}

fn random_blob(policy: &Policy, ctx: &Context<'_>) -> rusqlite::Result<Answer> {
    // SQLite's own reading of a number out of any value.
    let wanted = match ctx.get_raw(0) {
        ValueRef::Integer(i) => i,
        other => match policy.entry.compute("SELECT CAST(?1 AS INTEGER)", &[other])? {
            Answer::Integer(i) => i,
            _ => 0,
        },
    };
    let bytes = wanted.max(1).unsigned_abs();
    if bytes > policy.meter.value_bytes() {
        return Err(too_big());
    }
    policy.meter.charge(1 + bytes / RANDOM_BYTES_PER_STEP)?;
    let mut blob = vec![0; usize::try_from(bytes).map_err(|_| too_big())?];
    policy.entry.fill(&mut blob);
    Ok(Answer::Blob(blob))
}

/// A date or time function: the original to compute with, and which of its arguments are what.
#[derive(Clone, Copy, Debug)]
struct DateFunction {
    original: &'static str,
    /// Arguments before the first time value.
    before: usize,
    /// Time values; what follows them is modifiers.
    times: usize,
}

impl DateFunction {
    fn named(name: &str) -> DateFunction {
        let (original, before, times) = match name {
            "current_date" | "date" => ("date", 0, 1),
            "current_time" | "time" => ("time", 0, 1),
            "julianday" => ("julianday", 0, 1),
            "unixepoch" => ("unixepoch", 0, 1),
            "strftime" => ("strftime", 1, 1),
            "timediff" => ("timediff", 0, 2),
            _ => ("datetime", 0, 1),
        };
        DateFunction { original, before, times }
    }

    fn answer(self, policy: &Policy, arguments: &[ValueRef<'_>]) -> rusqlite::Result<Answer> {
        if arguments.len() > ARGUMENTS_MAX {
            let why = format!("{}() takes at most {ARGUMENTS_MAX} arguments here", self.original);
            return Err(rusqlite::Error::UserFunctionError(why.into()));
        }
        let size: u64 = arguments.iter().map(|value| bytes_of(*value).map_or(0, |bytes| bytes.len() as u64)).sum();
        policy.meter.charge(DATE_STEPS + size / DATE_BYTES_PER_STEP)?;
        if arguments.len() < self.before {
            return Ok(Answer::Null);
        }
        let modifiers = arguments.get(self.before + self.times..).unwrap_or_default();
        if let Some(zone) = ["localtime", "utc"].into_iter().find(|zone| modifiers.iter().any(|m| is_word(*m, zone))) {
            let why = format!(
                "the modifier '{zone}' of {}() is not available to a module: it depends on the host's time zone; all \
                 times here are UTC, shift them by '+HH:MM' where you must",
                self.original
            );
            return Err(refuse(policy, why));
        }
        let mut inner = policy.entry.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = inner.now()?;
        let now = ValueRef::Text(now.as_bytes());
        let mut passed: Vec<ValueRef<'_>> = arguments.to_vec();
        let mut subsecond = false;
        if passed.len() == self.before {
            passed.push(now);
        }
        for time in passed.iter_mut().skip(self.before).take(self.times) {
            if is_word(*time, "now") {
                *time = now;
            } else if is_word(*time, "subsec") || is_word(*time, "subsecond") {
                *time = now;
                // It only says how much is shown, so it may stand last. A difference always shows milliseconds.
                subsecond = self.times == 1;
            }
        }
        if subsecond {
            passed.push(ValueRef::Text(b"subsec"));
        }
        let places = vec!["?"; passed.len()].join(",");
        let answer = inner.compute(&format!("SELECT {}({places})", self.original), &passed)?;
        drop(inner);
        if let Answer::Text(text) = &answer {
            policy.meter.charge(text.len() as u64 / DATE_BYTES_PER_STEP)?;
        }
        Ok(answer)
    }
}

fn bytes_of(value: ValueRef<'_>) -> Option<&[u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
        _ => None,
    }
}

/// Whether SQLite, which reads blobs as text and text up to its first NUL, would read this word.
fn is_word(value: ValueRef<'_>, word: &str) -> bool {
    let bytes = bytes_of(value).unwrap_or_default();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.get(..end).is_some_and(|text| text.eq_ignore_ascii_case(word.as_bytes()))
}
