//! The model of the key-value module: versions, deletes and compare-and-set; keys apart; unknown writes; effort.

use fastrand::Rng;
use telegraft_sim::linearizability::kv::{self, Kv, KvOp, KvRet};
use telegraft_sim::linearizability::{History, Verdict, check_by_key_within};

use crate::models::Store;
use crate::random::{self, Shape, telling_op};

type KvHistory = History<(&'static str, KvOp), KvRet>;

fn cas(expected: Option<&str>, value: &str) -> KvOp {
    KvOp::compare_and_set(expected.map(str::as_bytes), value)
}

/// Operations on one key, one after the other.
fn in_turn(rows: &[(KvOp, KvRet)]) -> bool {
    let mut history = KvHistory::new();
    for (time, (op, ret)) in (0..).step_by(10).zip(rows) {
        history.push(1, ("k", op.clone()), time, Some((ret.clone(), time + 5)));
    }
    verdict(&history)
}

fn verdict(history: &KvHistory) -> bool {
    match kv::check(history) {
        Verdict::Linearizable => true,
        Verdict::NotLinearizable { .. } => false,
        undecided @ Verdict::Undecided { .. } => panic!("{undecided}"),
    }
}

#[test]
fn versions_count_the_writes_of_a_key() {
    let rows = |second| in_turn(&[(KvOp::put("a"), KvRet::Version(1)), (KvOp::put("b"), KvRet::Version(second))]);
    assert!(rows(2));
    assert!(!rows(1) && !rows(3));
}

#[test]
fn a_get_tells_value_and_version() {
    let rows = |ret| in_turn(&[(KvOp::put("a"), KvRet::Version(1)), (KvOp::Get, ret)]);
    assert!(rows(KvRet::value("a", 1)));
    assert!(!rows(KvRet::value("a", 2)) && !rows(KvRet::value("b", 1)) && !rows(KvRet::Value(None)));
    assert!(in_turn(&[(KvOp::Get, KvRet::Value(None))]));
}

#[test]
fn a_deleted_key_starts_over() {
    let rows = |existed, version| {
        in_turn(&[
            (KvOp::put("a"), KvRet::Version(1)),
            (KvOp::put("b"), KvRet::Version(2)),
            (KvOp::Delete, KvRet::Existed(existed)),
            (KvOp::Get, KvRet::Value(None)),
            (KvOp::put("c"), KvRet::Version(version)),
        ])
    };
    assert!(rows(true, 1));
    assert!(!rows(false, 1) && !rows(true, 3));
    assert!(in_turn(&[(KvOp::Delete, KvRet::Existed(false))]));
    assert!(!in_turn(&[(KvOp::Delete, KvRet::Existed(true))]));
}

#[test]
fn a_compare_and_set_writes_where_its_condition_holds_and_only_there() {
    let put = (KvOp::put("a"), KvRet::Version(1));
    for (expected, holds) in [(Some("a"), true), (Some("b"), false), (None, false)] {
        let rows = |ret| in_turn(&[put.clone(), (cas(expected, "c"), ret)]);
        assert_eq!((rows(KvRet::Version(2)), rows(KvRet::Refused)), (holds, !holds), "{expected:?}");
    }
    for (expected, holds) in [(Some("a"), false), (None, true)] {
        let rows = |ret| in_turn(&[(cas(expected, "c"), ret)]);
        assert_eq!((rows(KvRet::Version(1)), rows(KvRet::Refused)), (holds, !holds), "{expected:?}");
    }
}

#[test]
fn a_refused_compare_and_set_changes_nothing() {
    let rows =
        |ret| in_turn(&[(KvOp::put("a"), KvRet::Version(1)), (cas(Some("b"), "c"), KvRet::Refused), (KvOp::Get, ret)]);
    assert!(rows(KvRet::value("a", 1)));
    assert!(!rows(KvRet::value("c", 2)));
}

#[test]
fn an_answer_of_another_method_fits_nowhere() {
    assert!(!in_turn(&[(KvOp::put("a"), KvRet::Refused)]));
    assert!(!in_turn(&[(KvOp::Get, KvRet::Existed(false))]));
    assert!(!in_turn(&[(KvOp::Delete, KvRet::Value(None))]));
    assert!(!in_turn(&[(cas(None, "a"), KvRet::Existed(true))]));
}

#[test]
fn keys_are_judged_apart() {
    let mut history = KvHistory::new();
    history.push(1, ("a", KvOp::put("x")), 0, Some((KvRet::Version(1), 5)));
    history.push(1, ("b", KvOp::put("y")), 10, Some((KvRet::Version(1), 15)));
    history.push(2, ("a", KvOp::Get), 20, Some((KvRet::value("x", 1), 25)));
    assert!(verdict(&history));
    // A value of another key.
    history.push(2, ("b", KvOp::Get), 30, Some((KvRet::value("x", 1), 35)));
    let Verdict::NotLinearizable { key, .. } = kv::check(&history) else {
        panic!("b never was x");
    };
    assert_eq!(key, "b");
}

#[test]
fn an_unknown_put_that_was_seen_cannot_vanish() {
    let mut history = KvHistory::new();
    history.push(1, ("k", KvOp::put("a")), 0, Some((KvRet::Version(1), 5)));
    history.push(2, ("k", KvOp::put("b")), 0, None);
    history.push(3, ("k", KvOp::Get), 10, Some((KvRet::value("b", 2), 15)));
    assert!(verdict(&history));
    history.push(3, ("k", KvOp::Get), 20, Some((KvRet::value("a", 1), 25)));
    assert!(!verdict(&history));
}

#[test]
fn a_gap_in_the_versions_needs_an_unknown_write() {
    let rows = |unknown: &[KvOp], version| {
        let mut history = KvHistory::new();
        history.push(1, ("k", KvOp::put("a")), 0, Some((KvRet::Version(1), 5)));
        for op in unknown {
            history.push(2, ("k", op.clone()), 6, None);
        }
        history.push(1, ("k", KvOp::put("c")), 10, Some((KvRet::Version(version), 15)));
        verdict(&history)
    };
    assert!(rows(&[KvOp::put("x")], 2) && rows(&[KvOp::put("x")], 3) && !rows(&[KvOp::put("x")], 4));
    assert!(rows(&[KvOp::put("x"), KvOp::put("y")], 4));
    assert!(rows(&[KvOp::Delete], 1) && rows(&[KvOp::Delete, KvOp::put("x")], 2) && !rows(&[KvOp::Delete], 3));
    assert!(rows(&[cas(Some("a"), "x")], 3) && !rows(&[cas(Some("b"), "x")], 3));
}

#[test]
fn what_was_seen_rests_on_a_chain_of_unknown_writes() {
    let rows = |version, first: u64| {
        let mut history = KvHistory::new();
        history.push(1, ("k", KvOp::put("a")), first, None);
        history.push(2, ("k", cas(Some("a"), "b")), 0, None);
        history.push(3, ("k", cas(Some("b"), "c")), 0, None);
        history.push(4, ("k", KvOp::Get), 10, Some((KvRet::value("c", version), 15)));
        verdict(&history)
    };
    assert!(rows(3, 0));
    assert!(!rows(2, 0) && !rows(4, 0), "three writes make version 3");
    assert!(!rows(3, 20), "the put came too late");
}

/// The load of a simulation: tens of thousands of operations by many clients on ten keys, one in twenty without an
/// answer. A search that goes astray is seen by its steps; the clock plays no part.
#[test]
fn long_histories_take_few_steps() {
    const OPERATIONS: usize = 4_000;
    let mut history = History::new();
    let mut rng = Rng::with_seed(1);
    for key in 0..10_u64 {
        let shape = Shape { clients: 3, operations: OPERATIONS, unknown_percent: 5 };
        let mut written = 0_u64;
        let rows = random::run::<Store>(&mut rng, &shape, |rng, latest| telling_op(rng, latest, &mut written));
        for operation in random::history(&rows).operations() {
            let answer = operation.ret().cloned().zip(operation.returned_at().map(|at| at.time()));
            history.push(operation.process, (key, operation.op.clone()), operation.called.time(), answer);
        }
    }
    let verdict = check_by_key_within(&history, |(key, op)| (key, op), &Kv, 100 * OPERATIONS as u64);
    assert!(verdict.is_linearizable(), "{verdict}");
}

#[test]
fn beyond_its_steps_a_search_gives_no_verdict() {
    let mut history = KvHistory::new();
    history.push(1, ("a", KvOp::put("x")), 0, Some((KvRet::Version(1), 5)));
    history.push(1, ("a", KvOp::Get), 10, Some((KvRet::value("x", 1), 15)));
    let within = |steps| check_by_key_within(&history, |(key, op)| (key, op), &Kv, steps);
    assert!(matches!(within(1), Verdict::Undecided { key: "a", after: 1, .. }), "{}", within(1));
    assert!(!within(1).is_linearizable());
    assert!(within(100).is_linearizable());
    // What is known of another key stands.
    history.push(1, ("b", KvOp::put("x")), 0, Some((KvRet::Version(9), 5)));
    let within = |steps| check_by_key_within(&history, |(key, op)| (key, op), &Kv, steps);
    assert!(matches!(within(3), Verdict::NotLinearizable { key: "b", .. }), "{}", within(3));
}
