//! What the methods do.

use telegraft_guest::{Command, Failure, Page, Query, page_limit, params};

use crate::{
    Kv,
    proto::{
        self, CompareAndSetRequest, DeleteReply, DeleteRequest, GetReply, GetRequest, KeyValue, PutReply, PutRequest,
        ScanReply, ScanRequest,
    },
};

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 65_536;
/// A page of a scan ends before its values go beyond this many bytes (it always has one pair): 1,000 of the longest
/// values would be 64 MiB.
pub const PAGE_BYTES: u64 = 1 << 20;

pub const SIZES_IN_RANGE: &str =
    "SELECT key, length(value) FROM pairs WHERE key > ?1 AND key >= ?2 AND key < ?3 ORDER BY key LIMIT ?4";
pub const PAIRS_IN_RANGE: &str =
    "SELECT key, value, version FROM pairs WHERE key > ?1 AND key >= ?2 AND key <= ?3 ORDER BY key";

telegraft_guest::row! {
    struct Pair {
        key: Vec<u8>,
        value: Vec<u8>,
        version: u64,
    }
}

impl proto::Kv for Kv {
    fn put(cx: &Command<'_>, request: PutRequest) -> Result<PutReply, Failure> {
        check_key(&request.key)?;
        check_value("value", &request.value)?;
        write(cx, &request.key, &request.value)
    }

    fn delete(cx: &Command<'_>, request: DeleteRequest) -> Result<DeleteReply, Failure> {
        check_key(&request.key)?;
        let deleted = cx.execute("DELETE FROM pairs WHERE key = ?1", params![request.key.as_bytes()])?;
        Ok(DeleteReply { existed: deleted > 0 })
    }

    fn compare_and_set(cx: &Command<'_>, request: CompareAndSetRequest) -> Result<PutReply, Failure> {
        check_key(&request.key)?;
        if let Some(expected) = &request.expected {
            check_value("expected", expected)?;
        }
        check_value("value", &request.value)?;
        let key = &request.key;
        let refusal = match (read(cx, key)?, &request.expected) {
            (None, None) => return write(cx, key, &request.value),
            (Some((present, _)), Some(expected)) if present == *expected => return write(cx, key, &request.value),
            (None, Some(_)) => format!("there is no key {key:?}"),
            (Some((_, version)), None) => format!("key {key:?} exists, at version {version}"),
            (Some((_, version)), Some(_)) => format!("key {key:?} has another value, at version {version}"),
        };
        Err(Failure::failed_precondition(refusal))
    }

    fn get(cx: &Query<'_>, request: GetRequest) -> Result<GetReply, Failure> {
        check_key(&request.key)?;
        match read(cx, &request.key)? {
            Some((value, version)) => Ok(GetReply { value, version }),
            None => Err(Failure::not_found(format!("there is no key {:?}", request.key))),
        }
    }

    fn scan(cx: &Query<'_>, request: ScanRequest) -> Result<ScanReply, Failure> {
        let prefix = request.prefix.as_bytes();
        if prefix.len() > KEY_BYTES_MAX {
            return Err(Failure::invalid_argument(format!(
                "prefix has {} bytes: at most {KEY_BYTES_MAX}, as keys have",
                prefix.len()
            )));
        }
        let limit = page_limit(request.limit)?;
        let page = Page::new(&[b"kv.v1.Kv/Scan", prefix]);
        // No key is empty, so all of them come after the empty one.
        let after = page.cursor(&request.page_token)?.unwrap_or_default();

        // The sizes first: they say how many pairs make a page, before a single value has been copied.
        let mut sizes: Vec<(Vec<u8>, u64)> =
            cx.query_as(SIZES_IN_RANGE, params![after, prefix, beyond(prefix), limit + 1])?;
        let found = sizes.len();
        let mut bytes = 0;
        let fitting = sizes.iter().take(limit).take_while(|(key, size)| {
            bytes += key.len() as u64 + size;
            bytes <= PAGE_BYTES
        });
        // One pair is below the bound whatever its size; should the bound ever be lowered, a page still makes progress.
        let kept = fitting.count().max(1);
        sizes.truncate(kept);
        let Some((last, _)) = sizes.last() else {
            return Ok(ScanReply::default());
        };

        let pairs: Vec<Pair> = cx.query_as(PAIRS_IN_RANGE, params![after, prefix, last])?;
        let items = pairs
            .into_iter()
            .map(|Pair { key, value, version }| Ok(KeyValue { key: text(key)?, value, version }))
            .collect::<Result<_, Failure>>()?;
        let next_page_token = if found > sizes.len() { page.token(last) } else { String::new() };
        Ok(ScanReply { items, next_page_token })
    }
}

/// The smallest byte string above all that begin with `prefix`. No byte of UTF-8 is 0xff, so the last one can be raised.
fn beyond(prefix: &[u8]) -> Vec<u8> {
    let mut beyond = prefix.to_vec();
    match beyond.last_mut() {
        Some(last) => *last = last.saturating_add(1),
        None => beyond.push(0xff),
    }
    beyond
}

fn read(cx: &Query<'_>, key: &str) -> Result<Option<(Vec<u8>, u64)>, Failure> {
    cx.query_optional("SELECT value, version FROM pairs WHERE key = ?1", params![key.as_bytes()])
}

fn write(cx: &Command<'_>, key: &str, value: &[u8]) -> Result<PutReply, Failure> {
    cx.execute(
        "INSERT INTO pairs (key, version, value) VALUES (?1, 1, ?2) \
         ON CONFLICT (key) DO UPDATE SET version = version + 1, value = excluded.value",
        params![key.as_bytes(), value],
    )?;
    let (version,) = cx.query_one("SELECT version FROM pairs WHERE key = ?1", params![key.as_bytes()])?;
    Ok(PutReply { version })
}

fn check_key(key: &str) -> Result<(), Failure> {
    match key.len() {
        0 => Err(Failure::invalid_argument(format!("key is empty: it must have 1 to {KEY_BYTES_MAX} bytes"))),
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(Failure::invalid_argument(format!("key has {bytes} bytes: it may have 1 to {KEY_BYTES_MAX}"))),
    }
}

fn check_value(field: &str, value: &[u8]) -> Result<(), Failure> {
    match value.len() {
        0..=VALUE_BYTES_MAX => Ok(()),
        bytes => {
            Err(Failure::invalid_argument(format!("{field} has {bytes} bytes: it may have at most {VALUE_BYTES_MAX}")))
        }
    }
}

fn text(key: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(key).map_err(|_| Failure::internal("a key in the store is not UTF-8"))
}
