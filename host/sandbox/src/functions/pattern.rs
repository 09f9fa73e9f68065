//! LIKE and GLOB as SQLite matches them, with the work counted.
//!
//! SQLite's own need time that grows with the product of pattern and text, in a single VM step. Here the same is true in
//! the worst case, but every comparison counts, so the step budget ends it.

/// What one place of a pattern matches.
#[derive(Clone, Debug)]
enum Token {
    /// Any characters, also none.
    Any,
    /// One character.
    One,
    /// This character, for LIKE in either case where it is ASCII.
    Char(u32),
    /// One character in (or not in) these ranges.
    Set { ranges: Vec<(u32, u32)>, inverted: bool },
}

/// A pattern, ready to be matched.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// None for a pattern that matches nothing: a set without an end, an escape before nothing.
    tokens: Option<Vec<Token>>,
    folds_case: bool,
}

/// Comparisons between two reports of work.
const WORK_PER_REPORT: u64 = 4096;

impl Pattern {
    /// `escape`: the character after which the next one means itself.
    pub(super) fn like(pattern: &[u8], escape: Option<u32>) -> Pattern {
        let mut rest = until_nul(pattern);
        let mut tokens = Vec::with_capacity(rest.len());
        let never = Pattern { tokens: None, folds_case: true };
        while let Some(c) = next(&mut rest) {
            if Some(c) == escape {
                let Some(c) = next(&mut rest) else { return never };
                tokens.push(Token::Char(c));
            } else if c == u32::from(b'%') {
                tokens.push(Token::Any);
            } else if c == u32::from(b'_') {
                tokens.push(Token::One);
            } else {
                tokens.push(Token::Char(fold(c)));
            }
        }
        for token in &mut tokens {
            if let Token::Char(c) = token {
                *c = fold(*c);
            }
        }
        Pattern { tokens: Some(tokens), folds_case: true }
    }

    pub(super) fn glob(pattern: &[u8]) -> Pattern {
        let mut rest = until_nul(pattern);
        let mut tokens = Vec::with_capacity(rest.len());
        while let Some(c) = next(&mut rest) {
            tokens.push(match u8::try_from(c) {
                Ok(b'*') => Token::Any,
                Ok(b'?') => Token::One,
                Ok(b'[') => match set(&mut rest) {
                    Some(set) => set,
                    None => return Pattern { tokens: None, folds_case: false },
                },
                _ => Token::Char(c),
            });
        }
        Pattern { tokens: Some(tokens), folds_case: false }
    }

    /// `report` is told of comparisons made, in portions; its error ends the match.
    pub(super) fn matches<E>(&self, text: &[u8], mut report: impl FnMut(u64) -> Result<(), E>) -> Result<bool, E> {
        let Some(tokens) = &self.tokens else { return Ok(false) };
        let text = until_nul(text);
        let mut work: u64 = 0;
        let (mut token, mut rest) = (0, text);
        // Where to go on after a mismatch: behind the newest Any, which then takes one character more.
        let mut retry: Option<(usize, &[u8])> = None;
        let matched = loop {
            work += 1;
            if work >= WORK_PER_REPORT {
                report(work)?;
                work = 0;
            }
            let mut after = rest;
            match tokens.get(token) {
                None if rest.is_empty() => break true,
                None => {}
                Some(Token::Any) => {
                    token += 1;
                    if token == tokens.len() {
                        break true;
                    }
                    retry = Some((token, rest));
                    continue;
                }
                Some(single) => {
                    // Each token takes one character, so with a later start there would be too few of them too.
                    let Some(c) = next(&mut after) else { break false };
                    let fits = match single {
                        Token::Any | Token::One => true,
                        Token::Char(wanted) => *wanted == if self.folds_case { fold(c) } else { c },
                        Token::Set { ranges, inverted } => {
                            work += ranges.len() as u64;
                            ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *inverted
                        }
                    };
                    if fits {
                        token += 1;
                        rest = after;
                        continue;
                    }
                }
            }
            let Some((again, from)) = retry else { break false };
            let mut from = from;
            if next(&mut from).is_none() {
                break false;
            }
            (token, rest) = (again, from);
            retry = Some((again, from));
        };
        report(work)?;
        Ok(matched)
    }
}

/// A set, after its `[`.
fn set(rest: &mut &[u8]) -> Option<Token> {
    let mut ranges = Vec::new();
    let mut c = next(rest)?;
    let inverted = c == u32::from(b'^');
    if inverted {
        c = next(rest)?;
    }
    if c == u32::from(b']') {
        // In the first place it means itself, and begins no range.
        ranges.push((c, c));
        c = next(rest)?;
    }
    let mut first = None;
    while c != u32::from(b']') {
        let ends_here = matches!(rest.first(), None | Some(b']'));
        match first {
            Some(from) if c == u32::from(b'-') && !ends_here => {
                ranges.push((from, next(rest)?));
                first = None;
            }
            _ => {
                ranges.push((c, c));
                first = Some(c);
            }
        }
        c = next(rest)?;
    }
    Some(Token::Set { ranges, inverted })
}

/// The lower case of an ASCII letter.
fn fold(c: u32) -> u32 {
    u8::try_from(c).map_or(c, |byte| u32::from(byte.to_ascii_lowercase()))
}

/// SQLite's texts end at a NUL where patterns are concerned.
pub(super) fn until_nul(text: &[u8]) -> &[u8] {
    text.get(..memchr::memchr(0, text).unwrap_or(text.len())).unwrap_or(text)
}

/// The next character as SQLite reads it: UTF-8, and of what is not UTF-8 something too, always the same.
pub(super) fn next(rest: &mut &[u8]) -> Option<u32> {
    let (&lead, mut after) = rest.split_first()?;
    let mut c = match lead {
        // A continuation without its beginning stands for itself.
        0..=0xbf => {
            *rest = after;
            return Some(u32::from(lead));
        }
        0xc0..=0xdf => u32::from(lead & 0x1f),
        0xe0..=0xef => u32::from(lead & 0x0f),
        0xf0..=0xf7 => u32::from(lead & 0x07),
        0xf8..=0xfb => u32::from(lead & 0x03),
        0xfc..=0xfd => u32::from(lead & 0x01),
        0xfe..=0xff => 0,
    };
    while let Some((&byte, behind)) = after.split_first() {
        if byte & 0xc0 != 0x80 {
            break;
        }
        c = (c << 6).wrapping_add(u32::from(byte & 0x3f));
        after = behind;
    }
    *rest = after;
    // Overlong forms of ASCII, surrogates, and two that are no characters.
    let is_none = c < 0x80 || c & 0xffff_f800 == 0xd800 || c & 0xffff_fffe == 0xfffe;
    Some(if is_none { 0xfffd } else { c })
}
