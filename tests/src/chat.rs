//! The chat module as its users see it: methods by name, and the few steps that most tests and the demo begin with.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use telegraft_proto::chat::{
    ChatMessage, CreateChatReply, CreateChatRequest, CreateUserReply, CreateUserRequest, GetMessagesReply,
    GetMessagesRequest, JoinChatReply, JoinChatRequest, SendMessageReply, SendMessageRequest,
};
use tonic::Status;

use crate::{
    client::{Answer, HostClient, Session},
    polling::PATIENCE,
};

/// Full method names, as the log knows them.
pub const CREATE_USER: &str = "chat.v1.Chat/CreateUser";
/// See [`CREATE_USER`].
pub const CREATE_CHAT: &str = "chat.v1.Chat/CreateChat";
/// See [`CREATE_USER`].
pub const JOIN_CHAT: &str = "chat.v1.Chat/JoinChat";
/// See [`CREATE_USER`].
pub const SEND_MESSAGE: &str = "chat.v1.Chat/SendMessage";
/// See [`CREATE_USER`].
pub const GET_MESSAGES: &str = "chat.v1.Chat/GetMessages";

/// Messages asked for at once.
const PAGE: u32 = 500;

/// A user in a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The user's id.
    pub user: String,
    /// The chat's id.
    pub chat: String,
}

/// Makes a user.
///
/// # Errors
///
/// Those of [`Session::write`].
pub async fn create_user(hosts: &[HostClient], first: usize, name: &str) -> Result<Answer<CreateUserReply>, Status> {
    let message = CreateUserRequest { name: name.to_owned() };
    Session::new("create-user").write(hosts, first, CREATE_USER, &message, PATIENCE).await
}

/// Makes a chat; its creator is a member.
///
/// # Errors
///
/// Those of [`Session::write`].
pub async fn create_chat(
    hosts: &[HostClient],
    first: usize,
    creator: &str,
    title: &str,
) -> Result<Answer<CreateChatReply>, Status> {
    let message = CreateChatRequest { creator_id: creator.to_owned(), title: title.to_owned() };
    Session::new("create-chat").write(hosts, first, CREATE_CHAT, &message, PATIENCE).await
}

/// Lets a user into a chat.
///
/// # Errors
///
/// Those of [`Session::write`].
pub async fn join(hosts: &[HostClient], first: usize, member: &Member) -> Result<Answer<JoinChatReply>, Status> {
    let message = JoinChatRequest { user_id: member.user.clone(), chat_id: member.chat.clone() };
    Session::new("join").write(hosts, first, JOIN_CHAT, &message, PATIENCE).await
}

/// Makes a user of this name, and a chat that the user is in.
///
/// # Errors
///
/// Those of [`Session::write`].
pub async fn user_in_chat(hosts: &[HostClient], name: &str) -> Result<Member, Status> {
    let user = create_user(hosts, 0, name).await?.message.user_id;
    let chat = create_chat(hosts, 0, &user, &format!("{name}'s chat")).await?.message.chat_id;
    Ok(Member { user, chat })
}

/// The request that sends `content`.
pub fn message(member: &Member, content: &str) -> SendMessageRequest {
    SendMessageRequest { user_id: member.user.clone(), chat_id: member.chat.clone(), content: content.to_owned() }
}

/// Sends a message, in a session of its own.
///
/// # Errors
///
/// Those of [`Session::write`].
pub async fn send(
    hosts: &[HostClient],
    first: usize,
    member: &Member,
    content: &str,
) -> Result<Answer<SendMessageReply>, Status> {
    send_within(hosts, first, member, content, PATIENCE).await
}

/// [`send`] with a bound of its own.
///
/// # Errors
///
/// Those of [`Session::write`].
pub async fn send_within(
    hosts: &[HostClient],
    first: usize,
    member: &Member,
    content: &str,
    within: Duration,
) -> Result<Answer<SendMessageReply>, Status> {
    Session::new("send").write(hosts, first, SEND_MESSAGE, &message(member, content), within).await
}

/// All messages that a user sees on one host, which must have applied `index` (0: whatever it has).
///
/// # Errors
///
/// Those of [`HostClient::read`], and where the pages are not in order or never end.
pub async fn read_all(host: &HostClient, user: &str, index: u64) -> Result<Vec<ChatMessage>> {
    let mut all: Vec<ChatMessage> = Vec::new();
    let mut request = GetMessagesRequest { user_id: user.to_owned(), limit: PAGE, ..Default::default() };
    loop {
        let page: GetMessagesReply = host.read(GET_MESSAGES, &request, index).await?.message;
        all.extend(page.messages);
        ensure!(all.is_sorted_by_key(|message| message.time_us), "messages are not in the order of their times");
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        ensure!(
            page.next_page_token != request.page_token,
            "the pages never end: {:?} comes again",
            request.page_token
        );
        request.page_token = page.next_page_token;
    }
}

/// How often each content occurs.
pub fn counted(messages: &[ChatMessage]) -> BTreeMap<&str, usize> {
    messages.iter().fold(BTreeMap::new(), |mut counts, message| {
        *counts.entry(message.content.as_str()).or_default() += 1;
        counts
    })
}
