//! The module as the host sees it, over a SQLite database in memory: every behaviour and every refusal.

use prost::Message;
use telegraft_guest::{Context, Failure, FailureCode, MemoryStore, Module};
use telegraft_proto::kv::*;

use crate::{Kv, operations};

const CONTEXT: Context = Context { index: 9, time_us: 1_700_000_000_000_000, entropy: (1, 2) };

struct Machine(MemoryStore);

impl Machine {
    fn new() -> Self {
        let store = MemoryStore::open().unwrap();
        store.entry(|store| Kv::init(store, &CONTEXT, None)).unwrap();
        Self(store)
    }

    fn apply<Reply: Message + Default>(&self, method: &str, request: &impl Message) -> Result<Reply, Failure> {
        let (method, request) = (format!("kv.v1.Kv/{method}"), request.encode_to_vec());
        let reply = self.0.entry(|store| Kv::apply(store, &CONTEXT, &method, &request))?;
        Ok(Reply::decode(reply.as_slice()).unwrap())
    }

    fn query<Reply: Message + Default>(&self, method: &str, request: &impl Message) -> Result<Reply, Failure> {
        let (method, request) = (format!("kv.v1.Kv/{method}"), request.encode_to_vec());
        let reply = self.0.read(|store| Kv::query(store, &CONTEXT, &method, &request))?;
        Ok(Reply::decode(reply.as_slice()).unwrap())
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<u64, Failure> {
        let request = PutRequest { key: key.into(), value: value.to_vec().into() };
        self.apply::<PutReply>("Put", &request).map(|reply| reply.version)
    }

    fn delete(&self, key: &str) -> Result<bool, Failure> {
        self.apply::<DeleteReply>("Delete", &DeleteRequest { key: key.into() }).map(|reply| reply.existed)
    }

    fn compare_and_set(&self, key: &str, expected: Option<&[u8]>, value: &[u8]) -> Result<u64, Failure> {
        let expected = expected.map(|bytes| bytes.to_vec().into());
        let request = CompareAndSetRequest { key: key.into(), expected, value: value.to_vec().into() };
        self.apply::<PutReply>("CompareAndSet", &request).map(|reply| reply.version)
    }

    fn get(&self, key: &str) -> Result<(Vec<u8>, u64), Failure> {
        let reply: GetReply = self.query("Get", &GetRequest { key: key.into() })?;
        Ok((reply.value.to_vec(), reply.version))
    }

    fn scan(&self, prefix: &str, limit: u32, page_token: &str) -> Result<ScanReply, Failure> {
        self.query("Scan", &ScanRequest { prefix: prefix.into(), limit, page_token: page_token.into() })
    }

    /// The keys of all pages, and the pages' sizes.
    fn keys(&self, prefix: &str, limit: u32) -> (Vec<String>, Vec<usize>) {
        let (mut keys, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
        loop {
            let page = self.scan(prefix, limit, &token).unwrap();
            sizes.push(page.items.len());
            keys.extend(page.items.into_iter().map(|item| item.key));
            token = page.next_page_token;
            if token.is_empty() {
                return (keys, sizes);
            }
        }
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Failure>, code: FailureCode, with: &str) {
    let failure = outcome.unwrap_err();
    assert_eq!(failure.code, code, "{failure:?}");
    assert!(failure.message.contains(with), "{:?} does not say {with:?}", failure.message);
}

#[test]
fn describes_itself_with_its_service() {
    assert_eq!((Kv::NAME, Kv::VERSION, Kv::SCHEMA), ("kv", env!("CARGO_PKG_VERSION"), 1));
    assert!(Kv::SERVICE.windows(13).any(|name| name == b"CompareAndSet"));
}

#[test]
fn init_begins_on_an_empty_store_only() {
    let machine = Machine::new();
    for from in [0, 1, 2] {
        let again = machine.0.entry(|store| Kv::init(store, &CONTEXT, Some(from)));
        refused(again, FailureCode::FailedPrecondition, &format!("schema {from}"));
    }
}

#[test]
fn versions_count_the_writes_of_a_key() {
    let machine = Machine::new();
    assert_eq!(machine.put("a", b"1").unwrap(), 1);
    assert_eq!(machine.put("b", b"").unwrap(), 1);
    assert_eq!(machine.put("a", b"1").unwrap(), 2);
    assert_eq!(machine.compare_and_set("a", Some(b"1"), b"2").unwrap(), 3);
    assert_eq!(machine.get("a").unwrap(), (b"2".to_vec(), 3));
    assert_eq!(machine.get("b").unwrap(), (Vec::new(), 1));
    assert!(machine.delete("a").unwrap());
    assert!(!machine.delete("a").unwrap());
    refused(machine.get("a"), FailureCode::NotFound, "no key \"a\"");
    assert_eq!(machine.put("a", b"3").unwrap(), 1);
}

#[test]
fn compare_and_set_writes_only_what_was_expected() {
    let machine = Machine::new();
    refused(machine.compare_and_set("a", Some(b"1"), b"2"), FailureCode::FailedPrecondition, "no key");
    // An empty value is expected, which is not the same as none.
    refused(machine.compare_and_set("a", Some(b""), b"2"), FailureCode::FailedPrecondition, "no key");
    refused(machine.get("a"), FailureCode::NotFound, "no key");
    assert_eq!(machine.compare_and_set("a", None, b"1").unwrap(), 1);
    refused(machine.compare_and_set("a", None, b"2"), FailureCode::FailedPrecondition, "version 1");
    assert_eq!(machine.put("a", b"2").unwrap(), 2);
    refused(machine.compare_and_set("a", Some(b"1"), b"3"), FailureCode::FailedPrecondition, "version 2");
    assert_eq!(machine.get("a").unwrap(), (b"2".to_vec(), 2));
    assert_eq!(machine.compare_and_set("a", Some(b"2"), b"3").unwrap(), 3);
    assert_eq!(machine.get("a").unwrap(), (b"3".to_vec(), 3));
    assert_eq!(machine.put("empty", b"").unwrap(), 1);
    assert_eq!(machine.compare_and_set("empty", Some(b""), b"x").unwrap(), 2);
}

#[test]
fn keys_and_values_have_sizes() {
    let machine = Machine::new();
    // Bytes, not characters; any character.
    for key in ["x", &"é".repeat(512), "a\0b", " ", "\n"] {
        machine.put(key, &[7; 65_536]).unwrap();
        assert_eq!(machine.get(key).unwrap().0.len(), 65_536);
    }
    refused(machine.get("a"), FailureCode::NotFound, "no key");
    for (key, why) in [("", "key is empty: it must have 1 to 1024 bytes"), (&*"é".repeat(513), "key has 1026 bytes")] {
        refused(machine.put(key, b"x"), FailureCode::InvalidArgument, why);
        refused(machine.delete(key), FailureCode::InvalidArgument, why);
        refused(machine.compare_and_set(key, None, b"x"), FailureCode::InvalidArgument, why);
        refused(machine.get(key), FailureCode::InvalidArgument, why);
    }
    let long = vec![0; 65_537];
    refused(machine.put("k", &long), FailureCode::InvalidArgument, "value has 65537 bytes: it may have at most 65536");
    refused(machine.compare_and_set("k", None, &long), FailureCode::InvalidArgument, "value has 65537");
    refused(machine.compare_and_set("k", Some(&long), b"x"), FailureCode::InvalidArgument, "expected has 65537");
    refused(machine.get("k"), FailureCode::NotFound, "no key");
}

#[test]
fn scans_list_a_prefix_in_byte_order_page_by_page() {
    let machine = Machine::new();
    let mut keys = ["a", "a\0", "aa", "ab", "ab\u{10ffff}", "abc", "b", "Z", "é", "\u{10ffff}", "\u{7f}", "%", "a_"];
    for key in keys {
        machine.put(key, key.as_bytes()).unwrap();
    }
    keys.sort_unstable();
    for prefix in ["", "a", "ab", "abc", "abcd", "b", "é", "\u{10ffff}", "\u{7f}", "%", "\0", "nothing"] {
        let expected: Vec<&str> = keys.into_iter().filter(|key| key.starts_with(prefix)).collect();
        for limit in [1, 2, 5, 12, 13, 14, 1_000] {
            let (listed, sizes) = machine.keys(prefix, limit);
            assert_eq!(listed, expected, "prefix {prefix:?}, limit {limit}");
            assert_eq!(sizes.len(), expected.len().div_ceil(limit as usize).max(1), "prefix {prefix:?}, limit {limit}");
        }
    }
    machine.put("b", b"again").unwrap();
    let item = KeyValue { key: "b".into(), value: "again".into(), version: 2 };
    assert_eq!(machine.scan("b", 0, "").unwrap().items, [item]);
}

#[test]
fn a_page_holds_100_pairs_by_default_and_a_mebibyte_at_most() {
    let machine = Machine::new();
    for number in 0..101 {
        machine.put(&format!("small {number:03}"), b"x").unwrap();
    }
    assert_eq!(machine.keys("small", 0).1, [100, 1]);
    for number in 0..40 {
        machine.put(&format!("large {number:03}"), &[7; 65_536]).unwrap();
    }
    // Keys count too, so sixteen of them are a little more than a mebibyte.
    assert_eq!(machine.keys("large", 1_000).1, [15, 15, 10]);
    for page in [machine.scan("large", 1_000, "").unwrap(), machine.scan("", 1_000, "").unwrap()] {
        let bytes: usize = page.items.iter().map(|item| item.key.len() + item.value.len()).sum();
        assert!(bytes as u64 <= operations::PAGE_BYTES, "{bytes}");
    }
}

#[test]
fn bad_scans_are_refused() {
    let machine = Machine::new();
    for key in ["a", "ab", "b"] {
        machine.put(key, b"x").unwrap();
    }
    let token = machine.scan("a", 1, "").unwrap().next_page_token;
    assert_eq!(machine.scan("a", 9, &token).unwrap().items.len(), 1);
    refused(machine.scan("", 1, &token), FailureCode::InvalidArgument, "page_token");
    refused(machine.scan("ab", 1, &token), FailureCode::InvalidArgument, "page_token");
    refused(machine.scan("a", 1, "ab"), FailureCode::InvalidArgument, "page_token");
    refused(machine.scan("a", 1, &token[2..]), FailureCode::InvalidArgument, "page_token");
    refused(machine.scan("a", 1_001, ""), FailureCode::InvalidArgument, "limit is 1001: at most 1000");
    refused(machine.scan(&"p".repeat(1_025), 0, ""), FailureCode::InvalidArgument, "prefix has 1025 bytes");
}

#[test]
fn malformed_requests_and_unknown_methods_are_refused() {
    let machine = Machine::new();
    let apply = |method: &str, bytes: &[u8]| machine.0.entry(|store| Kv::apply(store, &CONTEXT, method, bytes));
    let query = |method: &str, bytes: &[u8]| machine.0.read(|store| Kv::query(store, &CONTEXT, method, bytes));
    for bytes in [&[0x0a, 4, b'x'][..], &[0x0a, 1, 0xff], &[0xff]] {
        for method in ["kv.v1.Kv/Put", "kv.v1.Kv/Delete", "kv.v1.Kv/CompareAndSet"] {
            refused(apply(method, bytes), FailureCode::InvalidArgument, "malformed");
            refused(query(method, bytes), FailureCode::Unimplemented, method);
        }
        for method in ["kv.v1.Kv/Get", "kv.v1.Kv/Scan"] {
            refused(query(method, bytes), FailureCode::InvalidArgument, "malformed");
            refused(apply(method, bytes), FailureCode::Unimplemented, method);
        }
    }
    for method in ["kv.v1.Kv/Increment", "chat.v1.Chat/GetMessages", "Get", ""] {
        refused(apply(method, &[]), FailureCode::Unimplemented, &format!("{method:?}"));
        refused(query(method, &[]), FailureCode::Unimplemented, &format!("{method:?}"));
    }
}

#[test]
fn scans_are_served_by_the_key() {
    let machine = Machine::new();
    for sql in [operations::SIZES_IN_RANGE, operations::PAIRS_IN_RANGE] {
        let plan = machine.0.plan(sql).unwrap();
        assert_eq!(plan, ["SEARCH pairs USING INDEX sqlite_autoindex_pairs_1 (key>? AND key<?)"]);
    }
}
