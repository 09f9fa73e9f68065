//! How long the values may be that a statement meets, and what its steps cost for that.
//!
//! A step of SQLite's virtual machine may copy, compare, parse or convert a value as long as a value may be, so a count of
//! steps alone says little of time. Statements therefore run within a **reach**: the bytes of the longest value that they
//! can read, make or write, which SQLite's own limit on the length of values enforces. The smallest reach is 8 KiB, and a
//! step costs one for each 8 KiB of it. A statement begins with the smallest reach that its parameters and its text allow;
//! where it meets a longer value it is begun again with the next one. All of this hangs on values alone, so it is the same
//! on every replica.
//!
//! A reach also covers every text in the schema: SQLite writes default values down within the limit, and takes what it
//! cannot write for a lack of memory; and it looks at the length of a literal when a statement is first run, and never again.

/// Bytes of the smallest reach; also what one step pays for. Decides results.
pub(crate) const REACH_MIN: i32 = 8 << 10;

/// Each reach is so many times the one before.
const FACTOR: i32 = 4;

/// The smallest reach for values of so many bytes, at most `max`.
pub(crate) fn reach(bytes: usize, max: i32) -> i32 {
    let mut reach = REACH_MIN.min(max);
    while usize::try_from(reach).is_ok_and(|reach| reach < bytes) && reach < max {
        reach = next(reach, max);
    }
    reach
}

/// The reach after this one.
pub(crate) fn next(reach: i32, max: i32) -> i32 {
    reach.saturating_mul(FACTOR).min(max)
}

/// What a step costs within a reach.
pub(crate) fn weight(reach: i32) -> i64 {
    (i64::from(reach) + i64::from(REACH_MIN) - 1) / i64::from(REACH_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reach_is_a_power_of_four_of_the_smallest_or_the_longest_value() {
        let max = 1 << 20;
        let found: Vec<i32> =
            [0, 8 << 10, (8 << 10) + 1, 300_000, 2 << 20].map(|bytes| reach(bytes, max)).into_iter().collect();
        assert_eq!(found, [8 << 10, 8 << 10, 32 << 10, 512 << 10, 1 << 20]);
        assert_eq!(reach(120_000, 300_000), 128 << 10);
        assert_eq!(reach(290_000, 300_000), 300_000);
        assert_eq!(next(128 << 10, 300_000), 300_000);
        assert_eq!([8 << 10, 32 << 10, 300_000].map(weight), [1, 4, 37]);
    }
}
