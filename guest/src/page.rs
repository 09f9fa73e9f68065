//! Pages: limits, and the opaque tokens that continue a listing.
//!
//! A token is, in lower-case hexadecimal: one byte of format (1), the cursor's bytes, and four bytes that are the low half
//! of FNV-1a (64 bits) over the scope and the cursor. The scope is what the listing was asked for, so a token from another
//! listing, or one that was tampered with by accident, is refused instead of silently giving a wrong page. It is no secret.

use crate::Failure;

const FORMAT: u8 = 1;
const CHECK_BYTES: usize = 4;

/// Messages on a page where the request says nothing.
const LIMIT_DEFAULT: u32 = 100;
/// The most a request may ask for.
const LIMIT_MAX: u32 = 1_000;

/// Reads a request's `limit`: 0 means 100, more than 1,000 is refused.
///
/// # Errors
///
/// INVALID_ARGUMENT.
pub fn page_limit(limit: u32) -> Result<usize, Failure> {
    match limit {
        0 => Ok(LIMIT_DEFAULT as usize),
        1..=LIMIT_MAX => Ok(limit as usize),
        _ => Err(Failure::invalid_argument(format!("limit is {limit}: at most {LIMIT_MAX}, or 0 for {LIMIT_DEFAULT}"))),
    }
}

/// A listing, told apart from all others by its method and what was asked for.
pub struct Page {
    scope: u64,
}

/// The place in a listing after which the next page begins.
pub type Cursor = Vec<u8>;

impl Page {
    /// `scope`: the method's name and the request's fields that choose what is listed.
    pub fn new(scope: &[&[u8]]) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325;
        for part in scope {
            // The length first, so that no two scopes run into each other.
            hash = fnv1a(hash, &(part.len() as u64).to_le_bytes());
            hash = fnv1a(hash, part);
        }
        Self { scope: hash }
    }

    /// The token that continues after `cursor`.
    pub fn token(&self, cursor: &[u8]) -> String {
        let check = self.check(cursor);
        let mut token = String::with_capacity(2 * (1 + cursor.len() + CHECK_BYTES));
        for byte in [FORMAT].iter().chain(cursor).chain(&check) {
            token.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
        }
        token
    }

    /// The cursor of a request's token; `None` for the empty token of a first page.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for what is no token, or one of another listing.
    pub fn cursor(&self, token: &str) -> Result<Option<Cursor>, Failure> {
        if token.is_empty() {
            return Ok(None);
        }
        let cursor = decode_hex(token).and_then(|bytes| {
            let (body, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
            let (format, cursor) = body.split_first()?;
            (*format == FORMAT && *check == self.check(cursor)).then(|| cursor.to_vec())
        });
        cursor.map(Some).ok_or_else(Self::foreign_token)
    }

    /// The refusal of a token, also of one whose cursor makes no sense to the listing.
    pub fn foreign_token() -> Failure {
        Failure::invalid_argument(
            "page_token does not belong to this listing: pass next_page_token of the page before, \
             with the other fields unchanged (limit may change)",
        )
    }

    fn check(&self, cursor: &[u8]) -> [u8; CHECK_BYTES] {
        let [.., a, b, c, d] = fnv1a(self.scope, cursor).to_be_bytes();
        [a, b, c, d]
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)).collect()
}

fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureCode;

    #[test]
    fn a_token_brings_its_cursor_back() {
        let page = Page::new(&[b"list", b"a"]);
        for cursor in [&b""[..], b"x", &[0, 255, 16], &[7; 2_000]] {
            assert_eq!(page.cursor(&page.token(cursor)).unwrap().unwrap(), cursor);
        }
        assert_eq!(page.cursor("").unwrap(), None);
    }

    #[test]
    fn foreign_and_damaged_tokens_are_refused() {
        let page = Page::new(&[b"list", b"ab"]);
        let token = page.token(b"cursor");
        let mut refused =
            vec!["0".into(), "zz".into(), "00".into(), "ä".into(), token.to_uppercase(), format!("{token}00")];
        refused.extend((0..token.len()).map(|at| {
            let other = if token.as_bytes()[at] == b'0' { "1" } else { "0" };
            [&token[..at], other, &token[at + 1..]].concat()
        }));
        refused.extend((1..token.len()).map(|length| token[..length].to_owned()));
        for scope in [&[&b"list"[..], b"ac"][..], &[b"lis", b"tab"], &[b"list"], &[b"list", b"a", b"b"]] {
            refused.push(Page::new(scope).token(b"cursor"));
        }
        // "No digits but decimal ones" is no excuse: an upper-case copy differs only if there is a letter in it.
        assert_ne!(token, token.to_uppercase());
        for token in refused {
            let failure = page.cursor(&token).unwrap_err();
            assert_eq!(failure.code, FailureCode::InvalidArgument, "{token}");
            assert!(failure.message.contains("page_token"));
        }
    }

    #[test]
    fn limits_have_a_default_and_a_maximum() {
        assert_eq!(page_limit(0).unwrap(), 100);
        assert_eq!(page_limit(1).unwrap(), 1);
        assert_eq!(page_limit(1_000).unwrap(), 1_000);
        let failure = page_limit(1_001).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidArgument);
        assert!(failure.message.contains("1001") && failure.message.contains("1000"), "{}", failure.message);
    }
}
