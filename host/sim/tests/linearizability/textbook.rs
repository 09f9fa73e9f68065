//! Small histories whose verdicts one can see: the queues and registers by which Herlihy and Wing explain the condition
//! ("Linearizability", 1990, sections 1.2 and 2.2), retold, and the anomalies that have names.
//!
//! A row is an operation: client, request, answer, the times of its call and its return.

use telegraft_sim::linearizability::{History, Verdict, check};

use crate::models::QueueOp::{Dequeue, Enqueue};
use crate::models::QueueRet::{Dequeued, Enqueued};
use crate::models::RegisterOp::{CompareAndSet, Read, Write};
use crate::models::RegisterRet::{Done, Read as Saw, Refused};
use crate::models::{Queue, QueueOp, QueueRet, Register, RegisterOp, RegisterRet};

fn queue(rows: &[(u64, QueueOp, QueueRet, u64, u64)]) -> Verdict<()> {
    let mut history = History::new();
    for (process, op, ret, called, returned) in rows {
        history.push(*process, op.clone(), *called, Some((ret.clone(), *returned)));
    }
    check(&history, &Queue)
}

fn register(rows: &[(u64, RegisterOp, RegisterRet, u64, u64)]) -> Verdict<()> {
    let mut history = History::new();
    for (process, op, ret, called, returned) in rows {
        history.push(*process, op.clone(), *called, Some((ret.clone(), *returned)));
    }
    check(&history, &Register)
}

#[track_caller]
fn fails(verdict: Verdict<()>) {
    assert!(matches!(verdict, Verdict::NotLinearizable { .. }), "{verdict}");
}

#[track_caller]
fn holds(verdict: Verdict<()>) {
    assert!(verdict.is_linearizable(), "{verdict}");
}

#[test]
fn concurrent_enqueues_may_take_effect_in_either_order() {
    for (first, second) in [('x', 'y'), ('y', 'x')] {
        holds(queue(&[
            (1, Enqueue('x'), Enqueued, 0, 10),
            (2, Enqueue('y'), Enqueued, 5, 15),
            (2, Dequeue, Dequeued(Some(first)), 20, 30),
            (1, Dequeue, Dequeued(Some(second)), 25, 35),
            (1, Enqueue('z'), Enqueued, 40, 50),
        ]));
    }
}

#[test]
fn enqueues_one_after_the_other_keep_their_order() {
    let rows = |taken| {
        queue(&[
            (1, Enqueue('x'), Enqueued, 0, 10),
            (2, Enqueue('y'), Enqueued, 20, 30),
            (2, Dequeue, Dequeued(Some(taken)), 40, 50),
        ])
    };
    holds(rows('x'));
    fails(rows('y'));
}

#[test]
fn an_item_may_be_taken_before_its_enqueue_returns() {
    holds(queue(&[(1, Enqueue('x'), Enqueued, 0, 30), (2, Dequeue, Dequeued(Some('x')), 10, 20)]));
    fails(queue(&[(1, Enqueue('x'), Enqueued, 15, 30), (2, Dequeue, Dequeued(Some('x')), 0, 10)]));
}

#[test]
fn an_item_is_taken_once() {
    fails(queue(&[
        (1, Enqueue('x'), Enqueued, 0, 10),
        (2, Enqueue('y'), Enqueued, 5, 15),
        (1, Dequeue, Dequeued(Some('y')), 20, 30),
        (3, Dequeue, Dequeued(Some('y')), 25, 35),
    ]));
}

#[test]
fn a_queue_that_holds_an_item_is_not_empty() {
    fails(queue(&[(1, Enqueue('x'), Enqueued, 0, 10), (2, Dequeue, Dequeued(None), 11, 20)]));
    holds(queue(&[(1, Enqueue('x'), Enqueued, 0, 10), (2, Dequeue, Dequeued(None), 9, 20)]));
}

#[test]
fn one_client_alone_must_follow_the_object() {
    holds(register(&[(1, Read, Saw(None), 0, 1), (1, Write(4), Done, 2, 3), (1, Read, Saw(Some(4)), 4, 5)]));
    fails(register(&[(1, Write(4), Done, 2, 3), (1, Read, Saw(None), 4, 5)]));
}

#[test]
fn a_write_may_take_effect_anywhere_in_its_interval() {
    for (first, second, fits) in [(0, 0, true), (0, 1, true), (1, 1, true), (1, 0, false)] {
        let verdict = register(&[
            (1, Write(0), Done, 0, 10),
            (1, Write(1), Done, 20, 60),
            (2, Read, Saw(Some(first)), 25, 35),
            (2, Read, Saw(Some(second)), 45, 55),
        ]);
        assert_eq!(verdict.is_linearizable(), fits, "reads {first} then {second}: {verdict}");
    }
}

#[test]
fn a_read_after_a_write_sees_it() {
    // The stale read: it was answered by a replica that lags behind.
    fails(register(&[(1, Write(0), Done, 0, 10), (2, Write(1), Done, 11, 20), (3, Read, Saw(Some(0)), 21, 30)]));
}

#[test]
fn times_that_touch_are_concurrent() {
    holds(register(&[(1, Write(1), Done, 0, 10), (2, Read, Saw(None), 10, 20)]));
    fails(register(&[(1, Write(1), Done, 0, 9), (2, Read, Saw(None), 10, 20)]));
}

#[test]
fn an_answer_recorded_before_a_call_of_the_same_time_precedes_it() {
    let mut history = History::new();
    let write = history.call(1, Write(1), 0);
    history.returned(write, Done, 10);
    let read = history.call(2, Read, 10);
    history.returned(read, Saw(None), 20);
    fails(check(&history, &Register));
}

#[test]
fn a_value_that_nobody_wrote_is_not_read() {
    fails(register(&[(1, Write(1), Done, 0, 10), (2, Read, Saw(Some(2)), 5, 15)]));
}

#[test]
fn a_value_is_not_read_before_it_is_written() {
    fails(register(&[(1, Read, Saw(Some(1)), 0, 10), (2, Write(1), Done, 11, 20)]));
}

#[test]
fn of_two_updates_of_one_value_one_is_refused() {
    // The lost update: both clients believe that they counted 0 up to 1.
    let rows = |second| {
        register(&[
            (1, Write(0), Done, 0, 10),
            (1, CompareAndSet(0, 1), Done, 20, 30),
            (2, CompareAndSet(0, 1), second, 20, 30),
        ])
    };
    fails(rows(Done));
    holds(rows(Refused));
}

#[test]
fn a_refusal_needs_a_reason() {
    fails(register(&[(1, Write(0), Done, 0, 10), (2, CompareAndSet(0, 1), Refused, 20, 30)]));
    holds(register(&[
        (1, Write(0), Done, 0, 10),
        (2, CompareAndSet(0, 1), Refused, 20, 30),
        (3, Write(2), Done, 25, 35),
    ]));
}

#[test]
fn two_readers_agree_on_the_order_of_two_writes() {
    let rows = |last| {
        register(&[
            (1, Write(1), Done, 0, 100),
            (2, Write(2), Done, 0, 100),
            (3, Read, Saw(Some(1)), 10, 20),
            (4, Read, Saw(Some(2)), 30, 40),
            (3, Read, Saw(Some(last)), 50, 60),
        ])
    };
    holds(rows(2));
    fails(rows(1));
}

#[test]
fn two_readers_that_overlap_may_not_cross() {
    // Each reader alone sees a possible order, both together do not.
    fails(register(&[
        (1, Write(1), Done, 0, 100),
        (2, Write(2), Done, 0, 100),
        (3, Read, Saw(Some(1)), 10, 20),
        (3, Read, Saw(Some(2)), 30, 40),
        (4, Read, Saw(Some(2)), 12, 22),
        (4, Read, Saw(Some(1)), 32, 42),
    ]));
}

#[test]
fn what_holds_for_each_client_need_not_hold_for_all() {
    // Sequentially consistent, for the clients could be interleaved otherwise; not linearizable.
    fails(register(&[(1, Write(1), Done, 0, 10), (2, Read, Saw(None), 20, 30), (2, Read, Saw(Some(1)), 40, 50)]));
}

#[test]
fn nothing_happened_is_linearizable() {
    holds(register(&[]));
}
