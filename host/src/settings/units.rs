//! Durations (`150ms`, `1m 30s`) and sizes (`4096`, `1MiB`): reading, printing, and how they stand in printed settings.

use std::time::Duration;

use serde::Serializer;

/// Units of a size, largest first. Powers of two alone: `1MB` would leave the reader guessing.
const SIZE_UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Reads `150ms`, `5s`, `1m 30s`.
///
/// # Errors
///
/// Says what is wrong in words for the person who wrote it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("{text:?} is not a duration: write it as 150ms, 5s or 1m"))
}

/// The shortest spelling that [`parse_duration`] reads back.
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Reads plain bytes (`4096`) or a multiple of `KiB`, `MiB`, `GiB`, `TiB`. Digits may be grouped with `_`.
///
/// # Errors
///
/// Says what is wrong in words for the person who wrote it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: write plain bytes as 4096, or KiB, MiB, GiB or TiB as 16MiB");
    let trimmed = text.trim();
    let (digits, shift) = SIZE_UNITS
        .iter()
        .find_map(|(unit, shift)| Some((trimmed.strip_suffix(unit)?.trim_end(), *shift)))
        .or_else(|| Some((trimmed.strip_suffix('B')?.trim_end(), 0)))
        .unwrap_or((trimmed, 0));
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?} is too large: at most {} bytes", u64::MAX))
}

/// The largest unit that divides it, else plain bytes.
pub fn format_size(bytes: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

pub(super) fn serialize_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// A number where no unit divides it, so that what is printed is what one would write.
pub(super) fn serialize_size<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let text = format_size(*bytes);
    if text.ends_with('B') { serializer.serialize_str(&text) } else { serializer.serialize_u64(*bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("1KiB", 1024), ("16 MiB", 16 << 20), ("1_000", 1000), ("7B", 7)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "MiB", "1MB", "-1", "1.5MiB", "one", "+4", "1 2"] {
            let message = parse_size(text).unwrap_err();
            assert!(message.contains("is not a size") && message.contains("16MiB"), "{text}: {message}");
        }
        assert!(parse_size("18446744073709551616").unwrap_err().contains("too large"));
        assert!(parse_size("99999999TiB").unwrap_err().contains("too large"));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "150", "fast", "-5s", "5 parsecs"] {
            assert!(parse_duration(text).unwrap_err().contains("is not a duration"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_size_reads_back(bytes: u64, shift in 0u32..41) {
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn a_printed_duration_reads_back(nanos in 0u64..u64::MAX / 2) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,40}") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
