//! The bytes of the model disk's journal: one record for each write of the log, and how a reader tells the torn end of a
//! write that nobody was told of from damage to what was acknowledged.
//!
//! ```text
//! record  magic u32 | length u32 | head crc u32 | body crc u32 | body        all integers little-endian
//! body    flags u8 | hard state 3 x u64? | base? | snapshot? | configuration? | count u32 | entries | a5
//! ```
//!
//! `head crc` covers magic and length. The last byte is never zero, so that zeros at the end of a file are known for bytes
//! that did not arrive. A record is torn if the file ends inside of it, or if from somewhere inside of it to
//! the end of the file there are only zeros (the file was made longer, the bytes did not arrive). Whatever else does not
//! fit its checksum is damage: the process must not start on it.

use bytes::{Buf, BufMut, Bytes};
use telegraft_node::ports::{ConfAt, LogWrite};
use telegraft_raft::{ConfState, Entry, EntryKind, HardState, Index, SnapshotMeta, Term};

const MAGIC: u32 = 0x5447_4a31;
const HEAD_BYTES: usize = 16;
const LAST_BYTE: u8 = 0xa5;

/// What one record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Where a compacted log begins: entries follow after this index, whose term is given.
    pub base: Option<(Index, Term)>,
    /// The write itself.
    pub write: LogWrite,
}

/// What follows the last intact record of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing.
    Clean,
    /// A write that was cut short; nobody was told of it.
    Torn,
    /// Something that was whole once.
    Damaged,
}

/// Appends a record to a file.
pub fn append(file: &mut Vec<u8>, record: &Record) {
    let start = file.len();
    file.extend_from_slice(&[0; HEAD_BYTES]);
    put_body(file, record);
    let body_crc = crc32c::crc32c(&file[start + HEAD_BYTES..]);
    let length = (file.len() - start - HEAD_BYTES) as u32;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.put_u32_le(MAGIC);
    head.put_u32_le(length);
    head.put_u32_le(crc32c::crc32c(&head));
    head.put_u32_le(body_crc);
    file[start..start + HEAD_BYTES].copy_from_slice(&head);
}

/// Reads records from the front, and gives how many bytes were intact and what comes after them.
pub fn read(file: &[u8], mut take: impl FnMut(Record)) -> (usize, End) {
    let mut at = 0;
    while at < file.len() {
        match read_one(&file[at..]) {
            Ok((record, length)) => {
                take(record);
                at += length;
            }
            Err(end) => return (at, end),
        }
    }
    (at, End::Clean)
}

fn read_one(rest: &[u8]) -> Result<(Record, usize), End> {
    // Zeros from somewhere to the end may hide any part of the record, its head too.
    let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
    let arrived = rest.len() - zeros;
    if rest.len() < HEAD_BYTES || arrived < HEAD_BYTES - 4 {
        return if head_prefix_is_sound(&rest[..arrived.min(8)]) { Err(End::Torn) } else { Err(End::Damaged) };
    }
    let mut head = &rest[..HEAD_BYTES];
    let (magic, length, head_crc, body_crc) =
        (head.get_u32_le(), head.get_u32_le(), head.get_u32_le(), head.get_u32_le());
    if magic != MAGIC || crc32c::crc32c(&rest[..8]) != head_crc {
        return Err(End::Damaged);
    }
    let end = HEAD_BYTES + length as usize;
    if rest.len() < end {
        return Err(End::Torn);
    }
    let body = &rest[HEAD_BYTES..end];
    if crc32c::crc32c(body) != body_crc {
        // The last record of the file, and its end never arrived.
        let torn = zeros > 0 && rest.len() - zeros < end;
        return Err(if torn { End::Torn } else { End::Damaged });
    }
    get_body(body).map(|record| (record, end)).ok_or(End::Damaged)
}

/// What a reader that does not look at checksums makes of a torn record: the entries whose heads are there, their data cut
/// or full of zeros. Only for the bug that does so.
pub fn read_leniently(rest: &[u8]) -> Option<Record> {
    let mut padded = rest.to_vec();
    let length = rest.get(4..8).map(|mut length| length.get_u32_le() as usize)?;
    padded.resize(padded.len().max(HEAD_BYTES + length), 0);
    let body = padded.get_mut(HEAD_BYTES..HEAD_BYTES + length)?;
    *body.last_mut()? = LAST_BYTE;
    get_body(body)
}

fn head_prefix_is_sound(arrived: &[u8]) -> bool {
    let magic = MAGIC.to_le_bytes();
    let known = arrived.len().min(magic.len());
    arrived[..known] == magic[..known]
}

const HAS_HARD_STATE: u8 = 1;
const HAS_BASE: u8 = 2;
const HAS_SNAPSHOT: u8 = 4;
const HAS_CONF: u8 = 8;

fn put_body(out: &mut Vec<u8>, record: &Record) {
    let LogWrite { hard_state, entries, snapshot, conf_state, must_sync: _ } = &record.write;
    let flag = |present: bool, flag: u8| if present { flag } else { 0 };
    out.put_u8(
        flag(hard_state.is_some(), HAS_HARD_STATE)
            | flag(record.base.is_some(), HAS_BASE)
            | flag(snapshot.is_some(), HAS_SNAPSHOT)
            | flag(conf_state.is_some(), HAS_CONF),
    );
    if let Some(HardState { term, vote, commit }) = hard_state {
        [*term, *vote, *commit].into_iter().for_each(|n| out.put_u64_le(n));
    }
    if let Some((index, term)) = record.base {
        [index, term].into_iter().for_each(|n| out.put_u64_le(n));
    }
    if let Some(meta) = snapshot {
        [meta.index, meta.term].into_iter().for_each(|n| out.put_u64_le(n));
        put_conf(out, &meta.conf_state);
    }
    if let Some(conf) = conf_state {
        out.put_u64_le(conf.index);
        put_conf(out, &conf.conf_state);
    }
    out.put_u32_le(entries.len() as u32);
    for entry in entries {
        [entry.term, entry.index].into_iter().for_each(|n| out.put_u64_le(n));
        out.put_u8(match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
            EntryKind::ConfChangeV2 => 2,
        });
        out.put_u32_le(entry.data.len() as u32);
        out.extend_from_slice(&entry.data);
    }
    out.put_u8(LAST_BYTE);
}

fn put_conf(out: &mut Vec<u8>, conf: &ConfState) {
    for ids in [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next] {
        out.put_u32_le(ids.len() as u32);
        ids.iter().for_each(|id| out.put_u64_le(*id));
    }
    out.put_u8(u8::from(conf.auto_leave));
}

fn get_body(mut body: &[u8]) -> Option<Record> {
    let body = &mut body;
    let flags = body.try_get_u8().ok()?;
    let has = |flag| flags & flag != 0;
    let mut record = Record::default();
    if has(HAS_HARD_STATE) {
        record.write.hard_state = Some(HardState { term: number(body)?, vote: number(body)?, commit: number(body)? });
    }
    if has(HAS_BASE) {
        record.base = Some((number(body)?, number(body)?));
    }
    if has(HAS_SNAPSHOT) {
        let (index, term) = (number(body)?, number(body)?);
        record.write.snapshot = Some(SnapshotMeta { index, term, conf_state: get_conf(body)? });
    }
    if has(HAS_CONF) {
        record.write.conf_state = Some(ConfAt { index: number(body)?, conf_state: get_conf(body)? });
    }
    for _ in 0..body.try_get_u32_le().ok()? {
        let (term, index) = (number(body)?, number(body)?);
        let kind = match body.try_get_u8().ok()? {
            0 => EntryKind::Normal,
            1 => EntryKind::ConfChange,
            2 => EntryKind::ConfChangeV2,
            _ => return None,
        };
        let length = body.try_get_u32_le().ok()? as usize;
        let data = Bytes::copy_from_slice(body.get(..length)?);
        body.advance(length);
        record.write.entries.push(Entry { term, index, kind, data });
    }
    (*body == [LAST_BYTE]).then_some(record)
}

fn get_conf(body: &mut &[u8]) -> Option<ConfState> {
    let mut lists: [Vec<u64>; 4] = Default::default();
    for ids in &mut lists {
        for _ in 0..body.try_get_u32_le().ok()? {
            ids.push(number(body)?);
        }
    }
    let auto_leave = body.try_get_u8().ok()? != 0;
    let [voters, learners, voters_outgoing, learners_next] = lists;
    Some(ConfState { voters, learners, voters_outgoing, learners_next, auto_leave })
}

fn number(body: &mut &[u8]) -> Option<u64> {
    body.try_get_u64_le().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: Index) -> Record {
        let conf_state = ConfState { voters: vec![1, 2], auto_leave: true, ..ConfState::default() };
        Record {
            base: index.is_multiple_of(2).then_some((index, 7)),
            write: LogWrite {
                hard_state: Some(HardState { term: 3, vote: 2, commit: index }),
                entries: vec![Entry {
                    term: 3,
                    index,
                    kind: EntryKind::ConfChangeV2,
                    data: Bytes::from_static(b"dat\0"),
                }],
                snapshot: Some(SnapshotMeta { index, term: 2, conf_state: conf_state.clone() }),
                conf_state: Some(ConfAt { index, conf_state }),
                must_sync: false,
            },
        }
    }

    fn file() -> (Vec<u8>, usize) {
        let mut file = Vec::new();
        append(&mut file, &record(1));
        let second = file.len();
        append(&mut file, &record(2));
        (file, second)
    }

    fn count(file: &[u8]) -> (usize, End) {
        let mut records = 0;
        let (_, end) = read(file, |_| records += 1);
        (records, end)
    }

    #[test]
    fn what_was_appended_is_read() {
        let mut records = Vec::new();
        let (file, _) = file();
        assert_eq!(read(&file, |record| records.push(record)), (file.len(), End::Clean));
        assert_eq!(records, [record(1), record(2)]);
    }

    #[test]
    fn a_cut_at_any_byte_is_a_torn_end() {
        let (file, second) = file();
        for cut in second + 1..file.len() {
            assert_eq!(count(&file[..cut]), (1, End::Torn), "cut at {cut}");
        }
        assert_eq!(count(&file[..second]), (1, End::Clean));
    }

    #[test]
    fn bytes_that_did_not_arrive_are_a_torn_end() {
        let (file, second) = file();
        for cut in second + 1..file.len() {
            let mut torn = file[..cut].to_vec();
            torn.resize(file.len(), 0);
            assert_eq!(count(&torn), (1, End::Torn), "zeros from {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_damage() {
        let (file, _) = file();
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (records, end) = count(&damaged);
            assert!(records < 2 && end == End::Damaged, "bit {bit}: {records} records, {end:?}");
        }
    }
}
