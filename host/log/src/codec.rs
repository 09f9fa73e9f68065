//! The log's format on disk, version 2: keys and values of the RocksDB database, byte by byte. Owns their checks too.
//!
//! All integers are big-endian, so that keys sort as numbers do. `crc` is CRC-32C (Castagnoli) over the record's key and
//! the value's bytes before it: a value that is damaged, and one that stands under another record's key, are both seen.
//! RocksDB's own checksums (blocks, write-ahead log) lie below this and are verified on every read as well.
//!
//! Column family `default`, the entries:
//!
//! ```text
//! key    group u64 | b'e' | index u64                                   17 bytes
//! value  term u64 | kind u8 | data ... | crc u32                        13 bytes + data
//!        kind: 0 normal, 1 configuration change, 2 configuration change v2
//! ```
//!
//! Column family `state`, everything else (apart, so that tables of entries never overlap and compaction moves them
//! without rewriting):
//!
//! ```text
//! key    b"format"
//! value  b"TGLG" | version u32 | group u64 | crc u32                    20 bytes
//!
//! key    group u64 | b'h'           hard state                           9 bytes
//! value  term u64 | vote u64 | commit u64 | crc u32                     28 bytes
//!
//! key    group u64 | b's'           start: entries begin after it        9 bytes
//! value  index u64 | term u64 | crc u32                                 20 bytes
//!
//! key    group u64 | b'c'           configuration in force               9 bytes
//! value  index u64 | conf | crc u32                                     index of the entry that brought it
//!
//! key    group u64 | b'n'           snapshot last installed              9 bytes
//! value  index u64 | term u64 | conf | crc u32
//!
//! conf   four lists (voters, learners, voters_outgoing, learners_next), each: count u32 | node id u64 ...
//!        then auto_leave u8 (0 or 1)
//! ```
//!
//! `format` and `start` are written first and are always there; a record that was never written counts as its default.

use bytes::{Buf, Bytes};
use telegraft_node::ports::ConfAt;
use telegraft_raft::{ConfState, Entry, EntryKind, HardState, Index, SnapshotMeta};

use crate::plan::Position;

/// Version of this format.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// Column family of everything but entries.
pub(crate) const STATE_FAMILY: &str = "state";
/// Key of the format record.
pub(crate) const FORMAT_KEY: &[u8] = b"format";

const MAGIC: &[u8; 4] = b"TGLG";
const ENTRY_TAG: u8 = b'e';
const CRC_BYTES: usize = 4;
const ENTRY_HEAD_BYTES: usize = 9;

/// The records of a group in the column family `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateRecord {
    HardState = b'h' as isize,
    Start = b's' as isize,
    ConfState = b'c' as isize,
    Snapshot = b'n' as isize,
}

impl StateRecord {
    pub(crate) fn key(self, group: u64) -> [u8; 9] {
        let mut key = [0; 9];
        key[..8].copy_from_slice(&group.to_be_bytes());
        key[8] = self as u8;
        key
    }
}

pub(crate) fn entry_key(group: u64, index: Index) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&group.to_be_bytes());
    key[8] = ENTRY_TAG;
    key[9..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The first key after all of a group's entries.
pub(crate) fn entries_end_key(group: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&group.to_be_bytes());
    key[8] = ENTRY_TAG + 1;
    key
}

/// The index in an entry's key, if it is one of this group's.
pub(crate) fn index_of_key(group: u64, key: &[u8]) -> Option<Index> {
    let rest = key.strip_prefix(&group.to_be_bytes())?.strip_prefix(&[ENTRY_TAG])?;
    Some(Index::from_be_bytes(rest.try_into().ok()?))
}

/// Writes an entry's value into `value`, which is emptied first: one buffer serves a whole batch.
pub(crate) fn encode_entry(key: &[u8], entry: &Entry, value: &mut Vec<u8>) {
    value.clear();
    value.reserve(ENTRY_HEAD_BYTES + entry.data.len() + CRC_BYTES);
    value.extend_from_slice(&entry.term.to_be_bytes());
    value.push(match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    });
    value.extend_from_slice(&entry.data);
    seal(key, value);
}

pub(crate) fn decode_entry(key: &[u8], index: Index, value: &[u8]) -> Result<Entry, String> {
    let body = open_seal(key, value)?;
    let mut head = body;
    let term = u64_of(&mut head)?;
    let kind = match u8_of(&mut head)? {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        2 => EntryKind::ConfChangeV2,
        other => return Err(format!("entry kind {other} is unknown")),
    };
    Ok(Entry { term, index, kind, data: Bytes::copy_from_slice(head) })
}

pub(crate) fn encode_format(group: u64) -> Vec<u8> {
    let mut value = MAGIC.to_vec();
    value.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    value.extend_from_slice(&group.to_be_bytes());
    seal(FORMAT_KEY, &mut value);
    value
}

/// Version and, if it is this build's version, group.
pub(crate) fn decode_format(value: &[u8]) -> Result<(u32, u64), String> {
    // Magic and version stand outside the seal's judgement: a later version may seal otherwise.
    let mut rest = value.strip_prefix(MAGIC).ok_or("it does not begin with TGLG")?;
    let version = u32_of(&mut rest)?;
    if version != FORMAT_VERSION {
        return Ok((version, 0));
    }
    open_seal(FORMAT_KEY, value)?;
    Ok((version, u64_of(&mut rest)?))
}

pub(crate) fn encode_hard_state(key: &[u8], hard_state: &HardState) -> Vec<u8> {
    let mut value = Vec::with_capacity(28);
    for field in [hard_state.term, hard_state.vote, hard_state.commit] {
        value.extend_from_slice(&field.to_be_bytes());
    }
    seal(key, &mut value);
    value
}

pub(crate) fn decode_hard_state(key: &[u8], value: &[u8]) -> Result<HardState, String> {
    let mut body = open_seal(key, value)?;
    let (term, vote, commit) = (u64_of(&mut body)?, u64_of(&mut body)?, u64_of(&mut body)?);
    at_end(body)?;
    Ok(HardState { term, vote, commit })
}

pub(crate) fn encode_position(key: &[u8], position: Position) -> Vec<u8> {
    let mut value = Vec::with_capacity(20);
    value.extend_from_slice(&position.index.to_be_bytes());
    value.extend_from_slice(&position.term.to_be_bytes());
    seal(key, &mut value);
    value
}

pub(crate) fn decode_position(key: &[u8], value: &[u8]) -> Result<Position, String> {
    let mut body = open_seal(key, value)?;
    let (index, term) = (u64_of(&mut body)?, u64_of(&mut body)?);
    at_end(body)?;
    Ok(Position { index, term })
}

pub(crate) fn encode_conf_state(key: &[u8], conf: &ConfAt) -> Vec<u8> {
    let mut value = conf.index.to_be_bytes().to_vec();
    put_conf(&mut value, &conf.conf_state);
    seal(key, &mut value);
    value
}

pub(crate) fn decode_conf_state(key: &[u8], value: &[u8]) -> Result<ConfAt, String> {
    let mut body = open_seal(key, value)?;
    let (index, conf_state) = (u64_of(&mut body)?, conf_of(&mut body)?);
    at_end(body)?;
    Ok(ConfAt { index, conf_state })
}

pub(crate) fn encode_snapshot(key: &[u8], meta: &SnapshotMeta) -> Vec<u8> {
    let mut value = Vec::new();
    value.extend_from_slice(&meta.index.to_be_bytes());
    value.extend_from_slice(&meta.term.to_be_bytes());
    put_conf(&mut value, &meta.conf_state);
    seal(key, &mut value);
    value
}

pub(crate) fn decode_snapshot(key: &[u8], value: &[u8]) -> Result<SnapshotMeta, String> {
    let mut body = open_seal(key, value)?;
    let (index, term) = (u64_of(&mut body)?, u64_of(&mut body)?);
    let conf_state = conf_of(&mut body)?;
    at_end(body)?;
    Ok(SnapshotMeta { conf_state, index, term })
}

fn put_conf(value: &mut Vec<u8>, conf: &ConfState) {
    for ids in [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next] {
        // A configuration of four billion nodes does not exist; a count that is capped fails on reading, never silently.
        value.extend_from_slice(&u32::try_from(ids.len()).unwrap_or(u32::MAX).to_be_bytes());
        for id in ids {
            value.extend_from_slice(&id.to_be_bytes());
        }
    }
    value.push(u8::from(conf.auto_leave));
}

fn conf_of(body: &mut &[u8]) -> Result<ConfState, String> {
    let mut lists: [Vec<u64>; 4] = Default::default();
    for ids in &mut lists {
        for _ in 0..u32_of(body)? {
            ids.push(u64_of(body)?);
        }
    }
    let auto_leave = match u8_of(body)? {
        0 => false,
        1 => true,
        other => return Err(format!("auto_leave is {other}, neither 0 nor 1")),
    };
    let [voters, learners, voters_outgoing, learners_next] = lists;
    Ok(ConfState { voters, learners, voters_outgoing, learners_next, auto_leave })
}

fn seal(key: &[u8], value: &mut Vec<u8>) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), value);
    value.extend_from_slice(&crc.to_be_bytes());
}

fn open_seal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let (body, crc) = value
        .split_last_chunk::<CRC_BYTES>()
        .ok_or_else(|| format!("{} bytes are too short for a record", value.len()))?;
    let (stored, computed) = (u32::from_be_bytes(*crc), crc32c::crc32c_append(crc32c::crc32c(key), body));
    if stored != computed {
        return Err(format!("its checksum is {stored:08x}, but its bytes have {computed:08x}"));
    }
    Ok(body)
}

fn u64_of(body: &mut &[u8]) -> Result<u64, String> {
    body.try_get_u64().map_err(|_| "it ends too early".to_owned())
}

fn u32_of(body: &mut &[u8]) -> Result<u32, String> {
    body.try_get_u32().map_err(|_| "it ends too early".to_owned())
}

fn u8_of(body: &mut &[u8]) -> Result<u8, String> {
    body.try_get_u8().map_err(|_| "it ends too early".to_owned())
}

fn at_end(body: &[u8]) -> Result<(), String> {
    if body.is_empty() { Ok(()) } else { Err(format!("{} bytes are left over", body.len())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn conf() -> impl Strategy<Value = ConfState> {
        let ids = || prop::collection::vec(any::<u64>(), 0..5);
        (ids(), ids(), ids(), ids(), any::<bool>()).prop_map(
            |(voters, learners, voters_outgoing, learners_next, auto_leave)| ConfState {
                voters,
                learners,
                voters_outgoing,
                learners_next,
                auto_leave,
            },
        )
    }

    fn kind() -> impl Strategy<Value = EntryKind> {
        prop_oneof![Just(EntryKind::Normal), Just(EntryKind::ConfChange), Just(EntryKind::ConfChangeV2)]
    }

    /// Every flipped bit and every cut of a sealed value must be refused by `decode`.
    fn refuses_damage<T: std::fmt::Debug>(value: &[u8], decode: impl Fn(&[u8]) -> Result<T, String>) {
        for bit in 0..value.len() * 8 {
            let mut damaged = value.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            decode(&damaged).expect_err("a flipped bit was accepted");
        }
        for cut in 0..value.len() {
            decode(&value[..cut]).expect_err("a cut value was accepted");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn entries_round_trip(
            group: u64,
            term: u64,
            index: u64,
            kind in kind(),
            data in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let entry = Entry { term, index, kind, data: data.into() };
            let key = entry_key(group, index);
            prop_assert_eq!(index_of_key(group, &key), Some(index));
            let mut value = vec![7; 3];
            encode_entry(&key, &entry, &mut value);
            prop_assert_eq!(decode_entry(&key, index, &value), Ok(entry));
            refuses_damage(&value, |value| decode_entry(&key, index, value));
            // The same bytes under another key.
            let other = entry_key(group, index ^ 1);
            prop_assert!(decode_entry(&other, index ^ 1, &value).is_err());
        }

        #[test]
        fn state_round_trips(group: u64, a: u64, b: u64, c: u64, conf in conf()) {
            let key = StateRecord::HardState.key(group);
            let hard_state = HardState { term: a, vote: b, commit: c };
            let value = encode_hard_state(&key, &hard_state);
            prop_assert_eq!(decode_hard_state(&key, &value), Ok(hard_state));
            refuses_damage(&value, |value| decode_hard_state(&key, value));

            let key = StateRecord::Start.key(group);
            let position = Position { index: a, term: b };
            let value = encode_position(&key, position);
            prop_assert_eq!(decode_position(&key, &value), Ok(position));
            refuses_damage(&value, |value| decode_position(&key, value));

            let key = StateRecord::ConfState.key(group);
            let conf_at = ConfAt { index: a, conf_state: conf.clone() };
            let value = encode_conf_state(&key, &conf_at);
            prop_assert_eq!(decode_conf_state(&key, &value), Ok(conf_at));
            refuses_damage(&value, |value| decode_conf_state(&key, value));

            let key = StateRecord::Snapshot.key(group);
            let meta = SnapshotMeta { conf_state: conf, index: a, term: b };
            let value = encode_snapshot(&key, &meta);
            prop_assert_eq!(decode_snapshot(&key, &value), Ok(meta.clone()));
            refuses_damage(&value, |value| decode_snapshot(&key, value));
        }

        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let key = StateRecord::Snapshot.key(1);
            let mut sealed = bytes.clone();
            seal(&key, &mut sealed);
            let _ = decode_snapshot(&key, &sealed);
            let _ = decode_conf_state(&key, &sealed);
            let _ = decode_hard_state(&key, &sealed);
            let _ = decode_position(&key, &sealed);
            let _ = decode_entry(&key, 1, &sealed);
            let _ = decode_format(&bytes);
        }
    }

    #[test]
    fn keys_sort_as_groups_and_indices_do() {
        let mut keys = vec![entry_key(1, 255), entry_key(1, 256), entry_key(1, u64::MAX), entry_key(2, 1)];
        assert!(keys.is_sorted());
        keys.pop();
        assert!(keys.iter().all(|key| key.as_slice() < entries_end_key(1).as_slice()));
        assert!(entries_end_key(1).as_slice() < entry_key(2, 1).as_slice());
    }

    #[test]
    fn another_format_version_is_told_apart_from_damage() {
        let value = encode_format(9);
        assert_eq!(decode_format(&value), Ok((FORMAT_VERSION, 9)));
        let mut later = value.clone();
        later[7] = 200;
        assert_eq!(decode_format(&later), Ok((200, 0)));
        let mut damaged = value;
        damaged[12] ^= 1;
        assert!(decode_format(&damaged).is_err());
    }
}
