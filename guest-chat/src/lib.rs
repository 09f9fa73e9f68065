//! The chat module: `chat.v1.Chat` as a replicated state machine. Here are the commands, which write in as few statements as
//! they can, and ask the tables why only where a statement found nothing to write.

#![deny(unsafe_code)]

mod checks;
mod queries;
mod schema;
#[cfg(test)]
mod tests;

/// Messages and methods of the service, generated from its .proto file.
mod proto {
    telegraft_guest::include_proto!("chat.v1");
}

use proto::*;
use telegraft_guest::{Command, Failure, Query, Uuid, params, parse_id};

use crate::checks::{NAME_CHARACTERS_MAX, TITLE_CHARACTERS_MAX};

/// The chat module.
pub struct Chat;

telegraft_guest::module!(Chat { name: "chat", migrations: schema::MIGRATIONS, services: [ChatService] });

impl proto::Chat for Chat {
    fn create_user(cx: &Command<'_>, request: CreateUserRequest) -> Result<CreateUserReply, Failure> {
        checks::label("name", &request.name, NAME_CHARACTERS_MAX)?;
        let id = cx.new_id();
        let created = cx.execute(
            "INSERT INTO users (id, name) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
            params![id, request.name],
        )?;
        if created == 0 {
            return Err(Failure::already_exists(format!("the name {:?} is taken", request.name)));
        }
        Ok(CreateUserReply { user_id: id.to_string() })
    }

    fn create_chat(cx: &Command<'_>, request: CreateChatRequest) -> Result<CreateChatReply, Failure> {
        let creator = parse_id("creator_id", &request.creator_id)?;
        checks::label("title", &request.title, TITLE_CHARACTERS_MAX)?;
        let id = cx.new_id();
        let joined = cx.execute(
            "INSERT INTO members (user, chat, name) SELECT id, ?2, name FROM users WHERE id = ?1",
            params![creator, id],
        )?;
        if joined == 0 {
            return Err(unknown_user(&creator));
        }
        cx.execute("INSERT INTO chats (id, title) VALUES (?1, ?2)", params![id, request.title])?;
        Ok(CreateChatReply { chat_id: id.to_string() })
    }

    fn join_chat(cx: &Command<'_>, request: JoinChatRequest) -> Result<JoinChatReply, Failure> {
        let user = parse_id("user_id", &request.user_id)?;
        let chat = parse_id("chat_id", &request.chat_id)?;
        let joined = cx.execute(
            "INSERT INTO members (user, chat, name) \
             SELECT users.id, chats.id, users.name FROM users, chats WHERE users.id = ?1 AND chats.id = ?2 \
             ON CONFLICT (user, chat) DO NOTHING",
            params![user, chat],
        )?;
        if joined == 0 {
            require_user(cx, &user)?;
            require_chat(cx, &chat)?;
        }
        Ok(JoinChatReply { joined: joined > 0 })
    }

    /// The one statement of the usual case both looks the membership up and writes.
    fn send_message(cx: &Command<'_>, request: SendMessageRequest) -> Result<SendMessageReply, Failure> {
        let user = parse_id("user_id", &request.user_id)?;
        let chat = parse_id("chat_id", &request.chat_id)?;
        checks::content(&request.content)?;
        let id = cx.new_id();
        let written = cx.execute(
            "INSERT INTO messages (chat, time_us, entry, id, sender, content) \
             SELECT chat, ?3, ?4, ?5, user, ?6 FROM members WHERE user = ?1 AND chat = ?2",
            params![user, chat, cx.now_us(), cx.index(), id, request.content],
        )?;
        if written == 0 {
            require_user(cx, &user)?;
            require_chat(cx, &chat)?;
            return Err(Failure::permission_denied(format!("user {user} is not in chat {chat}: JoinChat comes first")));
        }
        Ok(SendMessageReply { message_id: id.to_string(), time_us: cx.now_us() })
    }

    fn get_messages(cx: &Query<'_>, request: GetMessagesRequest) -> Result<GetMessagesReply, Failure> {
        queries::get_messages(cx, request)
    }

    fn get_chat_users(cx: &Query<'_>, request: GetChatUsersRequest) -> Result<GetChatUsersReply, Failure> {
        queries::get_chat_users(cx, request)
    }
}

/// NOT_FOUND unless there is such a user.
fn require_user(cx: &Query<'_>, user: &Uuid) -> Result<(), Failure> {
    match cx.query_value::<i64>("SELECT 1 FROM users WHERE id = ?1", params![user])? {
        Some(_) => Ok(()),
        None => Err(unknown_user(user)),
    }
}

/// NOT_FOUND unless there is such a chat.
fn require_chat(cx: &Query<'_>, chat: &Uuid) -> Result<(), Failure> {
    match cx.query_value::<i64>("SELECT 1 FROM chats WHERE id = ?1", params![chat])? {
        Some(_) => Ok(()),
        None => Err(Failure::not_found(format!("there is no chat {chat}"))),
    }
}

fn unknown_user(user: &Uuid) -> Failure {
    Failure::not_found(format!("there is no user {user}"))
}
