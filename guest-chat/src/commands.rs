//! The commands: what changes the state. Each writes in as few statements as it can, and asks the store why only where a
//! statement found nothing to write.

use telegraft_guest::{Context, Failure, Store, parse_id};
use telegraft_proto::chat::{
    CreateChatReply, CreateChatRequest, CreateUserReply, CreateUserRequest, JoinChatReply, JoinChatRequest,
    SendMessageReply, SendMessageRequest,
};
use uuid::Uuid;

use crate::checks::{self, NAME_CHARACTERS_MAX, TITLE_CHARACTERS_MAX};

/// A new user.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad name, ALREADY_EXISTS for one that is taken.
pub fn create_user(
    store: &dyn Store,
    context: &Context,
    request: CreateUserRequest,
) -> Result<CreateUserReply, Failure> {
    checks::label("name", &request.name, NAME_CHARACTERS_MAX)?;
    let id = context.ids().draw();
    let created = store.execute(
        "INSERT INTO users (id, name) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
        &[(&id).into(), request.name.as_str().into()],
    )?;
    if created == 0 {
        return Err(Failure::already_exists(format!("the name {:?} is taken", request.name)));
    }
    Ok(CreateUserReply { user_id: id.to_string() })
}

/// A new chat, with its creator as the first member.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad title or id, NOT_FOUND for an unknown creator.
pub fn create_chat(
    store: &dyn Store,
    context: &Context,
    request: CreateChatRequest,
) -> Result<CreateChatReply, Failure> {
    let creator = parse_id("creator_id", &request.creator_id)?;
    checks::label("title", &request.title, TITLE_CHARACTERS_MAX)?;
    let id = context.ids().draw();
    let joined = store.execute(
        "INSERT INTO members (user, chat, name) SELECT id, ?2, name FROM users WHERE id = ?1",
        &[(&creator).into(), (&id).into()],
    )?;
    if joined == 0 {
        return Err(unknown_user(&creator));
    }
    store.execute("INSERT INTO chats (id, title) VALUES (?1, ?2)", &[(&id).into(), request.title.as_str().into()])?;
    Ok(CreateChatReply { chat_id: id.to_string() })
}

/// Makes a user a member of a chat; one who is a member already stays one.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad id, NOT_FOUND for an unknown user or chat.
pub fn join_chat(store: &dyn Store, request: JoinChatRequest) -> Result<JoinChatReply, Failure> {
    let user = parse_id("user_id", &request.user_id)?;
    let chat = parse_id("chat_id", &request.chat_id)?;
    let joined = store.execute(
        "INSERT INTO members (user, chat, name) \
         SELECT users.id, chats.id, users.name FROM users, chats WHERE users.id = ?1 AND chats.id = ?2 \
         ON CONFLICT (user, chat) DO NOTHING",
        &[(&user).into(), (&chat).into()],
    )?;
    if joined == 0 {
        require_user(store, &user)?;
        require_chat(store, &chat)?;
    }
    Ok(JoinChatReply { joined: joined > 0 })
}

/// A message to a chat. The one statement of the usual case both looks the membership up and writes.
///
/// # Errors
///
/// INVALID_ARGUMENT for a bad id or content, NOT_FOUND for an unknown user or chat, PERMISSION_DENIED for a user who is
/// not in the chat.
pub fn send_message(
    store: &dyn Store,
    context: &Context,
    request: SendMessageRequest,
) -> Result<SendMessageReply, Failure> {
    let user = parse_id("user_id", &request.user_id)?;
    let chat = parse_id("chat_id", &request.chat_id)?;
    checks::content(&request.content)?;
    let id = context.ids().draw();
    let written = store.execute(
        "INSERT INTO messages (chat, time_us, entry, id, sender, content) \
         SELECT chat, ?3, ?4, ?5, user, ?6 FROM members WHERE user = ?1 AND chat = ?2",
        &[
            (&user).into(),
            (&chat).into(),
            context.time_us.into(),
            context.index.into(),
            (&id).into(),
            request.content.as_str().into(),
        ],
    )?;
    if written == 0 {
        require_user(store, &user)?;
        require_chat(store, &chat)?;
        return Err(Failure::permission_denied(format!("user {user} is not in chat {chat}: JoinChat comes first")));
    }
    Ok(SendMessageReply { message_id: id.to_string(), time_us: context.time_us })
}

/// NOT_FOUND unless there is such a user.
pub fn require_user(store: &dyn Store, user: &Uuid) -> Result<(), Failure> {
    match store.first::<(i64,)>("SELECT 1 FROM users WHERE id = ?1", &[user.into()])? {
        Some(_) => Ok(()),
        None => Err(unknown_user(user)),
    }
}

/// NOT_FOUND unless there is such a chat.
pub fn require_chat(store: &dyn Store, chat: &Uuid) -> Result<(), Failure> {
    match store.first::<(i64,)>("SELECT 1 FROM chats WHERE id = ?1", &[chat.into()])? {
        Some(_) => Ok(()),
        None => Err(Failure::not_found(format!("there is no chat {chat}"))),
    }
}

fn unknown_user(user: &Uuid) -> Failure {
    Failure::not_found(format!("there is no user {user}"))
}
