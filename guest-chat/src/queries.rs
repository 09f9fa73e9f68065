//! The queries: listings, page by page.

use telegraft_guest::{Failure, Page, Query, Uuid, page_limit, params, parse_id};

use crate::{
    proto::{ChatMessage, ChatUser, GetChatUsersReply, GetChatUsersRequest, GetMessagesReply, GetMessagesRequest},
    require_chat, require_user,
};

/// A page of messages ends early once their contents reach this many bytes: 1,000 of the longest would not fit into the
/// 4 MiB that gRPC clients accept by default.
pub const PAGE_BYTES: usize = 1 << 20;
/// Rows asked of the store at a time, so that no single result grows beyond a megabyte either.
const ROWS_AT_A_TIME: usize = 200;

// In each of the user's chats at most ?4 messages are looked at, straight from the key, however many there are; those are
// then sorted together.
pub const MESSAGES_OF_MY_CHATS: &str = "\
    SELECT m.id, m.chat, m.sender, users.name, m.content, m.time_us, m.entry \
    FROM members \
    JOIN messages AS m ON m.chat = members.chat AND (m.time_us, m.entry) IN ( \
        SELECT time_us, entry FROM messages \
        WHERE chat = members.chat AND (time_us, entry) > (?2, ?3) ORDER BY time_us, entry LIMIT ?4) \
    JOIN users ON users.id = m.sender \
    WHERE members.user = ?1 \
    ORDER BY m.time_us, m.entry LIMIT ?4";

telegraft_guest::row! {
    /// What that reads.
    struct Message {
        id: Uuid,
        chat: Uuid,
        sender: Uuid,
        name: String,
        content: String,
        time_us: u64,
        entry: u64,
    }
}

pub const MEMBERS_BY_NAME: &str = "SELECT user, name FROM members WHERE chat = ?1 AND name > ?2 ORDER BY name LIMIT ?3";

/// The messages of all chats a user is in, later than a time, oldest first; those of one microsecond in the order in which
/// they were written. Every message that the chats held when the first page was read is on exactly one page.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad id, limit or token, NOT_FOUND for an unknown user.
pub fn get_messages(cx: &Query<'_>, request: GetMessagesRequest) -> Result<GetMessagesReply, Failure> {
    let user = parse_id("user_id", &request.user_id)?;
    let limit = page_limit(request.limit)?;
    let page = Page::new(&[b"chat.v1.Chat/GetMessages", user.as_bytes(), &request.after_us.to_be_bytes()]);
    // After the whole of the microsecond `after_us`, or after the last message of the page before.
    let mut after = match page.cursor(&request.page_token)? {
        None => (request.after_us, u64::MAX),
        Some(cursor) => read_position(&cursor)?,
    };
    require_user(cx, &user)?;

    let mut messages = Vec::new();
    let mut bytes = 0;
    loop {
        // One more than the page holds tells whether there is a next one.
        let wanted = (limit + 1 - messages.len()).min(ROWS_AT_A_TIME);
        let rows: Vec<Message> =
            cx.query_as(MESSAGES_OF_MY_CHATS, params![user, stored(after.0), stored(after.1), wanted])?;
        let exhausted = rows.len() < wanted;
        for row in rows {
            if messages.len() == limit || bytes >= PAGE_BYTES {
                return Ok(GetMessagesReply { messages, next_page_token: page.token(&write_position(after)) });
            }
            bytes += row.content.len();
            after = (row.time_us, row.entry);
            messages.push(ChatMessage {
                message_id: row.id.to_string(),
                chat_id: row.chat.to_string(),
                sender_id: row.sender.to_string(),
                sender_name: row.name,
                content: row.content,
                time_us: row.time_us,
            });
        }
        if exhausted {
            return Ok(GetMessagesReply { messages, next_page_token: String::new() });
        }
    }
}

/// The members of a chat, by name (in byte order).
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad id, limit or token, NOT_FOUND for an unknown chat.
pub fn get_chat_users(cx: &Query<'_>, request: GetChatUsersRequest) -> Result<GetChatUsersReply, Failure> {
    let chat = parse_id("chat_id", &request.chat_id)?;
    let limit = page_limit(request.limit)?;
    let page = Page::new(&[b"chat.v1.Chat/GetChatUsers", chat.as_bytes()]);
    // No name is empty, so all of them come after the empty one.
    let after = match page.cursor(&request.page_token)? {
        None => String::new(),
        Some(cursor) => String::from_utf8(cursor).map_err(|_| Page::foreign_token())?,
    };
    require_chat(cx, &chat)?;

    let mut rows: Vec<(Uuid, String)> = cx.query_as(MEMBERS_BY_NAME, params![chat, after, limit + 1])?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_page_token = match rows.last() {
        Some((_, name)) if more => page.token(name.as_bytes()),
        _ => String::new(),
    };
    let users = rows.into_iter().map(|(user, name)| ChatUser { user_id: user.to_string(), name }).collect();
    Ok(GetChatUsersReply { users, next_page_token })
}

/// A bound of a listing. No time or entry is beyond SQLite's integers, so what is beyond them counts as the greatest one.
fn stored(bound: u64) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}

/// A place among the messages: time and entry, eight bytes each, most significant first.
fn write_position((time_us, entry): (u64, u64)) -> [u8; 16] {
    ((u128::from(time_us) << 64) | u128::from(entry)).to_be_bytes()
}

fn read_position(cursor: &[u8]) -> Result<(u64, u64), Failure> {
    let bits = u128::from_be_bytes(cursor.try_into().map_err(|_| Page::foreign_token())?);
    Ok(((bits >> 64) as u64, bits as u64))
}
