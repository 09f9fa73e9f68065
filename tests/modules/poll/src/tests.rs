//! Every method and every refusal, with the words that the module has in every language.

use telegraft_guest::{Failure, FailureCode, Module, TestMachine, params};

use super::{PollModule, proto, proto::*};

type Machine = TestMachine<PollModule>;

fn create(machine: &mut Machine, question: &str, options: &[&str]) -> Result<String, Failure> {
    let options = options.iter().map(|text| (*text).to_owned()).collect();
    let request = CreatePollRequest { question: question.into(), options };
    machine.apply::<CreatePollReply>("poll.v1.Polls/CreatePoll", &request).map(|reply| reply.poll_id)
}

fn vote(machine: &mut Machine, poll_id: &str, voter: &str, option: u32) -> Result<bool, Failure> {
    let request = VoteRequest { poll_id: poll_id.into(), voter: voter.into(), option };
    machine.apply::<VoteReply>("poll.v1.Polls/Vote", &request).map(|reply| reply.changed)
}

fn close(machine: &mut Machine, poll_id: &str) -> Result<(), Failure> {
    machine.apply::<ClosePollReply>("poll.v1.Polls/ClosePoll", &ClosePollRequest { poll_id: poll_id.into() }).map(drop)
}

fn get(machine: &Machine, poll_id: &str) -> Result<Poll, Failure> {
    machine.query("poll.v1.Polls/GetPoll", &GetPollRequest { poll_id: poll_id.into() })
}

fn votes(machine: &Machine, poll_id: &str) -> Vec<u64> {
    get(machine, poll_id).unwrap().options.iter().map(|option| option.votes).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Failure>, code: FailureCode, message: &str) {
    let failure = outcome.unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (code, message));
}

#[test]
fn describes_itself() {
    assert_eq!((PollModule::NAME, PollModule::VERSION, PollModule::SCHEMA), ("poll", "0.1.0", 1));
    assert!(PollModule::SERVICE.windows(10).any(|name| name == b"CreatePoll"));
}

#[test]
fn a_poll_is_made_voted_on_and_closed() {
    let mut machine = Machine::new();
    let id = create(&mut machine, "Tea?", &["yes", "no", "later"]).unwrap();
    assert_eq!((id.len(), &id[14..15], id.to_lowercase()), (36, "7", id.clone()));
    let created_us = machine.context().time_us as i64;
    assert!(!vote(&mut machine, &id, "ada", 0).unwrap());
    assert!(!vote(&mut machine, &id, "bob", 2).unwrap());
    assert!(!vote(&mut machine, &id, "ada", 0).unwrap(), "the same vote again is no change");
    assert_eq!(votes(&machine, &id), [1, 0, 1]);
    assert!(vote(&mut machine, &id, "ada", 2).unwrap());
    assert_eq!(votes(&machine, &id), [0, 0, 2]);
    close(&mut machine, &id).unwrap();
    close(&mut machine, &id).unwrap();
    refused(vote(&mut machine, &id, "eve", 0), FailureCode::FailedPrecondition, "the poll is closed");
    let options = [("yes", 0), ("no", 0), ("later", 2)];
    let options = options.map(|(text, votes)| proto::Option { text: text.into(), votes }).to_vec();
    let expected = Poll { poll_id: id.clone(), question: "Tea?".into(), closed: true, created_us, options };
    assert_eq!(get(&machine, &id).unwrap(), expected);
}

#[test]
fn polls_are_listed_newest_first_and_at_most_100() {
    let mut machine = Machine::new();
    let list = |machine: &Machine| {
        let reply: ListPollsReply = machine.query("poll.v1.Polls/ListPolls", &ListPollsRequest {}).unwrap();
        reply.polls
    };
    assert!(list(&machine).is_empty());
    let mut ids = Vec::new();
    for number in 0..101 {
        ids.push(create(&mut machine, &format!("number {number}?"), &["a", "b"]).unwrap());
    }
    ids.reverse();
    vote(&mut machine, &ids[0], "ada", 1).unwrap();
    let listed = list(&machine);
    assert_eq!(listed.iter().map(|poll| &poll.poll_id).collect::<Vec<_>>(), ids[..100].iter().collect::<Vec<_>>());
    assert_eq!(listed[0], get(&machine, &ids[0]).unwrap());
    assert_eq!(listed[0].options[1].votes, 1);
}

#[test]
fn polls_have_rules() {
    let mut machine = Machine::new();
    let invalid = FailureCode::InvalidArgument;
    let question = "question must have 1 to 200 bytes";
    create(&mut machine, &"é".repeat(100), &["é".repeat(50).as_str(), "b"]).unwrap();
    create(&mut machine, "?", &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]).unwrap();
    refused(create(&mut machine, "", &[]), invalid, question);
    refused(create(&mut machine, &"x".repeat(201), &["a", "b"]), invalid, question);
    refused(create(&mut machine, "?", &["a"]), invalid, "a poll has 2 to 10 options");
    refused(create(&mut machine, "?", &[""; 11]), invalid, "a poll has 2 to 10 options");
    refused(create(&mut machine, "?", &["a", "a", ""]), invalid, "option 2 must have 1 to 100 bytes");
    refused(create(&mut machine, "?", &["a", &"x".repeat(101)]), invalid, "option 1 must have 1 to 100 bytes");
    refused(create(&mut machine, "?", &["a", "b", "a"]), invalid, "options must differ");
}

#[test]
fn votes_have_rules_and_leave_nothing_where_they_are_refused() {
    let mut machine = Machine::new();
    let id = create(&mut machine, "?", &["a", "b"]).unwrap();
    let (invalid, not_found) = (FailureCode::InvalidArgument, FailureCode::NotFound);
    refused(vote(&mut machine, "nothing", "", 9), invalid, "voter must have 1 to 64 bytes");
    refused(vote(&mut machine, &id, &"x".repeat(65), 0), invalid, "voter must have 1 to 64 bytes");
    for unknown in ["", "x", &id.to_uppercase()] {
        refused(vote(&mut machine, unknown, "ada", 9), not_found, "no such poll");
        refused(close(&mut machine, unknown), not_found, "no such poll");
        refused(get(&machine, unknown), not_found, "no such poll");
    }
    refused(vote(&mut machine, &id, "ada", 2), invalid, "the poll has no option 2");
    refused(vote(&mut machine, &id, "ada", u32::MAX), invalid, "the poll has no option 4294967295");
    close(&mut machine, &id).unwrap();
    refused(vote(&mut machine, &id, "ada", 2), FailureCode::FailedPrecondition, "the poll is closed");
    let count = machine.read(|cx| cx.query_one::<(u64,)>("SELECT count(*) FROM votes", params![])).unwrap();
    assert_eq!(count, (0,));
}

#[test]
fn what_is_no_method_or_no_message_is_refused() {
    let mut machine = Machine::new();
    let unimplemented = FailureCode::Unimplemented;
    let message = "module poll has no method \"poll.v1.Polls/GetPoll\" among its commands";
    refused(machine.apply_bytes("poll.v1.Polls/GetPoll", &[]), unimplemented, message);
    let message = "module poll has no method \"poll.v1.Polls/Vote\" among its queries";
    refused(machine.query_bytes("poll.v1.Polls/Vote", &[]), unimplemented, message);
    let malformed = machine.apply_bytes("poll.v1.Polls/Vote", &[0x0a, 4, b'x']).unwrap_err();
    assert_eq!(malformed.code, FailureCode::InvalidArgument);
}

#[test]
fn what_writes_is_refused_in_a_query() {
    let machine = Machine::new();
    let outcome = machine.store().read(|store| Ok(store.execute("DELETE FROM polls", &[])?));
    assert!(outcome.unwrap_err().message.contains("does not allow"));
}
