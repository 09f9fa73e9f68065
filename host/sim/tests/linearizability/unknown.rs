//! Operations whose outcome the client never learnt: they may take effect once, at any moment after their call, or never.

use telegraft_sim::linearizability::{Found, History, Verdict, check, find_order};

use crate::models::RegisterOp::{CompareAndSet, Read, Write};
use crate::models::RegisterRet::{Done, Read as Saw, Refused};
use crate::models::{Register, RegisterOp, RegisterRet};

/// Client, request, the time of its call, and answer and time where there was one: a row without is unknown.
type Row = (u64, RegisterOp, u64, Option<(RegisterRet, u64)>);

fn history(rows: &[Row]) -> History<RegisterOp, RegisterRet> {
    let mut history = History::new();
    for (process, op, called, answer) in rows {
        history.push(*process, op.clone(), *called, answer.clone());
    }
    history
}

fn register(rows: &[Row]) -> bool {
    match check(&history(rows), &Register) {
        Verdict::Linearizable => true,
        Verdict::NotLinearizable { .. } => false,
        undecided @ Verdict::Undecided { .. } => panic!("{undecided}"),
    }
}

fn saw(value: u64, at: u64) -> Option<(RegisterRet, u64)> {
    Some((Saw(Some(value)), at))
}

#[test]
fn an_unknown_write_may_never_happen() {
    assert!(register(&[(1, Write(1), 0, Some((Done, 5))), (2, Write(2), 6, None), (3, Read, 100, saw(1, 110))]));
}

#[test]
fn an_unknown_write_may_happen_at_once() {
    assert!(register(&[(1, Write(1), 0, Some((Done, 5))), (2, Write(2), 6, None), (3, Read, 7, saw(2, 8))]));
}

#[test]
fn an_unknown_write_may_happen_much_later() {
    assert!(register(&[
        (1, Write(1), 0, Some((Done, 5))),
        (2, Write(2), 6, None),
        (3, Read, 100, saw(1, 110)),
        (3, Read, 120, saw(1, 130)),
        (3, Read, 140, saw(2, 150)),
    ]));
}

#[test]
fn an_unknown_write_does_not_happen_before_its_call() {
    assert!(!register(&[(1, Read, 0, saw(2, 5)), (2, Write(2), 6, None)]));
}

#[test]
fn an_unknown_write_once_seen_does_not_vanish() {
    assert!(!register(&[
        (1, Write(1), 0, Some((Done, 5))),
        (2, Write(2), 6, None),
        (3, Read, 10, saw(2, 20)),
        (3, Read, 30, saw(1, 40)),
    ]));
}

#[test]
fn an_unknown_write_happens_once() {
    assert!(!register(&[
        (2, Write(2), 0, None),
        (3, Read, 10, saw(2, 20)),
        (1, Write(1), 30, Some((Done, 40))),
        (3, Read, 50, saw(2, 60)),
    ]));
}

#[test]
fn two_equal_unknown_writes_may_happen_twice() {
    let mut rows = vec![
        (2, Write(2), 0, None),
        (3, Read, 10, saw(2, 20)),
        (1, Write(1), 30, Some((Done, 40))),
        (3, Read, 50, saw(2, 60)),
        (4, Write(2), 45, None),
    ];
    assert!(register(&rows));
    // Not if the second is asked for only afterwards.
    rows[4].2 = 70;
    assert!(!register(&rows));
}

#[test]
fn of_equal_unknown_writes_either_may_be_the_one() {
    for called in [0, 25] {
        assert!(register(&[
            (1, Write(1), 0, Some((Done, 5))),
            (2, Write(2), called, None),
            (3, Write(2), 25, None),
            (4, Read, 30, saw(1, 40)),
            (4, Read, 50, saw(2, 60)),
        ]));
    }
}

#[test]
fn an_unknown_compare_and_set_obeys_its_condition() {
    assert!(register(&[
        (1, Write(1), 0, Some((Done, 5))),
        (2, CompareAndSet(1, 2), 6, None),
        (3, Read, 10, saw(2, 20)),
    ]));
    assert!(!register(&[
        (1, Write(1), 0, Some((Done, 5))),
        (2, CompareAndSet(7, 2), 6, None),
        (3, Read, 10, saw(2, 20)),
    ]));
}

#[test]
fn an_unknown_write_can_be_the_reason_of_a_refusal() {
    let rows = |called| {
        register(&[
            (1, Write(1), 0, Some((Done, 5))),
            (2, Write(9), called, None),
            (3, CompareAndSet(1, 2), 10, Some((Refused, 20))),
        ])
    };
    assert!(rows(6));
    assert!(!rows(21));
}

#[test]
fn unknown_operations_may_be_needed_one_after_another() {
    assert!(register(&[
        (1, CompareAndSet(2, 3), 0, None),
        (2, CompareAndSet(1, 2), 0, None),
        (3, Write(1), 0, None),
        (4, Read, 10, saw(3, 20)),
    ]));
}

#[test]
fn an_unknown_read_says_nothing() {
    assert!(register(&[(1, Read, 0, None), (2, Write(1), 1, Some((Done, 2))), (3, Read, 3, saw(1, 4))]));
}

#[test]
fn an_operation_without_effect_is_no_explanation() {
    let mut history = history(&[]);
    let write = history.call(1, Write(1), 0);
    history.no_effect(write);
    let read = history.call(2, Read, 1);
    history.returned(read, Saw(Some(1)), 2);
    assert!(!check(&history, &Register).is_linearizable());
}

#[test]
fn an_operation_under_way_counts_as_unknown() {
    let mut history = history(&[]);
    let _write = history.call(1, Write(1), 0);
    let read = history.call(2, Read, 1);
    history.returned(read, Saw(Some(1)), 2);
    assert!(check(&history, &Register).is_linearizable());
}

/// 2^60 subsets, no two of them alike: the search must not care, neither for an order nor for its absence.
#[test]
fn many_unknown_writes_cost_little() {
    let mut rows: Vec<_> = (0..60).map(|value| (value, Write(value), 0, None)).collect();
    let reads: Vec<_> =
        (0..60).rev().map(|value| (100, Read, 1_000 - 10 * value, saw(value, 1_005 - 10 * value))).collect();
    rows.extend(reads);
    let found = find_order(history(&rows).operations(), &Register, 1_000_000);
    assert!(matches!(found, Found::Order(_)), "{found:?}");

    // A value seen, overwritten and seen again: each write happens once.
    rows.push((100, Read, 2_000, saw(59, 2_005)));
    let found = find_order(history(&rows).operations(), &Register, 1_000_000);
    assert!(matches!(found, Found::Stuck { .. }), "{found:?}");
}
