//! What a module takes from the log entry in place of a clock and a random source: UUIDv7 ids.
//!
//! An id is laid out as RFC 9562, section 5.7 says, most significant bit first:
//!
//! | bits | |
//! |---|---|
//! | 48 | Unix time in milliseconds |
//! | 4 | version, 7 |
//! | 12 | the rest of the time, in 4,096ths of a millisecond (section 6.2, method 3) |
//! | 2 | variant, binary 10 |
//! | 62 | the entry's entropy, mixed, plus the number of the id within the entry |

use uuid::Uuid;

use crate::{Context, Failure, random::mix};

const TAIL_MASK: u64 = (1 << 62) - 1;

impl Context {
    /// Ids for this entry. Equal contexts give equal ids: take one sequence per call, and draw from it.
    pub fn ids(&self) -> Ids {
        let milliseconds = (self.time_us / 1_000) & ((1 << 48) - 1);
        let fraction = (self.time_us % 1_000) * 4_096 / 1_000;
        let (high, low) = self.entropy;
        Ids {
            head: (milliseconds << 16) | (7 << 12) | fraction,
            // All 128 bits have a say in the 62 that fit.
            tail: mix(high ^ mix(low)) & TAIL_MASK,
        }
    }
}

/// The ids of one entry: all different, in rising order but for a wrap of the last 62 bits.
pub struct Ids {
    head: u64,
    tail: u64,
}

impl Ids {
    /// The next id.
    pub fn draw(&mut self) -> Uuid {
        let id = Uuid::from_u64_pair(self.head, (1 << 63) | self.tail);
        self.tail = (self.tail + 1) & TAIL_MASK;
        id
    }
}

/// Reads an id as clients write it: the 36 characters of RFC 9562, upper or lower case. `field` names it in the refusal.
///
/// # Errors
///
/// INVALID_ARGUMENT for anything else, the empty string included.
pub fn parse_id(field: &str, text: &str) -> Result<Uuid, Failure> {
    // The parser alone would also take braces, a URN, and 32 bare digits.
    if text.len() == 36
        && let Ok(id) = Uuid::try_parse(text)
    {
        return Ok(id);
    }
    Err(Failure::invalid_argument(match text {
        "" => format!("{field} is empty: it must be an id as the service returns them"),
        _ => format!("{field} is no id: want 36 characters as in 01890a5d-ac96-774b-bcce-b302099a8057"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(time_us: u64, entropy: (u64, u64)) -> Context {
        Context { index: 7, time_us, entropy }
    }

    #[test]
    fn an_id_is_a_uuid_of_version_7_with_the_entry_s_time() {
        let id = context(1_700_000_000_123_456, (u64::MAX, u64::MAX)).ids().draw();
        let read = Uuid::try_parse(&id.to_string()).unwrap();
        assert_eq!(read.get_version_num(), 7);
        assert_eq!(read.get_variant(), uuid::Variant::RFC4122);
        let (seconds, nanoseconds) = read.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanoseconds), (1_700_000_000, 123_000_000));
    }

    #[test]
    fn ids_of_one_entry_differ_even_where_the_tail_wraps() {
        let mut ids = context(1, (3, 4)).ids();
        ids.tail = TAIL_MASK - 1;
        let drawn: std::collections::BTreeSet<_> = (0..5).map(|_| ids.draw()).collect();
        assert_eq!(drawn.len(), 5);
        assert!(drawn.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    }

    #[test]
    fn ids_follow_the_time_by_the_microsecond() {
        let at = |time_us, entropy| context(time_us, entropy).ids().draw();
        // The greatest tail a microsecond earlier, and the smallest after it.
        let times = [0, 1, 2, 998, 999, 1_000, 1_001, 1_700_000_000_000_000, 1_700_000_000_000_001];
        for pair in times.windows(2) {
            for (a, b) in [(0, u64::MAX), (u64::MAX, 0), (1, 2)] {
                assert!(at(pair[0], (a, b)) < at(pair[1], (b, a)), "{pair:?}");
            }
        }
    }

    #[test]
    fn every_part_of_the_entropy_counts_and_nothing_else_does() {
        let id = |entropy| context(1_000, entropy).ids().draw();
        assert_eq!(id((1, 2)), id((1, 2)));
        for bit in 0..64 {
            assert_ne!(id((1, 2)), id((1 ^ (1 << bit), 2)));
            assert_ne!(id((1, 2)), id((1, 2 ^ (1 << bit))));
        }
    }

    #[test]
    fn only_the_36_characters_are_an_id() {
        let id = context(5, (6, 7)).ids().draw();
        assert_eq!(parse_id("user_id", &id.to_string()).unwrap(), id);
        assert_eq!(parse_id("user_id", &id.to_string().to_uppercase()).unwrap(), id);
        let spoilt = id.to_string().replace('-', "_");
        for text in ["", "x", &id.simple().to_string(), &id.braced().to_string(), &id.urn().to_string(), &spoilt] {
            let failure = parse_id("user_id", text).unwrap_err();
            assert_eq!(failure.code, crate::FailureCode::InvalidArgument, "{text}");
            assert!(failure.message.starts_with("user_id "), "{}", failure.message);
        }
    }
}
