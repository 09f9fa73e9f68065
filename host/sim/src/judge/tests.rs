//! Each checker, shown something that is wrong: a checker that cannot fail is none. (The known bugs of `defects.rs` show
//! the same on whole worlds.)

use bytes::Bytes;
use telegraft_node::{
    AppliedEntry,
    ports::{Code, Rejection},
};
use telegraft_raft::{ConfState, Entry, EntryKind, Index, Message, MessageKind, NodeId, Term};

use super::{Judge, Violation, after};
use crate::{
    clients::{Acknowledged, Consistency, PlainRead, Seen},
    disk::LogDisk,
    linearizability::kv::{KvOp, KvRet},
    machine::plain::PlainDisk,
    process::{Process, data_hash},
    settings::{MachineKind, Settings},
};

fn entry(index: Index, term: Term, data: &'static [u8]) -> Entry {
    Entry { term, index, kind: EntryKind::Normal, data: Bytes::from_static(data) }
}

/// A node that runs, of a group of three.
fn process(id: NodeId) -> Process {
    let disk = LogDisk::new(ConfState { voters: vec![1, 2, 3], ..ConfState::default() });
    let mut process = Process::new(id, disk, Box::new(PlainDisk::default()));
    process.start(&Settings::draw(1, MachineKind::Plain, 3)).unwrap();
    process
}

fn checker(result: Result<(), Violation>) -> char {
    result.expect_err("nothing was found").checker
}

fn commit(judge: &mut Judge, entry: &Entry) -> Result<(), Violation> {
    judge.written(&process(1), std::slice::from_ref(entry)).unwrap();
    judge.commits(1, (entry.index, entry.term), entry.term, (0, 0), |id, _, _| id < 3)
}

#[test]
fn a_second_vote_in_a_term_is_seen() {
    let mut judge = Judge::new(1..=3);
    let vote = |to| Message { term: 4, ..Message::new(MessageKind::VoteResponse, 2, to) };
    judge.sent(&vote(1)).unwrap();
    judge.sent(&vote(1)).unwrap();
    judge.sent(&Message { reject: true, ..vote(3) }).unwrap();
    assert_eq!(checker(judge.sent(&vote(3))), 'E');
    let mut judge = Judge::new(1..=3);
    judge.sent(&Message { term: 4, ..Message::new(MessageKind::Vote, 2, 1) }).unwrap();
    assert_eq!(checker(judge.sent(&vote(1))), 'E', "a candidate votes for itself");
}

#[test]
fn entries_of_one_place_that_differ_are_seen() {
    let mut judge = Judge::new(1..=3);
    judge.written(&process(1), &[entry(1, 1, b"a"), entry(2, 1, b"b")]).unwrap();
    judge.written(&process(2), &[entry(1, 1, b"a"), entry(2, 1, b"b")]).unwrap();
    assert_eq!(checker(judge.written(&process(3), &[entry(1, 1, b"other")])), 'L');
    // The same entry after another one.
    judge.written(&process(3), &[entry(2, 2, b"x"), entry(3, 2, b"y")]).unwrap();
    assert_eq!(checker(judge.written(&process(2), &[entry(2, 1, b"b"), entry(3, 2, b"y")])), 'L');
}

#[test]
fn a_leader_without_what_is_committed_is_seen() {
    let mut judge = Judge::new(1..=3);
    commit(&mut judge, &entry(1, 1, b"a")).unwrap();
    judge.leads(2, 1, |_| Ok(7)).unwrap();
    judge.leads(2, 2, |_| Ok(1)).unwrap();
    assert_eq!(checker(judge.leads(2, 2, |_| Ok(2))), 'C');
    assert_eq!(checker(judge.leads(2, 2, |_| Err(telegraft_raft::StorageError::Unavailable))), 'C');
}

#[test]
fn a_commit_without_a_quorum_is_seen() {
    let mut judge = Judge::new(1..=3);
    let first = entry(1, 1, b"a");
    judge.written(&process(1), std::slice::from_ref(&first)).unwrap();
    assert_eq!(checker(judge.commits(1, (1, 1), 1, (0, 0), |id, _, _| id == 1)), 'Q');
    judge.commits(1, (1, 1), 1, (0, 0), |id, _, _| id != 1).unwrap();
    assert_eq!(checker(judge.commits(1, (3, 1), 1, (0, 0), |_, _, _| true)), 'Q', "nobody knows entry 2");
    assert_eq!(checker(judge.commits(1, (2, 1), 1, (0, 0), |_, _, _| true)), 'D', "it was never written");
}

#[test]
fn different_outcomes_and_digests_are_seen() {
    let mut judge = Judge::new(1..=3);
    commit(&mut judge, &entry(1, 1, b"a")).unwrap();
    let applied = |term, outcome| [AppliedEntry { index: 1, term, outcome }];
    judge.applied(1, &applied(1, Ok(Bytes::from_static(b"yes"))), 0).unwrap();
    judge.applied(2, &applied(1, Ok(Bytes::from_static(b"yes"))), 0).unwrap();
    judge.applied(3, &applied(1, Ok(Bytes::new())), 1).unwrap();
    assert_eq!(checker(judge.applied(3, &applied(1, Ok(Bytes::new())), 0)), 'S');
    let refused = Err(Rejection { code: Code::Aborted, message: "out of fuel".into() });
    assert_eq!(checker(judge.applied(3, &applied(1, refused), 0)), 'S');
    assert_eq!(checker(judge.applied(3, &applied(2, Ok(Bytes::new())), 0)), 'C', "another term's entry");
    judge.digest(1, 5, "aa".into()).unwrap();
    judge.digest(2, 6, "bb".into()).unwrap();
    assert_eq!(checker(judge.digest(2, 5, "bb".into())), 'S');
}

#[test]
fn a_node_that_forgot_is_seen() {
    let mut judge = Judge::new(1..=3);
    let mut forgetful = process(2);
    judge.started(&forgetful).unwrap();
    forgetful.machine_durable = 5;
    assert_eq!(checker(judge.started(&forgetful)), 'M');
    forgetful.machine_durable = 0;
    judge.sent(&Message { term: 4, ..Message::new(MessageKind::AppendResponse, 2, 1) }).unwrap();
    assert_eq!(checker(judge.started(&forgetful)), 'M');
}

#[test]
fn an_acknowledged_write_that_is_not_committed_is_seen() {
    let mut judge = Judge::new(1..=3);
    let first = entry(1, 1, b"a");
    commit(&mut judge, &first).unwrap();
    let acknowledged = |index, data| Seen { acknowledged: vec![Acknowledged { index, data }], ..Seen::default() };
    after::judge(&mut judge, &acknowledged(1, data_hash(&first.data)), false).unwrap();
    assert_eq!(checker(after::judge(&mut judge, &acknowledged(1, 12), false)), 'D');
    assert_eq!(checker(after::judge(&mut judge, &acknowledged(2, data_hash(&first.data)), false)), 'D');
}

#[test]
fn reads_of_another_state_are_seen() {
    let mut judge = Judge::new(1..=3);
    commit(&mut judge, &entry(1, 1, b"")).unwrap();
    let read = |seen, asked| Seen { plain_reads: vec![PlainRead { index: 1, key: 0, seen, asked }], ..Seen::default() };
    after::judge(&mut judge, &read(KvRet::Value(None), Consistency::Local), false).unwrap();
    assert_eq!(checker(after::judge(&mut judge, &read(KvRet::value(b"x", 1), Consistency::Local), false)), 'X');
    assert_eq!(checker(after::judge(&mut judge, &read(KvRet::Value(None), Consistency::AtLeast(2)), false)), 'X');
}

#[test]
fn a_history_without_an_order_is_seen() {
    let mut judge = Judge::new(1..=3);
    let mut seen = Seen::default();
    let put = seen.history.call(1, (0, KvOp::put(b"new")), 10);
    seen.history.returned(put, KvRet::Version(1), 20);
    after::judge(&mut judge, &seen, false).unwrap();
    let stale = seen.history.call(2, (0, KvOp::Get), 30);
    seen.history.returned(stale, KvRet::Value(None), 40);
    assert_eq!(checker(after::judge(&mut judge, &seen, false)), 'X');
}
