//! Tries: to hand the host texts that are none: halves of characters, surrogates, NULs. Outcome: each is refused, or comes back
//! as it is.

use guest_hostile::{Attack, Context, Failure, Store, report};

pub struct BrokenText;

guest_hostile::module!(crate::BrokenText);

const STATEMENTS: &[&str] = &[
    "SELECT CAST(x'ff' AS TEXT)",
    "SELECT CAST(x'c3' AS TEXT) AS half",
    "SELECT char(55296)",
    "SELECT CAST(substr(CAST('\u{e9}' AS BLOB), 1, 1) AS TEXT)",
    "SELECT 'a\0b'",
    "SELECT 'a' || char(0) || 'b'",
    "SELECT upper('\u{df}\u{e9}'), lower('\u{130}'), 'STRA\u{df}E' LIKE 'stra\u{df}e'",
    "SELECT unistr('\\ud800')",
    "SELECT 1 AS \"\u{1f4a3}\u{202e}\"",
];

impl Attack for BrokenText {
    const NAME: &'static str = "broken_text";

    fn attack(store: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(report(store, STATEMENTS.iter().copied()))
    }
}
