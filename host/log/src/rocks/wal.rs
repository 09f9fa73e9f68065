//! Judges RocksDB's write-ahead files before RocksDB reads them: is what follows the last intact record the torn end of a
//! write that nobody was told of, or damage to records that were acknowledged? Owns that distinction; never writes.
//!
//! RocksDB (11.8, in the mode that tolerates a torn tail) sees most damage by checksum and refuses to open. But it takes
//! for a torn tail, and silently drops everything after, a record in the file's last block whose *length* field is
//! damaged so that it reaches beyond the file's end, and a record whose *type* is damaged into one of a recycled log.
//! One flipped bit does either. (The second kind even makes it read in circles in its default mode.) It also skips the
//! rest of a block that reads as zeros. Hence this check.
//!
//! Layout of the file (RocksDB wiki, "Write Ahead Log File Format"): blocks of 32 KiB; in each, records of
//!
//! ```text
//! crc u32 | length u16 | type u8 | payload                  little-endian; crc is CRC-32C of type and payload, masked
//! ```
//!
//! and fewer than 7 bytes left in a block are padding. The records end where the file does, or where a write was torn:
//! a record that is cut short by the end of the file, or zeros up to it. Anything else is damage, and so is a torn record
//! that intact ones follow: a disk that lost an *acknowledged* record must never look like a clean restart. The price:
//! a record of full length with a bad checksum at the very end is refused too, although a power loss may have torn it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use telegraft_raft::Index;

use crate::codec;

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
/// Added to the rotated checksum (RocksDB stores checksums masked, since data may itself contain them).
const CRC_MASK_DELTA: u32 = 0xa282_ead8;

/// Damage in a write-ahead file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) file: PathBuf,
    pub(super) offset: usize,
    pub(super) reason: &'static str,
    /// The newest entry that was written before the damaged place, as far as the file tells.
    pub(super) entry_before: Option<Index>,
}

/// Looks through all write-ahead files of a database's folder, oldest first.
pub(super) fn find_damage(folder: &Path, group: u64) -> io::Result<Option<Damage>> {
    let mut files = Vec::new();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            files.push(path);
        }
    }
    files.sort();
    for file in files {
        // Bounded by `Options::wal_bytes_max`, in practice by a few memtables.
        let bytes = fs::read(&file)?;
        if let Err((offset, reason)) = check(&bytes) {
            let entry_before = entry_before(&bytes, offset, group);
            return Ok(Some(Damage { file, offset, reason, entry_before }));
        }
    }
    Ok(None)
}

/// The index of the last entry whose key stands before `offset`; where there is none, the one before the first after it.
/// For a message only: a key that is split between two blocks is not seen.
fn entry_before(bytes: &[u8], offset: usize, group: u64) -> Option<Index> {
    let key_len = codec::entry_key(group, 0).len();
    let index_at = |(_, window)| codec::index_of_key(group, window);
    let mut before = bytes.get(..offset)?.windows(key_len).enumerate().rev();
    let mut after = bytes.get(offset..)?.windows(key_len).enumerate();
    before.find_map(index_at).or_else(|| after.find_map(index_at)?.checked_sub(1))
}

/// One physical record, or why there is none.
enum Parsed {
    /// Its length with header.
    Record(usize),
    /// The rest of the block is padding of this many bytes.
    Padding(usize),
    /// It reaches beyond the end of the file.
    CutShort,
    Bad(&'static str),
}

fn check(bytes: &[u8]) -> Result<(), (usize, &'static str)> {
    let mut offset = 0;
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        match parse(bytes, offset) {
            Parsed::Record(len) | Parsed::Padding(len) => offset += len,
            // Space that was set aside, or pages that never reached the disk.
            _ if rest.iter().all(|byte| *byte == 0) => return Ok(()),
            Parsed::Bad(reason) => return Err((offset, reason)),
            Parsed::CutShort => {
                if has_intact_record(bytes, offset + 1) {
                    return Err((offset, "a record reaches beyond the end of the file, but intact records follow it"));
                }
                if let Some(header) = rest.first_chunk::<HEADER_BYTES>()
                    && crc_fits(header, &rest[HEADER_BYTES..])
                {
                    return Err((offset, "a record's length is wrong: its bytes are complete"));
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

fn parse(bytes: &[u8], offset: usize) -> Parsed {
    let block_left = BLOCK_BYTES - offset % BLOCK_BYTES;
    let rest = &bytes[offset..];
    if block_left < HEADER_BYTES {
        return Parsed::Padding(block_left.min(rest.len()));
    }
    let Some(header) = rest.first_chunk::<HEADER_BYTES>() else { return Parsed::CutShort };
    let len = HEADER_BYTES + usize::from(u16::from_le_bytes([header[4], header[5]]));
    if len > block_left && rest.len() >= block_left {
        return Parsed::Bad("a record's length reaches beyond its block");
    }
    let Some(payload) = rest.get(HEADER_BYTES..len) else { return Parsed::CutShort };
    if !crc_fits(header, payload) {
        return Parsed::Bad("a record's checksum does not fit its bytes");
    }
    if !is_written_by_us(header[6]) {
        return Parsed::Bad("a record has an unknown type");
    }
    Parsed::Record(len)
}

/// Types that RocksDB writes under our options: whole record, its first, middle and last fragment; compression and
/// timestamp settings; predecessor information. Not those of recycled files.
fn is_written_by_us(kind: u8) -> bool {
    matches!(kind, 1..=4 | 9 | 10 | 130)
}

fn crc_fits(header: &[u8; HEADER_BYTES], payload: &[u8]) -> bool {
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[6..]), payload);
    stored == crc.rotate_right(15).wrapping_add(CRC_MASK_DELTA)
}

/// Whether an intact record begins anywhere from `from` on. After a record that is cut short by the end of the file at
/// most one block is left, so this is a short search; a chance match needs 32 bits of checksum to agree.
fn has_intact_record(bytes: &[u8], from: usize) -> bool {
    (from..bytes.len()).any(|offset| {
        bytes.get(offset + 6).is_some_and(|kind| is_written_by_us(*kind))
            && matches!(parse(bytes, offset), Parsed::Record(_))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Payloads as RocksDB would lay them out, fragmented at block ends.
    fn file(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for payload in payloads {
            let mut left = payload.as_slice();
            let mut begun = false;
            loop {
                let room = BLOCK_BYTES - bytes.len() % BLOCK_BYTES;
                if room < HEADER_BYTES {
                    bytes.resize(bytes.len() + room, 0);
                    continue;
                }
                let take = left.len().min(room - HEADER_BYTES);
                let ends = take == left.len();
                let kind: u8 = match (begun, ends) {
                    (false, true) => 1,
                    (false, false) => 2,
                    (true, false) => 3,
                    (true, true) => 4,
                };
                starts.push(bytes.len());
                let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), &left[..take]);
                bytes.extend(crc.rotate_right(15).wrapping_add(CRC_MASK_DELTA).to_le_bytes());
                bytes.extend(u16::try_from(take).unwrap().to_le_bytes());
                bytes.push(kind);
                bytes.extend(&left[..take]);
                left = &left[take..];
                begun = true;
                if ends {
                    break;
                }
            }
        }
        (bytes, starts)
    }

    fn sample() -> (Vec<u8>, Vec<usize>) {
        file(&[vec![1; 100], vec![2; 70_000], vec![3; 40], vec![4; 90]])
    }

    #[test]
    fn an_intact_file_is_accepted_with_or_without_space_set_aside() {
        let (mut bytes, _) = sample();
        assert_eq!(check(&bytes), Ok(()));
        bytes.resize(bytes.len() + 100_000, 0);
        assert_eq!(check(&bytes), Ok(()));
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn a_file_cut_anywhere_is_a_torn_write() {
        let (bytes, _) = sample();
        for cut in (0..bytes.len()).rev().step_by(97).chain(bytes.len() - 200..bytes.len()) {
            assert_eq!(check(&bytes[..cut]), Ok(()), "cut at {cut}");
        }
    }

    #[test]
    fn every_flipped_bit_in_the_records_is_damage() {
        let (bytes, starts) = sample();
        let headers = starts.iter().flat_map(|start| *start..*start + HEADER_BYTES + 3);
        for position in headers {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[position] ^= 1 << bit;
                assert!(check(&damaged).is_err(), "bit {bit} of byte {position} was overlooked");
            }
        }
    }

    #[test]
    fn zeros_before_intact_records_are_damage() {
        let (mut bytes, starts) = sample();
        bytes[starts[0]..starts[1]].fill(0);
        assert_eq!(check(&bytes), Err((0, "a record's checksum does not fit its bytes")));
    }
}
