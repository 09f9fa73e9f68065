//! The functions a module's SQL may call: which they are, where each gets its answer from, and why the others are refused.
//! `docs/sql.md` says the same for people; a test holds it to these tables.
//!
//! | list | who answers |
//! |---|---|
//! | [`PLAIN`] | SQLite: the result depends on the arguments alone, and the work on their size, which the statement's reach bounds |
//! | [`METERED`] | this crate, as SQLite would: work that could grow faster than the arguments counts against the step budget |
//! | [`FROM_ENTRY`] | this crate: what SQLite takes from the host (clock, random source) comes from the log entry |
//! | [`REFUSED`] | nobody: replicas could differ, or the host could be harmed |
//!
//! What SQLite has registered and no list names is refused too, so that a newer SQLite offers nothing by accident.
//!
//! All replacements are registered as innocuous, so that schema texts (DEFAULT, views, triggers) may use them. Those of
//! [`FROM_ENTRY`] are not deterministic in SQLite's sense, so SQLite keeps them out of indexes and generated columns, which
//! are computed again when there is no entry. CHECK constraints may use them: nothing but the statement that writes a row
//! asks for them (the check of the whole file, when it is opened, leaves them out).

mod entry;
mod json;
mod meter;
mod pattern;
mod text;

use std::{collections::BTreeSet, sync::Arc};

use rusqlite::{
    Connection, Error as SqlError,
    functions::FunctionFlags,
    types::{ToSql, ToSqlOutput, ValueRef},
};

pub(crate) use self::{
    entry::EntrySource,
    meter::{Meter, STEPS_PER_TICK},
};
use crate::policy::Policy;

/// Answered by SQLite itself.
pub(crate) const PLAIN: &[&str] = &[
    "->",
    "->>",
    "abs",
    "avg",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "cume_dist",
    "dense_rank",
    "first_value",
    "format",
    "group_concat",
    "hex",
    "if",
    "ifnull",
    "iif",
    "json",
    "json_array",
    "json_array_length",
    "json_error_position",
    "json_object",
    "json_quote",
    "json_type",
    "json_valid",
    "jsonb",
    "jsonb_array",
    "jsonb_object",
    "lag",
    "last_value",
    "lead",
    "length",
    "likelihood",
    "likely",
    "lower",
    "max",
    "min",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "percent_rank",
    "printf",
    "quote",
    "rank",
    "round",
    "row_number",
    "sign",
    "soundex",
    "string_agg",
    "substr",
    "substring",
    "sum",
    "total",
    "typeof",
    "unicode",
    "unistr",
    "unistr_quote",
    "unlikely",
    "upper",
    "zeroblob",
];

/// Answered here as SQLite would answer; the JSON functions with paths where there are several.
pub(crate) const METERED: &[&str] = &[
    "glob",
    "instr",
    "json_array_insert",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_insert",
    "json_patch",
    "json_remove",
    "json_replace",
    "json_set",
    "jsonb_array_insert",
    "jsonb_extract",
    "jsonb_group_array",
    "jsonb_group_object",
    "jsonb_insert",
    "jsonb_patch",
    "jsonb_remove",
    "jsonb_replace",
    "jsonb_set",
    "like",
    "ltrim",
    "replace",
    "rtrim",
    "trim",
    "unhex",
];

/// Answered from the entry.
pub(crate) const FROM_ENTRY: &[&str] = &[
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "julianday",
    "random",
    "randomblob",
    "strftime",
    "time",
    "timediff",
    "unixepoch",
];

/// Refused by name, with what to do instead.
pub(crate) const REFUSED: &[(&[&str], &str)] = &[
    (&["changes"], "use the count that `execute` returns, or RETURNING"),
    (&["total_changes"], "add up the counts that `execute` returns"),
    (&["last_insert_rowid"], "use INSERT … RETURNING with `query`"),
    (
        &[
            "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "ceiling", "cos", "cosh", "degrees",
            "exp", "floor", "ln", "log", "log10", "log2", "mod", "pi", "pow", "power", "radians", "sin", "sinh",
            "sqrt", "tan", "tanh", "trunc",
        ],
        "it comes from the C library, which is not the same on every host; compute it in the module",
    ),
    (&["json_pretty"], "its answer can be a thousand times as long as its argument; lay JSON out in the module"),
    (&["sqlite_version", "sqlite_source_id"], "hosts may have different versions of SQLite"),
    (
        &[
            "sqlite_compileoption_get",
            "sqlite_compileoption_used",
            "sqlite_log",
            "sqlite_offset",
            "load_extension",
            "subtype",
        ],
        "it concerns the host, not the data",
    ),
    (
        &[
            "bm25",
            "fts3_tokenizer",
            "fts5",
            "fts5_get_locale",
            "fts5_insttoken",
            "fts5_locale",
            "fts5_source_id",
            "highlight",
            "match",
            "matchinfo",
            "offsets",
            "optimize",
            "regexp",
            "rtreecheck",
            "rtreedepth",
            "rtreenode",
            "snippet",
        ],
        "virtual tables are not available to a module",
    ),
];

pub(crate) fn is_allowed(name: &str) -> bool {
    // The internal functions of ALTER TABLE; a guest cannot name them (the policy's text layer).
    name.get(..7).is_some_and(|head| head.eq_ignore_ascii_case("sqlite_"))
        || [PLAIN, METERED, FROM_ENTRY].iter().any(|list| list.iter().any(|known| known.eq_ignore_ascii_case(name)))
}

/// Why a function that is not offered is refused, and what to use.
pub(crate) fn refusal(name: &str) -> String {
    let known = REFUSED.iter().find(|(names, _)| names.iter().any(|n| n.eq_ignore_ascii_case(name)));
    match known {
        Some((_, instead)) => format!("the function {name}() is not available to a module: {instead}"),
        None => format!("the function {name}() is not available to a module"),
    }
}

/// The refusal in the place of SQLite's own message that there is no such function, where it is one of [`REFUSED`] that this
/// build of SQLite does not have.
pub(crate) fn refusal_of_missing(message: &str) -> Option<String> {
    let (_, name) = message.split_once("no such function: ")?;
    REFUSED.iter().any(|(names, _)| names.iter().any(|n| n.eq_ignore_ascii_case(name))).then(|| refusal(name))
}

/// What a replacement answers. Text may be anything that SQLite takes for text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Null,
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
    /// The argument at this place, as it is.
    Argument(usize),
}

impl ToSql for Answer {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Answer::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Answer::Integer(i) => ToSqlOutput::Borrowed(ValueRef::Integer(*i)),
            Answer::Real(r) => ToSqlOutput::Borrowed(ValueRef::Real(*r)),
            Answer::Text(t) => ToSqlOutput::Borrowed(ValueRef::Text(t)),
            Answer::Blob(b) => ToSqlOutput::Borrowed(ValueRef::Blob(b)),
            Answer::Argument(i) => ToSqlOutput::Arg(*i),
        })
    }
}

impl From<ValueRef<'_>> for Answer {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Answer::Null,
            ValueRef::Integer(i) => Answer::Integer(i),
            ValueRef::Real(r) => Answer::Real(r),
            ValueRef::Text(t) => Answer::Text(t.to_vec()),
            ValueRef::Blob(b) => Answer::Blob(b.to_vec()),
        }
    }
}

/// An error of SQLite's own, with SQLite's own text.
fn sqlite_error(code: i32) -> SqlError {
    SqlError::SqliteFailure(rusqlite::ffi::Error::new(code), None)
}

/// SQLite's answer to a value over the limit.
fn too_big() -> SqlError {
    sqlite_error(rusqlite::ffi::SQLITE_TOOBIG)
}

fn refuse(policy: &Policy, why: String) -> SqlError {
    policy.refuse(why.clone());
    SqlError::UserFunctionError(why.into())
}

/// Replaces what must not be SQLite's own.
pub(crate) fn install(conn: &Connection, policy: &Arc<Policy>) -> rusqlite::Result<()> {
    let registered: BTreeSet<(String, i32)> = {
        let mut statement = conn.prepare("SELECT DISTINCT lower(name), narg FROM pragma_function_list")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i32>(1)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    for (name, arguments) in registered {
        // Below -1 SQLite means "at least so many"; -1, any number, covers it.
        let arguments = arguments.max(-1);
        if FROM_ENTRY.contains(&name.as_str()) {
            entry::register(conn, policy, &name, arguments)?;
        } else if METERED.contains(&name.as_str()) && (name.starts_with("json") || name == "unhex") {
            json::register(conn, policy, &name, arguments)?;
        } else if METERED.contains(&name.as_str()) {
            text::register(conn, policy, &name, arguments)?;
        } else if !PLAIN.contains(&name.as_str()) {
            register_refused(conn, policy, name, arguments)?;
        }
    }
    Ok(())
}

fn register_refused(conn: &Connection, policy: &Arc<Policy>, name: String, arguments: i32) -> rusqlite::Result<()> {
    let (p, called) = (Arc::clone(policy), name.clone());
    conn.create_scalar_function(
        name.as_str(),
        arguments,
        FunctionFlags::SQLITE_UTF8,
        move |_| -> rusqlite::Result<bool> { Err(refuse(&p, refusal(&called))) },
    )
}

#[cfg(test)]
mod tests;
