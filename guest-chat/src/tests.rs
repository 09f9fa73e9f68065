//! The module as the host sees it, over a SQLite database in memory: every behaviour and every refusal.

use prost::Message;
use telegraft_guest::{Context, Failure, FailureCode, MemoryStore, Module, Store};
use telegraft_proto::chat::*;
use uuid::Uuid;

use crate::{Chat, queries};

const START_US: u64 = 1_700_000_000_000_000;

/// A machine with the module's tables, whose log is counted here.
struct Machine {
    store: MemoryStore,
    index: u64,
    time_us: u64,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { store: MemoryStore::open().unwrap(), index: 1, time_us: START_US };
        machine.store.entry(|store| Chat::init(store, &machine.context(), None)).unwrap();
        machine
    }

    fn context(&self) -> Context {
        // Entropy as different as an entry's: neighbours share no pattern.
        let entropy = self.index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Context { index: self.index, time_us: self.time_us, entropy: (entropy, !entropy) }
    }

    fn apply_bytes(&mut self, method: &str, command: &[u8]) -> Result<Vec<u8>, Failure> {
        self.index += 1;
        let context = self.context();
        self.store.entry(|store| Chat::apply(store, &context, method, command))
    }

    fn apply<Reply: Message + Default>(&mut self, method: &str, request: &impl Message) -> Result<Reply, Failure> {
        let reply = self.apply_bytes(&format!("chat.v1.Chat/{method}"), &request.encode_to_vec())?;
        Ok(Reply::decode(reply.as_slice()).unwrap())
    }

    fn query<Reply: Message + Default>(&self, method: &str, request: &impl Message) -> Result<Reply, Failure> {
        let method = format!("chat.v1.Chat/{method}");
        let request = request.encode_to_vec();
        let reply = self.store.read(|store| Chat::query(store, &self.context(), &method, &request))?;
        Ok(Reply::decode(reply.as_slice()).unwrap())
    }

    fn try_user(&mut self, name: &str) -> Result<String, Failure> {
        let request = CreateUserRequest { name: name.into() };
        self.apply::<CreateUserReply>("CreateUser", &request).map(|reply| reply.user_id)
    }

    fn user(&mut self, name: &str) -> String {
        self.try_user(name).unwrap()
    }

    fn try_chat(&mut self, creator: &str, title: &str) -> Result<String, Failure> {
        let request = CreateChatRequest { creator_id: creator.into(), title: title.into() };
        self.apply::<CreateChatReply>("CreateChat", &request).map(|reply| reply.chat_id)
    }

    fn chat(&mut self, creator: &str) -> String {
        self.try_chat(creator, "a chat").unwrap()
    }

    fn join(&mut self, user: &str, chat: &str) -> Result<bool, Failure> {
        let request = JoinChatRequest { user_id: user.into(), chat_id: chat.into() };
        self.apply::<JoinChatReply>("JoinChat", &request).map(|reply| reply.joined)
    }

    fn send(&mut self, user: &str, chat: &str, content: &str) -> Result<SendMessageReply, Failure> {
        let request = SendMessageRequest { user_id: user.into(), chat_id: chat.into(), content: content.into() };
        self.apply("SendMessage", &request)
    }

    fn messages(&self, request: &GetMessagesRequest) -> Result<GetMessagesReply, Failure> {
        self.query("GetMessages", request)
    }

    /// All pages of a listing, and their sizes.
    fn all_messages(&self, user: &str, after_us: u64, limit: u32) -> (Vec<ChatMessage>, Vec<usize>) {
        let mut request = GetMessagesRequest { user_id: user.into(), after_us, limit, page_token: String::new() };
        let (mut messages, mut sizes) = (Vec::new(), Vec::new());
        loop {
            let page = self.messages(&request).unwrap();
            sizes.push(page.messages.len());
            messages.extend(page.messages);
            if page.next_page_token.is_empty() {
                return (messages, sizes);
            }
            request.page_token = page.next_page_token;
        }
    }

    fn contents(&self, user: &str, after_us: u64) -> Vec<String> {
        self.all_messages(user, after_us, 1_000).0.into_iter().map(|message| message.content).collect()
    }

    fn members(&self, chat: &str, limit: u32, page_token: &str) -> Result<GetChatUsersReply, Failure> {
        let page_token = page_token.into();
        self.query("GetChatUsers", &GetChatUsersRequest { chat_id: chat.into(), limit, page_token })
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Failure>, code: FailureCode, with: &str) {
    let failure = outcome.unwrap_err();
    assert_eq!(failure.code, code, "{failure:?}");
    assert!(failure.message.contains(with), "{:?} does not say {with:?}", failure.message);
}

fn some_id() -> String {
    Uuid::from_u128(0x01890a5d_ac96_774b_bcce_b302099a8057).to_string()
}

#[test]
fn describes_itself_with_its_service() {
    let files = telegraft_proto::chat::FILE_DESCRIPTOR_SET;
    assert_eq!((Chat::NAME, Chat::VERSION, Chat::SCHEMA), ("chat", env!("CARGO_PKG_VERSION"), 1));
    assert_eq!(Chat::SERVICE, files);
    assert!(files.windows(11).any(|name| name == b"SendMessage"));
}

#[test]
fn init_begins_on_an_empty_store_only() {
    let machine = Machine::new();
    for from in [0, 1, 2, u32::MAX] {
        let again = machine.store.entry(|store| Chat::init(store, &machine.context(), Some(from)));
        refused(again, FailureCode::FailedPrecondition, &format!("schema {from}"));
    }
}

#[test]
fn ids_are_version_7_of_the_entry_s_time_and_never_repeat() {
    let mut machine = Machine::new();
    let user = machine.user("ada");
    let chat = machine.chat(&user);
    let message = machine.send(&user, &chat, "x").unwrap().message_id;
    for id in [&user, &chat, &message] {
        let id = Uuid::try_parse(id).unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_timestamp().unwrap().to_unix().0, START_US / 1_000_000);
    }
    assert!(user != chat && chat != message && user != message);
}

#[test]
fn a_name_is_taken_once() {
    let mut machine = Machine::new();
    machine.user("ada");
    refused(machine.try_user("ada"), FailureCode::AlreadyExists, "\"ada\"");
    machine.user("Ada");
    machine.user("ada l.");
}

#[test]
fn names_and_titles_have_rules() {
    let mut machine = Machine::new();
    let user = machine.user(&"é".repeat(64));
    machine.try_chat(&user, &"é".repeat(128)).unwrap();
    machine.try_chat(&user, "x").unwrap();
    for (text, why) in [
        (String::new(), "is empty"),
        ("é".repeat(129), "has 129 characters"),
        (" a".into(), "white space"),
        ("a ".into(), "white space"),
        ("\u{2003}a".into(), "white space"),
        (" ".into(), "white space"),
        ("a\nb".into(), "control character"),
        ("a\0b".into(), "control character"),
    ] {
        refused(machine.try_user(&text), FailureCode::InvalidArgument, why);
        refused(machine.try_chat(&user, &text), FailureCode::InvalidArgument, why);
        refused(machine.try_chat(&user, &text), FailureCode::InvalidArgument, "title");
    }
    refused(
        machine.try_user(&"é".repeat(65)),
        FailureCode::InvalidArgument,
        "name has 65 characters: it may have 1 to 64",
    );
    refused(machine.try_chat(&user, &"t".repeat(129)), FailureCode::InvalidArgument, "1 to 128");
}

#[test]
fn a_chat_needs_a_known_creator_who_becomes_a_member() {
    let mut machine = Machine::new();
    refused(machine.try_chat(&some_id(), "t"), FailureCode::NotFound, &format!("no user {}", some_id()));
    refused(machine.try_chat("ada", "t"), FailureCode::InvalidArgument, "creator_id");
    let user = machine.user("ada");
    let chat = machine.chat(&user);
    let members = machine.members(&chat, 0, "").unwrap();
    assert_eq!(members.users, [ChatUser { user_id: user, name: "ada".into() }]);
    assert!(members.next_page_token.is_empty());
}

#[test]
fn joining_twice_is_told() {
    let mut machine = Machine::new();
    let (ada, bob) = (machine.user("ada"), machine.user("bob"));
    let chat = machine.chat(&ada);
    assert!(!machine.join(&ada, &chat).unwrap());
    assert!(machine.join(&bob, &chat).unwrap());
    assert!(!machine.join(&bob, &chat).unwrap());
    assert_eq!(machine.members(&chat, 0, "").unwrap().users.len(), 2);
    refused(machine.join(&some_id(), &chat), FailureCode::NotFound, "no user");
    refused(machine.join(&bob, &some_id()), FailureCode::NotFound, "no chat");
    // An id of the other kind is not one of this kind.
    refused(machine.join(&chat, &chat), FailureCode::NotFound, "no user");
    refused(machine.join(&bob, &bob), FailureCode::NotFound, "no chat");
    refused(machine.join("", &chat), FailureCode::InvalidArgument, "user_id is empty");
    refused(machine.join(&bob, "x"), FailureCode::InvalidArgument, "chat_id");
}

#[test]
fn only_members_write() {
    let mut machine = Machine::new();
    let (ada, bob) = (machine.user("ada"), machine.user("bob"));
    let chat = machine.chat(&ada);
    refused(machine.send(&bob, &chat, "hi"), FailureCode::PermissionDenied, "is not in chat");
    refused(machine.send(&some_id(), &chat, "hi"), FailureCode::NotFound, "no user");
    refused(machine.send(&ada, &some_id(), "hi"), FailureCode::NotFound, "no chat");
    refused(machine.send("x", &chat, "hi"), FailureCode::InvalidArgument, "user_id");
    refused(machine.send(&ada, "", "hi"), FailureCode::InvalidArgument, "chat_id is empty");
    assert!(machine.contents(&ada, 0).is_empty());
    machine.join(&bob, &chat).unwrap();
    machine.time_us += 5;
    let sent = machine.send(&bob, &chat, "hi").unwrap();
    assert_eq!(sent.time_us, START_US + 5);
    let (messages, _) = machine.all_messages(&ada, 0, 0);
    let expected = ChatMessage {
        message_id: sent.message_id,
        chat_id: chat,
        sender_id: bob,
        sender_name: "bob".into(),
        content: "hi".into(),
        time_us: START_US + 5,
    };
    assert_eq!(messages, [expected]);
}

#[test]
fn content_has_1_to_4096_bytes() {
    let mut machine = Machine::new();
    let user = machine.user("ada");
    let chat = machine.chat(&user);
    refused(machine.send(&user, &chat, ""), FailureCode::InvalidArgument, "content is empty");
    refused(machine.send(&user, &chat, &"x".repeat(4_097)), FailureCode::InvalidArgument, "content has 4097 bytes");
    // Bytes, not characters.
    refused(machine.send(&user, &chat, &"é".repeat(2_049)), FailureCode::InvalidArgument, "4098 bytes");
    for content in ["x", "a\0b\n\u{1f980}", &"é".repeat(2_048)] {
        machine.send(&user, &chat, content).unwrap();
    }
    assert_eq!(machine.contents(&user, 0), ["x", "a\0b\n\u{1f980}", &"é".repeat(2_048)]);
}

#[test]
fn messages_come_from_all_of_one_s_chats_and_no_other() {
    let mut machine = Machine::new();
    let (ada, bob) = (machine.user("ada"), machine.user("bob"));
    let (first, second, foreign) = (machine.chat(&ada), machine.chat(&ada), machine.chat(&bob));
    for (number, (user, chat)) in
        [(&ada, &first), (&bob, &foreign), (&ada, &second), (&ada, &first)].into_iter().enumerate()
    {
        machine.time_us = START_US + 10 * number as u64;
        machine.send(user, chat, &number.to_string()).unwrap();
    }
    assert_eq!(machine.contents(&ada, 0), ["0", "2", "3"]);
    assert_eq!(machine.contents(&bob, 0), ["1"]);
    // Later than the time, not at it.
    assert_eq!(machine.contents(&ada, START_US), ["2", "3"]);
    assert_eq!(machine.contents(&ada, START_US + 19), ["2", "3"]);
    assert_eq!(machine.contents(&ada, START_US + 20), ["3"]);
    assert!(machine.contents(&ada, START_US + 30).is_empty());
    assert!(machine.contents(&ada, u64::MAX).is_empty());
    // One who joins reads what was written before.
    machine.join(&bob, &first).unwrap();
    assert_eq!(machine.contents(&bob, 0), ["0", "1", "3"]);
}

#[test]
fn paging_is_complete_within_one_microsecond_and_while_more_is_written() {
    let mut machine = Machine::new();
    let user = machine.user("ada");
    let chats: Vec<_> = (0..3).map(|_| machine.chat(&user)).collect();
    let mut written = Vec::new();
    for number in 0..61_usize {
        // Long stretches of one microsecond, and chats in no particular order.
        machine.time_us = START_US + (number / 25) as u64;
        let chat = &chats[number * number % 3];
        written.push(machine.send(&user, chat, &number.to_string()).unwrap().message_id);
    }
    let ids = |messages: Vec<ChatMessage>| messages.into_iter().map(|m| m.message_id).collect::<Vec<_>>();
    for limit in [1, 2, 7, 60, 61, 62, 1_000] {
        let (messages, sizes) = machine.all_messages(&user, 0, limit);
        assert_eq!(ids(messages), written, "limit {limit}");
        assert_eq!(sizes.len(), 61_usize.div_ceil(limit as usize), "limit {limit}");
    }
    // The reader stands in the middle of a microsecond when more is written within it.
    let mut request = GetMessagesRequest { user_id: user.clone(), limit: 55, ..Default::default() };
    let mut read = machine.messages(&request).unwrap();
    for number in 61..80 {
        written.push(machine.send(&user, &chats[number % 3], "late").unwrap().message_id);
    }
    request.page_token = std::mem::take(&mut read.next_page_token);
    let mut messages = read.messages;
    messages.extend(machine.messages(&request).unwrap().messages);
    assert_eq!(ids(messages), written);
}

#[test]
fn a_page_has_100_messages_by_default_and_ends_early_where_they_are_long() {
    let mut machine = Machine::new();
    let user = machine.user("ada");
    let chat = machine.chat(&user);
    let long = "x".repeat(4_096);
    for _ in 0..300 {
        machine.time_us += 1;
        machine.send(&user, &chat, &long).unwrap();
    }
    assert_eq!(machine.all_messages(&user, 0, 0).1, [100, 100, 100]);
    let fitting = queries::PAGE_BYTES / long.len();
    assert_eq!(machine.all_messages(&user, 0, 1_000).1, [fitting, 300 - fitting]);
    assert_eq!(machine.all_messages(&user, 0, 299).1, [fitting, 300 - fitting]);
    assert_eq!(machine.all_messages(&user, 0, 201).1, [201, 99]);
}

#[test]
fn bad_page_requests_are_refused() {
    let mut machine = Machine::new();
    let (ada, bob) = (machine.user("ada"), machine.user("bob"));
    let chat = machine.chat(&ada);
    machine.join(&bob, &chat).unwrap();
    for _ in 0..3 {
        machine.send(&ada, &chat, "x").unwrap();
    }
    let good = GetMessagesRequest { user_id: ada.clone(), limit: 1, ..Default::default() };
    let token = machine.messages(&good).unwrap().next_page_token;
    type Change = fn(&mut GetMessagesRequest);
    let with = |change: Change| {
        let mut request = GetMessagesRequest { page_token: token.clone(), ..good.clone() };
        change(&mut request);
        request
    };
    machine.messages(&with(|_| {})).unwrap();
    machine.messages(&with(|request| request.limit = 2)).unwrap();
    let refusals: [(Change, FailureCode, &str); 6] = [
        (|r| r.limit = 1_001, FailureCode::InvalidArgument, "limit is 1001: at most 1000"),
        (|r| r.after_us = 1, FailureCode::InvalidArgument, "page_token"),
        (|r| r.page_token = "next".into(), FailureCode::InvalidArgument, "page_token"),
        (|r| r.page_token.push_str("00"), FailureCode::InvalidArgument, "page_token"),
        (|r| r.user_id = "?".into(), FailureCode::InvalidArgument, "user_id"),
        (|r| (r.user_id, r.page_token) = (some_id(), String::new()), FailureCode::NotFound, "no user"),
    ];
    for (change, code, why) in refusals {
        refused(machine.messages(&with(change)), code, why);
    }
    refused(
        machine.messages(&GetMessagesRequest { user_id: bob, page_token: token.clone(), ..good.clone() }),
        FailureCode::InvalidArgument,
        "page_token",
    );
    let members = machine.members(&chat, 1, "").unwrap().next_page_token;
    assert!(!members.is_empty());
    let foreign = GetMessagesRequest { page_token: members, ..good };
    refused(machine.messages(&foreign), FailureCode::InvalidArgument, "page_token");
    refused(machine.members(&chat, 1, &token), FailureCode::InvalidArgument, "page_token");
    refused(machine.members(&chat, 5_000, ""), FailureCode::InvalidArgument, "limit is 5000");
    refused(machine.members("", 0, ""), FailureCode::InvalidArgument, "chat_id is empty");
    refused(machine.members(&some_id(), 0, ""), FailureCode::NotFound, "no chat");
    // A user is no chat.
    refused(machine.members(&ada, 0, ""), FailureCode::NotFound, "no chat");
}

#[test]
fn members_are_listed_by_name_page_by_page() {
    let mut machine = Machine::new();
    let creator = machine.user("m");
    let chat = machine.chat(&creator);
    let other = machine.chat(&creator);
    let mut names = vec!["m".to_owned()];
    for name in ["zoë", "a", "Ab", "é", "b b", "0"] {
        let user = machine.user(name);
        machine.join(&user, &chat).unwrap();
        names.push(name.into());
    }
    let outsider = machine.user("c");
    machine.join(&outsider, &other).unwrap();
    names.sort_unstable();
    for limit in [1, 2, 3, 6, 7, 8] {
        let (mut listed, mut pages, mut token) = (Vec::new(), 0, String::new());
        loop {
            let page = machine.members(&chat, limit, &token).unwrap();
            assert!(page.users.len() <= limit as usize);
            listed.extend(page.users.into_iter().map(|user| user.name));
            pages += 1;
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, names, "limit {limit}");
        assert_eq!(pages, 7_usize.div_ceil(limit as usize), "limit {limit}");
    }
}

#[test]
fn malformed_requests_and_unknown_methods_are_refused() {
    let mut machine = Machine::new();
    for method in ["CreateUser", "CreateChat", "JoinChat", "SendMessage"] {
        // A field of four bytes of which there is but one; and text that is not UTF-8.
        for bytes in [&[0x0a, 4, b'x'][..], &[0x0a, 1, 0xff], &[0xff]] {
            let outcome = machine.apply_bytes(&format!("chat.v1.Chat/{method}"), bytes);
            refused(outcome, FailureCode::InvalidArgument, "malformed");
        }
    }
    for method in ["GetMessages", "GetChatUsers"] {
        let method = format!("chat.v1.Chat/{method}");
        let outcome = Chat::query(&machine.store, &machine.context(), &method, &[0x0a, 4, b'x']);
        refused(outcome, FailureCode::InvalidArgument, "malformed");
        // A query is no command, and the other way round.
        refused(machine.apply_bytes(&method, &[]), FailureCode::Unimplemented, &method);
    }
    for method in ["chat.v1.Chat/SendMessage", "chat.v1.Chat/Shout", "kv.v1.Kv/Get", "", "/chat.v1.Chat/GetMessages"] {
        let outcome = Chat::query(&machine.store, &machine.context(), method, &[]);
        refused(outcome, FailureCode::Unimplemented, &format!("{method:?}"));
    }
    refused(machine.apply_bytes("chat.v1.Chat/Shout", &[]), FailureCode::Unimplemented, "Shout");
    let long = machine.apply_bytes(&"x".repeat(100_000), &[]).unwrap_err();
    assert!(long.message.len() < 300);
}

#[test]
fn a_refused_entry_leaves_nothing_behind() {
    let mut machine = Machine::new();
    let user = machine.user("ada");
    let count = |machine: &Machine| {
        let store: &dyn Store = &machine.store;
        let counts: Option<(i64, i64, i64, i64)> = store
            .first(
                "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM chats), (SELECT count(*) FROM members), \
                 (SELECT count(*) FROM messages)",
                &[],
            )
            .unwrap();
        counts.unwrap()
    };
    let before = count(&machine);
    assert_eq!(before, (1, 0, 0, 0));
    machine.try_user("ada").unwrap_err();
    machine.try_chat(&some_id(), "t").unwrap_err();
    machine.try_chat(&user, "").unwrap_err();
    machine.join(&user, &some_id()).unwrap_err();
    machine.send(&user, &some_id(), "x").unwrap_err();
    assert_eq!(count(&machine), before);
}

#[test]
fn store_errors_become_failures_with_a_code() {
    // Without its tables the module meets a store that accepts nothing.
    let empty = MemoryStore::open().unwrap();
    let context = Context { index: 1, time_us: 1, entropy: (1, 1) };
    let request = CreateUserRequest { name: "ada".into() }.encode_to_vec();
    let outcome = Chat::apply(&empty, &context, "chat.v1.Chat/CreateUser", &request);
    refused(outcome, FailureCode::Internal, "no such table");
    // The same entry twice would make the same id twice.
    let machine = Machine::new();
    let create = |name: &str| {
        let request = CreateUserRequest { name: name.into() }.encode_to_vec();
        machine.store.entry(|store| Chat::apply(store, &context, "chat.v1.Chat/CreateUser", &request))
    };
    create("ada").unwrap();
    refused(create("bob"), FailureCode::Internal, "users.id");
    // Inside a read nothing can be written.
    let request = CreateUserRequest { name: "eve".into() }.encode_to_vec();
    let outcome = machine.store.read(|store| Chat::apply(store, &context, "chat.v1.Chat/CreateUser", &request));
    refused(outcome, FailureCode::Internal, "does not allow");
}

#[test]
fn listings_are_served_by_their_keys() {
    let machine = Machine::new();
    let messages = machine.store.plan(queries::MESSAGES_OF_MY_CHATS).unwrap().join("\n");
    assert!(!messages.contains("SCAN"), "{messages}");
    assert!(messages.contains("SEARCH members USING PRIMARY KEY (user=?)"), "{messages}");
    assert!(messages.contains("SEARCH m USING PRIMARY KEY (chat=? AND time_us=? AND entry=?)"), "{messages}");
    assert!(messages.contains("SEARCH messages USING PRIMARY KEY (chat=? AND (time_us,entry)>(?,?))"), "{messages}");
    let members = machine.store.plan(queries::MEMBERS_BY_NAME).unwrap().join("\n");
    assert_eq!(members, "SEARCH members USING COVERING INDEX members_by_name (chat=? AND name>?)");
}
