//! Random histories: those of objects that really ran must pass; altered ones get the verdict of the checker that tries
//! every order.

use fastrand::Rng;
use telegraft_sim::linearizability::kv::{Kv, KvOp, KvRet, Value};
use telegraft_sim::linearizability::{
    Found, History, Model, Operation, Verdict, check, check_by_key, check_by_key_within, find_order,
};

use crate::brute_force;
use crate::models::{Object, Register, RegisterOp, RegisterRet, Store};

/// The steps that a search may take for each operation of a history that really happened.
const STEPS_PER_OPERATION: u64 = 500;

/// An operation by its times, and its answer if the client saw it.
#[derive(Clone, Debug)]
pub struct Row<Op, Ret> {
    process: u64,
    pub op: Op,
    called: u64,
    pub ret: Option<Ret>,
    returned: u64,
}

/// How a history is to look.
pub struct Shape {
    pub clients: u64,
    pub operations: usize,
    /// Of a hundred operations, so many have an unknown outcome.
    pub unknown_percent: u32,
}

/// What happens to an operation, in the order of what happens at one time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Call,
    Effect,
    Return,
}

/// Runs an object for clients that ask one thing after another: each operation takes effect at one moment between its
/// call and its return, or, its outcome unknown, at some moment after its call, or never. What a client asks for may
/// depend on the latest answer that any client has got.
pub fn run<O: Object>(
    rng: &mut Rng,
    shape: &Shape,
    mut next_op: impl FnMut(&mut Rng, Option<&O::Ret>) -> O::Op,
) -> Vec<Row<O::Op, O::Ret>> {
    let mut free_at: Vec<(u64, u64)> = (0..shape.clients).map(|client| (client, rng.u64(0..20))).collect();
    let mut plans = Vec::new();
    let mut events = Vec::new();
    for place in 0..shape.operations {
        let client = (0..free_at.len()).min_by_key(|&client| free_at[client].1).unwrap_or(0);
        let (process, free) = free_at[client];
        let called = free + rng.u64(0..5);
        let returned = called + rng.u64(0..20);
        let is_unknown = rng.u32(0..100) < shape.unknown_percent;
        events.push((called, Event::Call, place));
        if !is_unknown {
            events.push((rng.u64(called..=returned), Event::Effect, place));
            events.push((returned, Event::Return, place));
        } else if rng.bool() {
            let latest = if rng.bool() { 20 } else { 2_000 };
            events.push((called + rng.u64(0..latest), Event::Effect, place));
        }
        plans.push((process, called, returned, is_unknown));
        // A client that waits no longer goes on under another name.
        free_at[client] = (if is_unknown { process + shape.clients } else { process }, returned + 1);
    }
    events.sort_unstable();
    let mut object = O::default();
    let mut latest = None;
    let mut rows: Vec<Option<Row<O::Op, O::Ret>>> = plans.iter().map(|_| None).collect();
    for (_, event, place) in events {
        let (process, called, returned, is_unknown) = plans[place];
        match (event, &mut rows[place]) {
            (Event::Effect, Some(row)) => {
                let ret = object.perform(&row.op);
                row.ret = (!is_unknown).then_some(ret);
            }
            (Event::Return, Some(row)) => latest = row.ret.clone(),
            (_, row) => *row = Some(Row { process, op: next_op(rng, latest.as_ref()), called, ret: None, returned }),
        }
    }
    rows.into_iter().flatten().collect()
}

pub fn history<Op: Clone, Ret: Clone>(rows: &[Row<Op, Ret>]) -> History<Op, Ret> {
    let mut history = History::new();
    for row in rows {
        history.push(row.process, row.op.clone(), row.called, row.ret.clone().map(|ret| (ret, row.returned)));
    }
    history
}

fn register_op(rng: &mut Rng, _latest: Option<&RegisterRet>) -> RegisterOp {
    match rng.u32(0..10) {
        0..4 => RegisterOp::Read,
        4..7 => RegisterOp::Write(rng.u64(0..3)),
        _ => RegisterOp::CompareAndSet(rng.u64(0..3), rng.u64(0..3)),
    }
}

/// Values of few kinds, so that writes repeat each other.
pub fn kv_op(rng: &mut Rng, values: u8) -> KvOp {
    let value = |rng: &mut Rng| Value::from([rng.u8(0..values)]);
    match rng.u32(0..20) {
        0..8 => KvOp::Get,
        8..13 => KvOp::Put(value(rng)),
        13..15 => KvOp::Delete,
        _ => KvOp::CompareAndSet { expected: rng.bool().then(|| value(rng)), value: value(rng) },
    }
}

/// A load made to be checked: each write has a value of its own, and a compare-and-set expects the value that was last
/// read. So most writes without an answer are proven by what was read later.
pub fn telling_op(rng: &mut Rng, latest: Option<&KvRet>, written: &mut u64) -> KvOp {
    let mut value = || {
        *written += 1;
        Value::from(written.to_le_bytes())
    };
    match rng.u32(0..20) {
        0..8 => KvOp::Get,
        8..15 => KvOp::Put(value()),
        15 => KvOp::Delete,
        _ => match latest {
            Some(KvRet::Value(seen)) => {
                KvOp::CompareAndSet { expected: seen.as_ref().map(|(value, _)| value.clone()), value: value() }
            }
            _ => KvOp::Get,
        },
    }
}

/// Makes one change that may or may not be seen.
fn alter<Op, Ret: Clone>(rng: &mut Rng, rows: &mut Vec<Row<Op, Ret>>, other_ret: impl Fn(&mut Rng, &Op) -> Ret) {
    let place = rng.usize(0..rows.len());
    match rng.u32(0..6) {
        0 | 1 => {
            let ret = other_ret(rng, &rows[place].op);
            rows[place].ret = Some(ret);
        }
        2 => {
            let from = rng.usize(0..rows.len());
            rows[place].ret = rows[from].ret.clone();
        }
        3 => {
            let later = rng.u64(0..30);
            rows[place].called += later;
            rows[place].returned += later;
        }
        4 => rows[place].returned = rows[place].called,
        _ => drop(rows.remove(place)),
    }
}

fn other_register_ret(rng: &mut Rng, op: &RegisterOp) -> RegisterRet {
    match op {
        RegisterOp::Read => RegisterRet::Read(rng.bool().then(|| rng.u64(0..3))),
        RegisterOp::Write(_) => RegisterRet::Done,
        RegisterOp::CompareAndSet(..) if rng.bool() => RegisterRet::Done,
        RegisterOp::CompareAndSet(..) => RegisterRet::Refused,
    }
}

fn other_kv_ret(rng: &mut Rng, op: &KvOp) -> KvRet {
    match op {
        KvOp::Get => KvRet::Value(rng.bool().then(|| (Value::from([rng.u8(0..3)]), rng.u64(0..4)))),
        KvOp::Put(_) => KvRet::Version(rng.u64(0..4)),
        KvOp::Delete => KvRet::Existed(rng.bool()),
        KvOp::CompareAndSet { .. } if rng.bool() => KvRet::Version(rng.u64(0..4)),
        KvOp::CompareAndSet { .. } => KvRet::Refused,
    }
}

/// Compares both checkers on altered histories of a few operations; how many were linearizable and how many not.
fn compare<O: Object, M>(
    seeds: std::ops::Range<u64>,
    unknown_percent_max: u32,
    model: &M,
    next_op: impl Fn(&mut Rng, Option<&O::Ret>) -> O::Op,
    other_ret: impl Fn(&mut Rng, &O::Op) -> O::Ret,
) -> (u32, u32)
where
    M: Model<Op = O::Op, Ret = O::Ret>,
{
    let (mut linearizable, mut not) = (0, 0);
    for seed in seeds {
        let mut rng = Rng::with_seed(seed);
        let operations = rng.usize(2..=7);
        let shape = Shape { clients: rng.u64(1..=4), operations, unknown_percent: rng.u32(0..=unknown_percent_max) };
        let mut rows = run::<O>(&mut rng, &shape, &next_op);
        for _ in 0..rng.u32(0..5) {
            if rows.len() > 1 {
                alter(&mut rng, &mut rows, &other_ret);
            }
        }
        let history = history(&rows);
        let expected = brute_force::is_linearizable(history.operations(), model);
        assert_eq!(check(&history, model).is_linearizable(), expected, "seed {seed}:\n{history:?}");
        // Without the model's simplification too, and with a look at the order found.
        match find_order(history.operations(), model, 1_000_000) {
            Found::Order(order) => {
                assert!(expected, "seed {seed}: {order:?}\n{history:?}");
                assert!(
                    brute_force::is_witness(history.operations(), model, &order),
                    "seed {seed}: {order:?}\n{history:?}"
                );
                linearizable += 1;
            }
            Found::Stuck { longest } => {
                assert!(!expected, "seed {seed}: {longest:?}\n{history:?}");
                not += 1;
            }
            Found::OutOfSteps { after, .. } => panic!("seed {seed}: undecided after {after} steps"),
        }
    }
    (linearizable, not)
}

#[test]
fn registers_get_the_verdict_of_brute_force() {
    let (linearizable, not) = compare::<Option<u64>, _>(0..20_000, 40, &Register, register_op, other_register_ret);
    assert!(linearizable > 4_000 && not > 4_000, "{linearizable} linearizable, {not} not: one side is hardly tested");
}

#[test]
fn keys_get_the_verdict_of_brute_force() {
    for values in [2, 3, 100] {
        let (linearizable, not) = compare::<Store, _>(0..10_000, 40, &Kv, |rng, _| kv_op(rng, values), other_kv_ret);
        assert!(
            linearizable > 2_000 && not > 2_000,
            "{linearizable} linearizable, {not} not: one side is hardly tested"
        );
    }
}

/// Most outcomes unknown, so that few answers rest on many possible writes.
#[test]
fn mostly_unknown_histories_get_the_verdict_of_brute_force() {
    let (linearizable, not) = compare::<Store, _>(0..10_000, 80, &Kv, |rng, _| kv_op(rng, 2), other_kv_ret);
    assert!(linearizable > 2_000 && not > 1_000, "{linearizable} linearizable, {not} not: one side is hardly tested");
    let (linearizable, not) = compare::<Option<u64>, _>(0..10_000, 80, &Register, register_op, other_register_ret);
    assert!(linearizable > 2_000 && not > 1_000, "{linearizable} linearizable, {not} not: one side is hardly tested");
}

#[test]
fn histories_that_happened_are_linearizable() {
    for seed in 0..100 {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape { clients: rng.u64(1..12), operations: 500, unknown_percent: rng.u32(0..15) };
        let rows = run::<Option<u64>>(&mut rng, &shape, register_op);
        let verdict = check(&history(&rows), &Register);
        assert!(verdict.is_linearizable(), "seed {seed}: {verdict}");
    }
}

#[test]
fn histories_of_a_key_that_happened_are_linearizable() {
    for seed in 0..150 {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape { clients: rng.u64(1..8), operations: 500, unknown_percent: rng.u32(0..15) };
        let mut written = 0;
        let rows = run::<Store>(&mut rng, &shape, |rng, latest| match seed % 3 {
            0 => kv_op(rng, 3),
            1 => kv_op(rng, 30),
            _ => telling_op(rng, latest, &mut written),
        });
        let history = history(&rows);
        let simpler: Vec<Operation<KvOp, KvRet>> = Kv.simplify(history.operations().to_vec());
        match find_order(&simpler, &Kv, STEPS_PER_OPERATION * 500) {
            Found::Order(order) => {
                assert!(brute_force::is_witness(history.operations(), &Kv, &order), "seed {seed}");
            }
            _ => panic!("seed {seed}: {}", check(&history, &Kv)),
        }
    }
}

/// Wherever a search stops, what it says that it placed is the beginning of an order.
#[test]
fn a_search_that_stops_early_has_placed_a_beginning() {
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape { clients: 4, operations: 30, unknown_percent: 20 };
        let mut rows = run::<Store>(&mut rng, &shape, |rng, _| kv_op(rng, 3));
        (0..3).for_each(|_| alter(&mut rng, &mut rows, other_kv_ret));
        let history = history(&rows);
        for steps_max in 0.. {
            let (longest, is_over) = match find_order(history.operations(), &Kv, steps_max) {
                Found::OutOfSteps { longest, .. } => (longest, steps_max > 300),
                Found::Stuck { longest } => (longest, true),
                Found::Order(order) => (order, true),
            };
            assert!(
                brute_force::is_beginning(history.operations(), &Kv, &longest),
                "seed {seed}, {steps_max} steps: {longest:?}\n{history:?}"
            );
            if is_over {
                break;
            }
        }
    }
}

#[test]
fn the_same_history_has_the_same_verdict_and_words() {
    let judge = |seed| {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape { clients: 6, operations: 200, unknown_percent: 10 };
        let mut rows = run::<Store>(&mut rng, &shape, |rng, _| kv_op(rng, 5));
        (0..3).for_each(|_| alter(&mut rng, &mut rows, other_kv_ret));
        check(&history(&rows), &Kv).to_string()
    };
    for seed in 0..20 {
        assert_eq!(judge(seed), judge(seed));
    }
}

/// One wrong answer among thousands, on one key of ten, is found and named.
#[test]
fn one_wrong_answer_is_found_among_many() {
    for seed in 0..10 {
        let mut rng = Rng::with_seed(seed);
        let mut all = History::new();
        let mut wrong = None;
        for key in 0..10_u32 {
            let shape = Shape { clients: 8, operations: 1_000, unknown_percent: 5 };
            let mut written = 0_u64;
            let mut rows = run::<Store>(&mut rng, &shape, |rng, latest| telling_op(rng, latest, &mut written));
            if key == 7 {
                let stale =
                    600 + rows[600..].iter().position(|row| matches!(row.ret, Some(KvRet::Value(Some(_))))).unwrap();
                rows[stale].ret = Some(KvRet::value(1_u64.to_le_bytes(), 1));
                wrong = Some(rows[stale].returned);
            }
            for row in rows {
                all.push(row.process, (key, row.op), row.called, row.ret.map(|ret| (ret, row.returned)));
            }
        }
        let verdict = check_by_key_within(&all, |(key, op)| (key, op), &Kv, 1_000_000);
        let Verdict::NotLinearizable { key: 7, explanation } = &verdict else {
            panic!("seed {seed}: {verdict}");
        };
        assert!(explanation.is_first && Some(explanation.at) == wrong, "seed {seed}, wrong at {wrong:?}: {verdict}");
        assert!(check_by_key(&without(&all, 7), |(key, op)| (key, op), &Kv).is_linearizable(), "seed {seed}");
    }
}

fn without(all: &History<(u32, KvOp), KvRet>, key: u32) -> History<(u32, KvOp), KvRet> {
    let mut rest = History::new();
    for operation in all.operations().iter().filter(|operation| operation.op.0 != key) {
        let answer = operation.ret().cloned().zip(operation.returned_at().map(|at| at.time()));
        rest.push(operation.process, operation.op.clone(), operation.called.time(), answer);
    }
    rest
}
