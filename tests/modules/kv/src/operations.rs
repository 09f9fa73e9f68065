//! What the methods do.

use telegraft_guest::{Failure, Page, Store, page_limit};
use telegraft_proto::kv::{
    CompareAndSetRequest, DeleteReply, DeleteRequest, GetReply, GetRequest, KeyValue, PutReply, PutRequest, ScanReply,
    ScanRequest,
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

/// Writes a value, whatever was there.
///
/// # Errors
///
/// INVALID_ARGUMENT for a key or value of a size that is not allowed.
pub fn put(store: &dyn Store, request: PutRequest) -> Result<PutReply, Failure> {
    check_key(&request.key)?;
    check_value("value", &request.value)?;
    write(store, &request.key, &request.value)
}

/// Removes a key; one that is not there is no error.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad key.
pub fn delete(store: &dyn Store, request: DeleteRequest) -> Result<DeleteReply, Failure> {
    check_key(&request.key)?;
    let deleted = store.execute("DELETE FROM pairs WHERE key = ?1", &[request.key.as_bytes().into()])?;
    Ok(DeleteReply { existed: deleted > 0 })
}

/// Writes a value only where the present one, or its absence, is the expected one.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad size, FAILED_PRECONDITION with the present version where the expectation is wrong.
pub fn compare_and_set(store: &dyn Store, request: CompareAndSetRequest) -> Result<PutReply, Failure> {
    check_key(&request.key)?;
    if let Some(expected) = &request.expected {
        check_value("expected", expected)?;
    }
    check_value("value", &request.value)?;
    let key = &request.key;
    match (read(store, key)?, &request.expected) {
        (None, None) => {}
        (Some((present, _)), Some(expected)) if present == *expected => {}
        (None, Some(_)) => return Err(Failure::failed_precondition(format!("there is no key {key:?}"))),
        (Some((_, version)), None) => {
            return Err(Failure::failed_precondition(format!("key {key:?} exists, at version {version}")));
        }
        (Some((_, version)), Some(_)) => {
            return Err(Failure::failed_precondition(format!("key {key:?} has another value, at version {version}")));
        }
    }
    write(store, key, &request.value)
}

/// Reads a value.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad key, NOT_FOUND for one that is not there.
pub fn get(store: &dyn Store, request: GetRequest) -> Result<GetReply, Failure> {
    check_key(&request.key)?;
    match read(store, &request.key)? {
        Some((value, version)) => Ok(GetReply { value: value.into(), version }),
        None => Err(Failure::not_found(format!("there is no key {:?}", request.key))),
    }
}

/// The pairs whose keys begin with a prefix, in the keys' byte order.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad prefix, limit or token.
pub fn scan(store: &dyn Store, request: ScanRequest) -> Result<ScanReply, Failure> {
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
    let mut sizes: Vec<(Vec<u8>, u64)> = store.all(
        SIZES_IN_RANGE,
        &[after.as_slice().into(), prefix.into(), beyond(prefix).as_slice().into(), (limit + 1).into()],
    )?;
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

    let rows: Vec<(Vec<u8>, bytes::Bytes, u64)> =
        store.all(PAIRS_IN_RANGE, &[after.as_slice().into(), prefix.into(), last.as_slice().into()])?;
    let items = rows.into_iter().map(|(key, value, version)| Ok(KeyValue { key: text(key)?, value, version }));
    let next_page_token = if found > sizes.len() { page.token(last) } else { String::new() };
    Ok(ScanReply { items: items.collect::<Result<_, Failure>>()?, next_page_token })
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

fn read(store: &dyn Store, key: &str) -> Result<Option<(Vec<u8>, u64)>, Failure> {
    store.first("SELECT value, version FROM pairs WHERE key = ?1", &[key.as_bytes().into()])
}

fn write(store: &dyn Store, key: &str, value: &[u8]) -> Result<PutReply, Failure> {
    store.execute(
        "INSERT INTO pairs (key, version, value) VALUES (?1, 1, ?2) \
         ON CONFLICT (key) DO UPDATE SET version = version + 1, value = excluded.value",
        &[key.as_bytes().into(), value.into()],
    )?;
    let version = store.first("SELECT version FROM pairs WHERE key = ?1", &[key.as_bytes().into()])?;
    let Some((version,)) = version else {
        return Err(Failure::internal("the key just written is not there"));
    };
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
