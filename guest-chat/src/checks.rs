//! What a request must look like before the store is asked: sizes, characters, ids.

use telegraft_guest::Failure;

/// Characters (Unicode scalar values) of a user's name.
pub const NAME_CHARACTERS_MAX: usize = 64;
/// Characters (Unicode scalar values) of a chat's title.
pub const TITLE_CHARACTERS_MAX: usize = 128;
/// Bytes of a message, in UTF-8.
pub const CONTENT_BYTES_MAX: usize = 4_096;

/// Checks a name or title: 1 to `max` characters, no control characters, no white space at either end (two names that
/// look the same would be two users).
///
/// # Errors
///
/// INVALID_ARGUMENT that says which rule was broken.
pub fn label(field: &str, text: &str, max: usize) -> Result<(), Failure> {
    let characters = text.chars().count();
    let refusal = if characters == 0 {
        format!("{field} is empty: it must have 1 to {max} characters")
    } else if characters > max {
        format!("{field} has {characters} characters: it may have 1 to {max}")
    } else if text.chars().any(char::is_control) {
        format!("{field} has a control character in it (a line break, a tab and the like)")
    } else if text.trim().len() != text.len() {
        format!("{field} begins or ends with white space")
    } else {
        return Ok(());
    };
    Err(Failure::invalid_argument(refusal))
}

/// Checks a message's content: 1 to 4,096 bytes.
///
/// # Errors
///
/// INVALID_ARGUMENT.
pub fn content(text: &str) -> Result<(), Failure> {
    match text.len() {
        0 => Err(Failure::invalid_argument(format!("content is empty: it must have 1 to {CONTENT_BYTES_MAX} bytes"))),
        1..=CONTENT_BYTES_MAX => Ok(()),
        bytes => {
            Err(Failure::invalid_argument(format!("content has {bytes} bytes: it may have 1 to {CONTENT_BYTES_MAX}")))
        }
    }
}
