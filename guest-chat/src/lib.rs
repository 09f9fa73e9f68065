//! The chat module: `chat.v1.Chat` as a replicated state machine. This file is the module's face to the host: what it is
//! called, which methods are commands and which are queries.

#![deny(unsafe_code)]

mod checks;
mod commands;
mod queries;
mod schema;
#[cfg(test)]
mod tests;

use telegraft_guest::{Context, Failure, Module, Store, answer, unknown_method};

/// The chat module.
pub struct Chat;

telegraft_guest::export!(crate::Chat);

impl Module for Chat {
    const NAME: &'static str = "chat";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SCHEMA: u32 = schema::VERSION;
    const SERVICE: &'static [u8] = telegraft_proto::chat::FILE_DESCRIPTOR_SET;

    fn init(store: &dyn Store, _: &Context, from_schema: Option<u32>) -> Result<(), Failure> {
        schema::init(store, from_schema)
    }

    fn apply(store: &dyn Store, context: &Context, method: &str, command: &[u8]) -> Result<Vec<u8>, Failure> {
        match method {
            "chat.v1.Chat/SendMessage" => answer(command, |request| commands::send_message(store, context, request)),
            "chat.v1.Chat/CreateUser" => answer(command, |request| commands::create_user(store, context, request)),
            "chat.v1.Chat/CreateChat" => answer(command, |request| commands::create_chat(store, context, request)),
            "chat.v1.Chat/JoinChat" => answer(command, |request| commands::join_chat(store, request)),
            _ => Err(unknown_method(Self::NAME, "commands", method)),
        }
    }

    fn query(store: &dyn Store, _: &Context, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure> {
        match method {
            "chat.v1.Chat/GetMessages" => answer(request, |request| queries::get_messages(store, request)),
            "chat.v1.Chat/GetChatUsers" => answer(request, |request| queries::get_chat_users(store, request)),
            _ => Err(unknown_method(Self::NAME, "queries", method)),
        }
    }
}
