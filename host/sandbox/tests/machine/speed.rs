//! What an entry costs. Run it alone on a quiet machine:
//! `cargo test --release -p telegraft-sandbox --test machine -- --ignored --nocapture speed`

use std::time::Instant;

use prost::Message;
use telegraft_modules::CHAT;
use telegraft_node::ports::{Machine, Queries};
use telegraft_proto::chat;
use telegraft_raft::Entry;

use crate::probe::{Rig, call, command, entry, with_session};

#[test]
#[ignore = "a measurement"]
fn speed() {
    for reuse in [false, true] {
        for session in [false, true] {
            for batch in [1, 32, 256] {
                println!(
                    "reuse {reuse:5}, session {session:5}, batch {batch:3}: {:6.1} µs an entry",
                    send(reuse, session, batch)
                );
            }
        }
    }
}

/// Best of several rounds, microseconds a SendMessage.
fn send(reuse: bool, session: bool, batch: u64) -> f64 {
    let mut rig = Rig::empty();
    rig.install(CHAT, reuse);
    let user = rig.one(call("chat.v1.Chat/CreateUser", chat::CreateUserRequest { name: "ada".into() }.encode_to_vec()));
    let user = chat::CreateUserReply::decode(user.unwrap()).unwrap().user_id;
    let made = chat::CreateChatRequest { creator_id: user.clone(), title: "t".into() };
    let room = rig.one(call("chat.v1.Chat/CreateChat", made.encode_to_vec())).unwrap();
    let chat_id = chat::CreateChatReply::decode(room).unwrap().chat_id;
    let payload = chat::SendMessageRequest { user_id: user.clone(), chat_id, content: "x".repeat(200) }.encode_to_vec();
    let mut best = f64::MAX;
    for _ in 0..(2560 / batch).clamp(25, 400) {
        let first = rig.next();
        let entries: Vec<Entry> = (first..first + batch)
            .map(|i| {
                let c = command(i, call("chat.v1.Chat/SendMessage", &payload));
                entry(i, if session { with_session(c, &format!("client-{}", i % 100), i) } else { c })
            })
            .collect();
        let begun = Instant::now();
        let outcomes = rig.machine.apply(&entries).unwrap();
        best = best.min(begun.elapsed().as_secs_f64() * 1e6 / batch as f64);
        assert!(outcomes.iter().all(Result::is_ok));
    }
    let request = chat::GetMessagesRequest { user_id: user, limit: 1, ..Default::default() }.encode_to_vec();
    let begun = Instant::now();
    for _ in 0..200 {
        rig.reader.query("chat.v1.Chat/GetMessages", &request).unwrap().1.unwrap();
    }
    let query = begun.elapsed().as_secs_f64() * 1e6 / 200.0;
    if !session && batch == 1 {
        println!("reuse {reuse}: a query {query:.1} µs on average");
    }
    best
}
