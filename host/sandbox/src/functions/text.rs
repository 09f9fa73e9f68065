//! Text functions that SQLite computes in time that grows with the product of their arguments, all in one VM step:
//! searching a megabyte for half a megabyte takes it seconds. Here they answer the same, and their work counts.

use std::{borrow::Cow, sync::Arc};

use memchr::memmem;
use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
    types::ValueRef,
};

use super::{
    Answer,
    pattern::{Pattern, next, until_nul},
    too_big,
};
use crate::policy::Policy;

/// Bytes that are searched or copied for one step.
const BYTES_PER_STEP: u64 = 256;

/// Comparisons of single characters for one step.
const COMPARISONS_PER_STEP: u64 = 32;

/// Places that `replace` finds, for one step.
const FOUND_PER_STEP: u64 = 2;

/// SQLite's own bound on the bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 50_000;

pub(super) fn register(conn: &Connection, policy: &Arc<Policy>, name: &str, arguments: i32) -> rusqlite::Result<()> {
    let policy = Arc::clone(policy);
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS | FunctionFlags::SQLITE_DETERMINISTIC;
    match name {
        "instr" => conn.create_scalar_function(name, arguments, flags, move |ctx| instr(&policy, ctx)),
        "replace" => conn.create_scalar_function(name, arguments, flags, move |ctx| replace(&policy, ctx)),
        "like" => conn.create_scalar_function(name, arguments, flags, move |ctx| like(&policy, ctx)),
        "glob" => conn.create_scalar_function(name, arguments, flags, move |ctx| glob(&policy, ctx)),
        _ => {
            let (left, right) = (name != "rtrim", name != "ltrim");
            conn.create_scalar_function(name, arguments, flags, move |ctx| trim(&policy, ctx, left, right))
        }
    }
}

/// An argument as text, none for NULL.
pub(super) fn text<'a>(policy: &Policy, value: ValueRef<'a>) -> rusqlite::Result<Option<Cow<'a, [u8]>>> {
    Ok(Some(match value {
        ValueRef::Null => return Ok(None),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Cow::Borrowed(bytes),
        ValueRef::Integer(i) => Cow::Owned(i.to_string().into_bytes()),
        // In SQLite's own digits.
        real => match policy.entry.compute("SELECT CAST(?1 AS TEXT)", &[real])? {
            Answer::Text(bytes) => Cow::Owned(bytes),
            _ => return Ok(None),
        },
    }))
}

fn charge_bytes(policy: &Policy, bytes: usize) -> rusqlite::Result<()> {
    policy.meter.charge(bytes as u64 / BYTES_PER_STEP)
}

fn charge_comparisons(policy: &Policy, comparisons: u64) -> rusqlite::Result<()> {
    policy.meter.charge(comparisons / COMPARISONS_PER_STEP)
}

fn instr(policy: &Policy, ctx: &Context<'_>) -> rusqlite::Result<Answer> {
    let (hay, needle) = (ctx.get_raw(0), ctx.get_raw(1));
    let as_bytes = matches!((hay, needle), (ValueRef::Blob(_), ValueRef::Blob(_)));
    let (Some(hay), Some(needle)) = (text(policy, hay)?, text(policy, needle)?) else { return Ok(Answer::Null) };
    charge_bytes(policy, hay.len() + needle.len())?;
    let at = match needle.first() {
        // In text a match begins at a character, which this is not, or at the very beginning.
        Some(first) if !as_bytes && is_continuation(*first) => hay.starts_with(&needle).then_some(0),
        _ => memmem::find(&hay, &needle),
    };
    let place = match at {
        None => 0,
        Some(at) if as_bytes => at + 1,
        Some(at) => 1 + hay.iter().skip(1).take(at).filter(|byte| !is_continuation(**byte)).count(),
    };
    Ok(Answer::Integer(i64::try_from(place).unwrap_or(i64::MAX)))
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

fn replace(policy: &Policy, ctx: &Context<'_>) -> rusqlite::Result<Answer> {
    let Some(subject) = text(policy, ctx.get_raw(0))? else { return Ok(Answer::Null) };
    let Some(pattern) = text(policy, ctx.get_raw(1))? else { return Ok(Answer::Null) };
    charge_bytes(policy, subject.len() + pattern.len())?;
    if pattern.first().is_none_or(|first| *first == 0) {
        return Ok(Answer::Text(subject.into_owned()));
    }
    let Some(by) = text(policy, ctx.get_raw(2))? else { return Ok(Answer::Null) };
    let finder = memmem::Finder::new(&*pattern);
    let found = finder.find_iter(&subject).count();
    // Cannot underflow: what is found does not overlap.
    let size = (subject.len() - found * pattern.len()) as u64 + found as u64 * by.len() as u64;
    if size > policy.meter.value_bytes() {
        return Err(too_big());
    }
    policy.meter.charge(size / BYTES_PER_STEP + found as u64 / FOUND_PER_STEP)?;
    let mut out = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    let mut from = 0;
    for at in finder.find_iter(&subject) {
        out.extend_from_slice(subject.get(from..at).unwrap_or_default());
        out.extend_from_slice(&by);
        from = at + pattern.len();
    }
    out.extend_from_slice(subject.get(from..).unwrap_or_default());
    Ok(Answer::Text(out))
}

fn trim(policy: &Policy, ctx: &Context<'_>, left: bool, right: bool) -> rusqlite::Result<Answer> {
    let value = ctx.get_raw(0);
    let Some(subject) = text(policy, value)? else { return Ok(Answer::Null) };
    let set: Cow<'_, [u8]> = match ctx.len() {
        0 | 1 => Cow::Borrowed(b" "),
        _ => match text(policy, ctx.get_raw(1))? {
            Some(set) => set,
            None => return Ok(Answer::Null),
        },
    };
    let mut characters = Vec::new();
    let mut rest = until_nul(&set);
    charge_comparisons(policy, rest.len() as u64)?;
    while !rest.is_empty() {
        let all = rest;
        next(&mut rest);
        characters.extend(all.get(..all.len() - rest.len()));
    }
    charge_bytes(policy, subject.len())?;
    let mut trimmed: &[u8] = &subject;
    // Charged as they are made: as many as the set has characters, for each character that goes.
    let one_search = characters.len() as u64;
    let mut comparisons = 0;
    let mut search = || {
        comparisons += one_search;
        let due = comparisons / COMPARISONS_PER_STEP;
        comparisons %= COMPARISONS_PER_STEP;
        policy.meter.charge(due)
    };
    while left && !trimmed.is_empty() {
        search()?;
        match characters.iter().find_map(|c| trimmed.strip_prefix(*c)) {
            Some(rest) => trimmed = rest,
            None => break,
        }
    }
    while right && !trimmed.is_empty() {
        search()?;
        match characters.iter().find_map(|c| trimmed.strip_suffix(*c)) {
            Some(rest) => trimmed = rest,
            None => break,
        }
    }
    if matches!(value, ValueRef::Text(_)) && trimmed.len() == subject.len() {
        return Ok(Answer::Argument(0));
    }
    Ok(Answer::Text(trimmed.to_vec()))
}

fn like(policy: &Policy, ctx: &Context<'_>) -> rusqlite::Result<Answer> {
    matched(policy, ctx, Pattern::like)
}

fn glob(policy: &Policy, ctx: &Context<'_>) -> rusqlite::Result<Answer> {
    matched(policy, ctx, |pattern, _| Pattern::glob(pattern))
}

fn matched(
    policy: &Policy,
    ctx: &Context<'_>,
    compile: impl FnOnce(&[u8], Option<u32>) -> Pattern,
) -> rusqlite::Result<Answer> {
    let pattern = text(policy, ctx.get_raw(0))?;
    if pattern.as_ref().is_some_and(|pattern| pattern.len() > PATTERN_BYTES_MAX) {
        return Err(rusqlite::Error::UserFunctionError("LIKE or GLOB pattern too complex".into()));
    }
    let mut escape = None;
    if ctx.len() > 2 {
        let Some(given) = text(policy, ctx.get_raw(2))? else { return Ok(Answer::Null) };
        let mut rest = until_nul(&given);
        escape = next(&mut rest);
        if escape.is_none() || !rest.is_empty() {
            let why = "ESCAPE expression must be a single character";
            return Err(rusqlite::Error::UserFunctionError(why.into()));
        }
    }
    let Some(pattern) = pattern else { return Ok(Answer::Null) };
    let Some(subject) = text(policy, ctx.get_raw(1))? else { return Ok(Answer::Null) };
    // The same whether the pattern is compiled now or was before.
    charge_comparisons(policy, pattern.len() as u64)?;
    charge_bytes(policy, subject.len())?;
    let pattern = match escape {
        // Kept where the pattern stays the same from row to row.
        None => ctx.get_or_create_aux(0, |_| Ok::<_, rusqlite::Error>(compile(&pattern, None)))?,
        escape => Arc::new(compile(&pattern, escape)),
    };
    let matched = pattern.matches(&subject, |comparisons| charge_comparisons(policy, comparisons))?;
    Ok(Answer::Integer(i64::from(matched)))
}
