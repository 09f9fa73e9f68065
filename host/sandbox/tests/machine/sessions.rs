//! A request sent again is answered again, and applied once.

use bytes::Bytes;
use telegraft_node::ports::{Code, Machine};
use telegraft_raft::{Entry, EntryKind};
use telegraft_sandbox::{CLIENT_ID_BYTES_MAX, REMEMBERED};

use crate::probe::{Rig, call, code, command, entry, message, number, with_session};

const INSERT: &str = "INSERT INTO t(v) VALUES (NULL)";

impl Rig {
    fn request(&mut self, client: &str, request: u64, method: &str, sql: &str) -> telegraft_node::ports::Outcome {
        let command = with_session(command(self.next(), call(method, sql)), client, request);
        self.command(command)
    }
}

#[test]
fn a_retry_gets_the_first_answer_and_has_no_effect() {
    let mut rig = Rig::probe();
    let first = rig.request("c", 1, "exec", INSERT);
    assert_eq!(number(&first), 1);
    assert_eq!(rig.request("c", 1, "exec", INSERT), first);
    assert_eq!(rig.number("SELECT count(*) FROM t"), 1);
    // Another request, another client: applied.
    rig.request("c", 2, "exec", INSERT).unwrap();
    rig.request("d", 1, "exec", INSERT).unwrap();
    assert_eq!(rig.number("SELECT count(*) FROM t"), 3);
    // Also after a restart.
    let mut rig = rig.reopen();
    assert_eq!(rig.request("c", 1, "exec", INSERT), first);
    assert_eq!(rig.number("SELECT count(*) FROM t"), 3);
}

#[test]
fn a_retry_in_the_same_batch_and_around_a_lost_transaction() {
    let mut rig = Rig::probe();
    let i = rig.next();
    let with = |index, request, sql: &str| entry(index, with_session(command(index, call("exec", sql)), "c", request));
    let conflict = "INSERT OR ROLLBACK INTO t VALUES (1, 'again')";
    let outcomes = rig
        .machine
        .apply(&[
            with(i, 1, "INSERT INTO t VALUES (1, 'one')"),
            with(i + 1, 1, "INSERT INTO t VALUES (1, 'one')"),
            with(i + 2, 2, conflict),
            with(i + 3, 2, conflict),
            with(i + 4, 1, "INSERT INTO t VALUES (1, 'one')"),
        ])
        .unwrap();
    assert_eq!(number(&outcomes[0]), 1);
    assert_eq!(outcomes[1], outcomes[0]);
    assert_eq!(code(&outcomes[2]), Some(Code::Aborted));
    assert_eq!(outcomes[3], outcomes[2]);
    assert_eq!(outcomes[4], outcomes[0]);
}

#[test]
fn a_rejection_is_remembered_like_a_reply() {
    let mut rig = Rig::probe();
    let first = rig.request("c", 1, "fail", INSERT);
    assert_eq!(code(&first), Some(Code::AlreadyExists));
    assert_eq!(rig.request("c", 1, "fail", INSERT), first);
    let trapped = rig.request("c", 2, "trap", INSERT);
    assert_eq!(rig.reopen().request("c", 2, "trap", INSERT), trapped);
}

#[test]
fn the_same_id_for_another_call_is_refused() {
    let mut rig = Rig::probe();
    rig.request("c", 1, "exec", INSERT).unwrap();
    for (method, sql) in [("exec", "DELETE FROM t"), ("ignore", INSERT)] {
        let outcome = rig.request("c", 1, method, sql);
        assert_eq!(code(&outcome), Some(Code::InvalidArgument));
        assert!(message(&outcome).contains("request 1 of client \"c\" was another call"), "{outcome:?}");
    }
    assert_eq!(rig.number("SELECT count(*) FROM t"), 1);
}

#[test]
fn a_reply_too_long_to_keep_says_where_it_was_applied() {
    let mut rig = Rig::probe();
    let index = rig.next();
    assert_eq!(rig.request("c", 1, "long", "").unwrap().len(), 150_000);
    let again = rig.request("c", 1, "long", "");
    // A code that no guest can choose: the request was applied.
    assert_eq!(code(&again), Some(Code::DataLoss));
    assert!(message(&again).contains(&format!("applied at index {index}")), "{again:?}");
}

#[test]
fn without_a_client_nothing_is_remembered_and_long_client_ids_are_refused() {
    let mut rig = Rig::probe();
    rig.request("", 1, "exec", INSERT).unwrap();
    rig.request("", 1, "exec", INSERT).unwrap();
    assert_eq!(rig.number("SELECT count(*) FROM t"), 2);
    let longest = "x".repeat(CLIENT_ID_BYTES_MAX);
    rig.request(&longest, 1, "exec", INSERT).unwrap();
    let outcome = rig.request(&format!("{longest}x"), 1, "exec", INSERT);
    assert_eq!(code(&outcome), Some(Code::InvalidArgument));
    assert_eq!(rig.number("SELECT count(*) FROM t"), 3);
}

/// The index decides what is remembered, not batches, deletions or restarts.
#[test]
fn an_answer_is_forgotten_after_so_many_entries() {
    let empty = |index| Entry { term: 1, index, kind: EntryKind::Normal, data: Bytes::new() };
    let run = |batch: usize, restart: bool| {
        let mut rig = Rig::probe();
        let first = rig.next();
        rig.request("c", 1, "exec", INSERT).unwrap();
        rig.request("c", 2, "exec", INSERT).unwrap();
        let filler: Vec<Entry> = (first + 2..first + REMEMBERED + 1).map(empty).collect();
        for part in filler.chunks(batch) {
            rig.machine.apply(part).unwrap();
        }
        if restart {
            rig = rig.reopen();
        }
        // Just in time for the second, too late for the first.
        rig.request("c", 2, "exec", INSERT).unwrap();
        rig.request("c", 1, "exec", INSERT).unwrap();
        (rig.number("SELECT count(*) FROM t"), rig.digest())
    };
    let (rows, digest) = run(10_000, false);
    assert_eq!(rows, 3);
    assert_eq!(run(777, false), (rows, digest.clone()));
    assert_eq!(run(100_000, true), (rows, digest));
}
