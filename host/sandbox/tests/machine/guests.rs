//! The repository's own modules: chat and key-value, swapped and back.

use prost::Message;
use telegraft_modules::{CHAT, KV};
use telegraft_node::ports::{Code, Queries};
use telegraft_proto::{chat, kv};

use crate::probe::{Rig, call, code, sandbox};

impl Rig {
    fn write<R: Message + Default>(&mut self, method: &str, request: &impl Message) -> R {
        let reply = self.one(call(method, request.encode_to_vec())).expect(method);
        R::decode(reply).expect("reply")
    }

    fn read<R: Message + Default>(&self, method: &str, request: &impl Message) -> R {
        let (_, outcome) = self.reader.query(method, &request.encode_to_vec()).expect("query");
        R::decode(outcome.expect(method)).expect("reply")
    }
}

#[test]
fn both_pass_inspection() {
    let chat = sandbox().inspect(CHAT).unwrap();
    let query = |name: &str| chat.methods.iter().find(|m| m.name == name).map(|m| m.query);
    assert_eq!(query("chat.v1.Chat/SendMessage"), Some(false));
    assert_eq!(query("chat.v1.Chat/GetMessages"), Some(true));
    let kv = sandbox().inspect(KV).unwrap();
    assert!(kv.methods.iter().any(|m| m.name == "kv.v1.Kv/Scan" && m.query));
    assert_ne!(chat.name, kv.name);
}

#[test]
fn chat_is_swapped_for_kv_and_back_with_its_data() {
    let mut rig = Rig::empty();
    rig.install(CHAT, false);
    let user: chat::CreateUserReply =
        rig.write("chat.v1.Chat/CreateUser", &chat::CreateUserRequest { name: "ada".into() });
    let room: chat::CreateChatReply = rig.write(
        "chat.v1.Chat/CreateChat",
        &chat::CreateChatRequest { creator_id: user.user_id.clone(), title: "engines".into() },
    );
    let message = |content: &str| chat::SendMessageRequest {
        user_id: user.user_id.clone(),
        chat_id: room.chat_id.clone(),
        content: content.into(),
    };
    let sent: chat::SendMessageReply = rig.write("chat.v1.Chat/SendMessage", &message("hello"));
    assert_ne!(sent.message_id, "");
    let stranger = chat::SendMessageRequest { user_id: "nobody".into(), ..message("x") };
    assert!(code(&rig.one(call("chat.v1.Chat/SendMessage", stranger.encode_to_vec()))).is_some());

    rig.install(KV, true);
    let put: kv::PutReply = rig.write("kv.v1.Kv/Put", &kv::PutRequest { key: "k".into(), value: "v".into() });
    assert_eq!(put.version, 1);
    let got: kv::GetReply = rig.read("kv.v1.Kv/Get", &kv::GetRequest { key: "k".into() });
    assert_eq!(got.value, "v");
    let outcome = rig.one(call("chat.v1.Chat/SendMessage", message("lost").encode_to_vec()));
    assert_eq!(code(&outcome), Some(Code::Unimplemented));

    rig.install(CHAT, false);
    let again: chat::SendMessageReply = rig.write("chat.v1.Chat/SendMessage", &message("again"));
    assert_ne!(again.message_id, sent.message_id);
    let request = chat::GetMessagesRequest { user_id: user.user_id.clone(), ..Default::default() };
    let all: chat::GetMessagesReply = rig.read("chat.v1.Chat/GetMessages", &request);
    assert_eq!(all.messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["hello", "again"]);

    let rig = rig.reopen();
    let after: chat::GetMessagesReply = rig.read("chat.v1.Chat/GetMessages", &request);
    assert_eq!(after, all);
}
