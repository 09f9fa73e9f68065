//! JSON functions that SQLite computes without a bound on memory or in more than linear time, and one of hexadecimal digits.
//!
//! The grouping functions collect here, within the bound of a value, as SQLite would write it: SQLite's own collect first
//! and ask afterwards. Functions with several paths charge for each, `json_patch` and `unhex` charge for the product of their arguments and are then computed by the
//! originals on the private connection.

use std::{collections::VecDeque, sync::Arc};

use rusqlite::{
    Connection, Error as SqlError,
    functions::{Aggregate, Context, FunctionFlags, SubType, WindowAggregate},
    types::ValueRef,
};

use super::{Answer, text, too_big};
use crate::{database::FUNCTION_ARGUMENTS_MAX, policy::Policy};

/// Functions that go through their first argument once for each path that follows.
const WITH_PATHS: &[&str] = &[
    "json_array_insert",
    "json_extract",
    "json_insert",
    "json_remove",
    "json_replace",
    "json_set",
    "jsonb_array_insert",
    "jsonb_extract",
    "jsonb_insert",
    "jsonb_remove",
    "jsonb_replace",
    "jsonb_set",
];

/// With fewer arguments SQLite answers them itself.
const CHARGED_ARGUMENTS: std::ops::RangeInclusive<i32> = 4..=FUNCTION_ARGUMENTS_MAX;

/// What SQLite marks text with that is known to be JSON.
const JSON: SubType = Some(b'J' as u32);

/// Bytes that are read or copied for one step.
const BYTES_PER_STEP: u64 = 256;

/// Pairs of bytes, one of each argument, for one step. `json_patch` compares names, `unhex` characters.
const PATCH_PAIRS_PER_STEP: u64 = 2048;
const UNHEX_PAIRS_PER_STEP: u64 = 64;

pub(super) fn register(conn: &Connection, policy: &Arc<Policy>, name: &str, arguments: i32) -> rusqlite::Result<()> {
    let policy = Arc::clone(policy);
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_INNOCUOUS
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_SUBTYPE
        | FunctionFlags::SQLITE_RESULT_SUBTYPE;
    if let Some(name) = WITH_PATHS.iter().find(|known| **known == name) {
        return register_with_paths(conn, &policy, name, flags);
    }
    match name {
        "json_patch" | "jsonb_patch" | "unhex" => {
            let subtype = if name == "json_patch" { JSON } else { None };
            let places = vec!["?"; usize::try_from(arguments).unwrap_or(1)].join(",");
            let sql = format!("SELECT {name}({places})");
            let pairs_per_step = if name == "unhex" { UNHEX_PAIRS_PER_STEP } else { PATCH_PAIRS_PER_STEP };
            conn.create_scalar_function(name, arguments, flags, move |ctx| {
                Ok((computed(&policy, ctx, &sql, pairs_per_step)?, subtype))
            })
        }
        _ => {
            let collection = Collection { policy, pairs: name.ends_with("object"), binary: name.starts_with("jsonb") };
            conn.create_window_function(name, arguments, flags, collection)
        }
    }
}

/// Replaces a function with paths where there are several.
fn register_with_paths(
    conn: &Connection,
    policy: &Arc<Policy>,
    name: &'static str,
    flags: FunctionFlags,
) -> rusqlite::Result<()> {
    let answers = if name.starts_with("jsonb") { None } else { JSON };
    // Paths alone, or each with a value.
    let values = !name.ends_with("extract") && !name.ends_with("remove");
    for arguments in CHARGED_ARGUMENTS {
        let policy = Arc::clone(policy);
        conn.create_scalar_function(name, arguments, flags, move |ctx| {
            let passed: Vec<ValueRef<'_>> = (0..ctx.len()).map(|i| ctx.get_raw(i)).collect();
            let first = passed.first().map_or(0, |json| size(*json));
            let all = passed.iter().map(|value| size(*value)).sum::<u64>();
            policy.meter.charge(1 + (all + first.saturating_mul(passed.len() as u64)) / BYTES_PER_STEP)?;
            // A value that is known to be JSON is to be taken for it there too.
            let is_json = |i: usize| values && i > 0 && i.is_multiple_of(2) && Some(ctx.get_subtype(i)) == JSON;
            let places: Vec<&str> = (0..passed.len()).map(|i| if is_json(i) { "json(?)" } else { "?" }).collect();
            let sql = format!("SELECT {name}({})", places.join(","));
            Ok((policy.entry.compute(&sql, &passed)?, answers))
        })?;
    }
    Ok(())
}

fn size(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
        _ => 1,
    }
}

/// Charges for the product of the arguments' sizes, and asks the original.
fn computed(policy: &Policy, ctx: &Context<'_>, sql: &str, pairs_per_step: u64) -> rusqlite::Result<Answer> {
    let arguments: Vec<ValueRef<'_>> = (0..ctx.len()).map(|i| ctx.get_raw(i)).collect();
    let sizes = arguments.iter().map(|value| size(*value));
    let (sum, product) = sizes.fold((0, 1_u64), |(sum, product), size| (sum + size, product.saturating_mul(size)));
    policy.meter.charge(1 + sum / BYTES_PER_STEP + if arguments.len() > 1 { product / pairs_per_step } else { 0 })?;
    policy.entry.compute(sql, &arguments)
}

/// A grouping function.
struct Collection {
    policy: Arc<Policy>,
    /// Names and values, not values alone.
    pairs: bool,
    binary: bool,
}

/// What a group has so far.
#[derive(Default)]
struct Group {
    /// The members, without what separates them.
    text: Vec<u8>,
    /// Where the first member begins: those before it have left the window.
    start: usize,
    /// Their sizes. A pair without a name has none, and is left out.
    sizes: VecDeque<usize>,
}

impl Collection {
    fn member(&self, ctx: &Context<'_>, out: &mut Vec<u8>) -> rusqlite::Result<()> {
        if !self.pairs {
            return self.value(ctx, 0, out);
        }
        let Some(name) = text::text(&self.policy, ctx.get_raw(0))? else { return Ok(()) };
        self.quoted(super::pattern::until_nul(&name), out)?;
        out.push(b':');
        self.value(ctx, 1, out)
    }

    /// A value as SQLite writes it into JSON.
    fn value(&self, ctx: &Context<'_>, at: usize, out: &mut Vec<u8>) -> rusqlite::Result<()> {
        match ctx.get_raw(at) {
            ValueRef::Null => out.extend_from_slice(b"null"),
            ValueRef::Integer(i) => out.extend_from_slice(i.to_string().as_bytes()),
            ValueRef::Text(json) if Some(ctx.get_subtype(at)) == JSON => out.extend_from_slice(json),
            ValueRef::Text(text) => self.quoted(text, out)?,
            other => self.asked(other, out)?,
        }
        Ok(())
    }

    fn quoted(&self, text: &[u8], out: &mut Vec<u8>) -> rusqlite::Result<()> {
        if text.iter().any(|byte| matches!(byte, 0..=0x1f | b'"' | b'\'' | b'\\' | 0x7f)) {
            return self.asked(ValueRef::Text(text), out);
        }
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        Ok(())
    }

    fn asked(&self, value: ValueRef<'_>, out: &mut Vec<u8>) -> rusqlite::Result<()> {
        match self.policy.entry.compute("SELECT json_quote(?1)", &[value])? {
            Answer::Text(text) => out.extend_from_slice(&text),
            _ => out.extend_from_slice(b"null"),
        }
        Ok(())
    }

    fn answer(&self, group: Option<&Group>) -> rusqlite::Result<(Answer, SubType)> {
        let (open, close) = if self.pairs { (b'{', b'}') } else { (b'[', b']') };
        let mut out = vec![open];
        if let Some(group) = group {
            self.policy.meter.charge((group.text.len() - group.start) as u64 / BYTES_PER_STEP)?;
            let mut from = group.start;
            for size in &group.sizes {
                if *size > 0 {
                    if out.len() > 1 {
                        out.push(b',');
                    }
                    out.extend_from_slice(group.text.get(from..from + size).unwrap_or_default());
                }
                from += size;
            }
        }
        out.push(close);
        if self.binary {
            return Ok((self.policy.entry.compute("SELECT jsonb(?1)", &[ValueRef::Text(&out)])?, None));
        }
        Ok((Answer::Text(out), JSON))
    }
}

impl Aggregate<Group, (Answer, SubType)> for Collection {
    fn init(&self, _ctx: &mut Context<'_>) -> rusqlite::Result<Group> {
        Ok(Group::default())
    }

    fn step(&self, ctx: &mut Context<'_>, group: &mut Group) -> rusqlite::Result<()> {
        let before = group.text.len();
        self.member(ctx, &mut group.text)?;
        let size = group.text.len() - before;
        self.policy.meter.charge(size as u64 / BYTES_PER_STEP)?;
        group.sizes.push_back(size);
        let all = (group.text.len() - group.start + group.sizes.len()) as u64;
        if all > self.policy.meter.value_bytes() { Err(too_big()) } else { Ok(()) }
    }

    fn finalize(&self, _ctx: &mut Context<'_>, group: Option<Group>) -> rusqlite::Result<(Answer, SubType)> {
        self.answer(group.as_ref())
    }
}

impl WindowAggregate<Group, (Answer, SubType)> for Collection {
    fn value(&self, group: Option<&mut Group>) -> rusqlite::Result<(Answer, SubType)> {
        self.answer(group.as_deref())
    }

    fn inverse(&self, _ctx: &mut Context<'_>, group: &mut Group) -> rusqlite::Result<()> {
        group.start += group.sizes.pop_front().unwrap_or_default();
        if group.start > group.text.len() / 2 {
            group.text.drain(..group.start);
            group.start = 0;
        }
        Ok(())
    }
}

/// An error of the private connection as one of the function: the originals' own words, or for what is not the caller's
/// doing (memory, say) the code alone, which says so.
pub(super) fn as_function_error(error: SqlError) -> SqlError {
    match error {
        SqlError::SqliteFailure(e, Some(message)) if e.code == rusqlite::ErrorCode::Unknown => {
            SqlError::UserFunctionError(message.into())
        }
        SqlError::SqliteFailure(e, _) => SqlError::SqliteFailure(e, None),
        other => other,
    }
}
