//! A checker that tries every order of every choice of operations: slow, and with nothing clever to be wrong about. And
//! the check of an order that the real search hands out.

use telegraft_sim::linearizability::{Model, Operation, Outcome};

/// Whether some order of all answered operations and of some unknown ones respects time and the model.
pub fn is_linearizable<M: Model>(operations: &[Operation<M::Op, M::Ret>], model: &M) -> bool {
    let places = |is: fn(&Outcome<M::Ret>) -> bool| -> Vec<usize> {
        (0..operations.len()).filter(|&place| is(&operations[place].outcome)).collect()
    };
    let answered = places(|outcome| matches!(outcome, Outcome::Returned { .. }));
    let unknown = places(|outcome| matches!(outcome, Outcome::Unknown));
    assert!(answered.len() + unknown.len() <= 9, "too many orders to try");
    (0..1_u32 << unknown.len()).any(|subset| {
        let mut chosen = answered.clone();
        chosen.extend((0..unknown.len()).filter(|bit| subset & (1 << bit) != 0).map(|bit| unknown[bit]));
        let length = chosen.len();
        some_order(&mut chosen, length, &mut |order| is_valid(operations, model, order))
    })
}

/// Whether an order respects time and the model, and leaves out no answered operation.
pub fn is_witness<M: Model>(operations: &[Operation<M::Op, M::Ret>], model: &M, order: &[usize]) -> bool {
    let is_complete = (0..operations.len()).all(|place| order.contains(&place) || operations[place].ret().is_none());
    is_complete && is_beginning(operations, model, order)
}

/// Whether an order respects time and the model, and leaves out no operation that returned before another was called.
pub fn is_beginning<M: Model>(operations: &[Operation<M::Op, M::Ret>], model: &M, order: &[usize]) -> bool {
    let mut is_placed = vec![false; operations.len()];
    for &place in order {
        if std::mem::replace(&mut is_placed[place], true) || matches!(operations[place].outcome, Outcome::NoEffect) {
            return false;
        }
    }
    let latest_call = order.iter().map(|&place| operations[place].called).max();
    let is_left_behind = |place: usize| {
        let returned = operations[place].returned_at();
        !is_placed[place] && returned.is_some_and(|at| latest_call.is_some_and(|latest| at < latest))
    };
    !(0..operations.len()).any(is_left_behind) && is_valid(operations, model, order)
}

fn is_valid<M: Model>(operations: &[Operation<M::Op, M::Ret>], model: &M, order: &[usize]) -> bool {
    // No operation may come after one that was called only after it had returned.
    let mut latest_call = None;
    let mut state = model.init();
    for operation in order.iter().map(|&place| &operations[place]) {
        if operation.returned_at().is_some_and(|at| latest_call.is_some_and(|latest| at < latest)) {
            return false;
        }
        latest_call = latest_call.max(Some(operation.called));
        match model.step(&state, &operation.op, operation.ret()) {
            Some(next) => state = next,
            None => return false,
        }
    }
    true
}

/// Heap's way through all permutations, until one satisfies.
fn some_order(items: &mut [usize], length: usize, satisfies: &mut impl FnMut(&[usize]) -> bool) -> bool {
    if length <= 1 {
        return satisfies(items);
    }
    for turn in 0..length {
        if some_order(items, length - 1, satisfies) {
            return true;
        }
        items.swap(if length.is_multiple_of(2) { turn } else { 0 }, length - 1);
    }
    false
}

#[test]
fn every_order_is_tried_once() {
    let mut orders = std::collections::BTreeSet::new();
    let mut tried = 0;
    let found = some_order(&mut [0, 1, 2, 3, 4], 5, &mut |order| {
        orders.insert(order.to_vec());
        tried += 1;
        false
    });
    assert_eq!((found, orders.len(), tried), (false, 120, 120));
}
