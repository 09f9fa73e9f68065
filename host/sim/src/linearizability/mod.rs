//! Judges a history of client operations: is there one order of them that a single, correct object could have served?
//!
//! A history is *linearizable* (Herlihy and Wing, "Linearizability: A Correctness Condition for Concurrent Objects",
//! 1990) when every operation can be given one moment between its call and its return so that the operations, taken in
//! the order of these moments, are a run of the object's sequential specification: here a [`Model`]. An operation whose
//! client saw no answer may take effect at any moment after its call, or never.
//!
//! The search for such an order ([`find_order`]) is that of Wing and Gong ("Testing and Verifying Concurrent Objects",
//! 1993) as Lowe improved it ("Testing for Linearizability", 2017): always over the operations whose calls precede the
//! first return still open, and never twice from the same set of placed operations and the same state. Of our own are the
//! order in which it tries, the most promising first, and the rules that keep operations of unknown outcome from
//! multiplying the work; `search.rs` states them and why they are sound. A system of many objects is linearizable exactly
//! when each of its objects is (Herlihy and Wing, section 3.3), so [`check_by_key`] judges each key by itself, as Horn and
//! Kroening do ("Faster Linearizability Checking via P-Compositionality", 2015).
//!
//! To decide is NP-complete, so a search has a budget: a number of model steps, never a time, and the same history has
//! the same verdict on every machine. Beyond it the verdict is [`Verdict::Undecided`], which is no pass.
//!
//! | file | owns |
//! |---|---|
//! | `history.rs` | operations: what clients did and saw, and when |
//! | `search.rs` | the search for an order |
//! | `placing.rs` | which operations are placed in it and which may come next |
//! | `unknowns.rs` | the operations of unknown outcome, by what they ask for |
//! | `explanation.rs` | where and why a history stops being linearizable, for a person |
//! | `kv.rs` | the model of the key-value module |

mod explanation;
mod history;
pub mod kv;
mod placing;
mod search;
mod unknowns;

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::hash::Hash;

pub use explanation::Explanation;
pub use history::{Call, History, Moment, Operation, Outcome};
pub use search::{Found, find_order};

/// The steps that a search of one key may take where the caller does not say: some seconds, and some hundred megabytes.
pub const STEPS_MAX: u64 = 20_000_000;

/// The sequential specification of an object.
pub trait Model {
    /// What a client asks for.
    type Op: Clone + Eq + Hash + Debug;
    /// What a client sees.
    type Ret: Clone + Debug;
    /// All that the object remembers.
    type State: Clone + Eq + Hash + Debug;

    /// The state before the first operation.
    fn init(&self) -> Self::State;

    /// The state after `op` took effect in `state`, or `None` where it cannot have: a correct object would have
    /// answered something else than `ret`. Without a `ret` any answer is possible.
    fn step(&self, state: &Self::State, op: &Self::Op, ret: Option<&Self::Ret>) -> Option<Self::State>;

    /// Whether the operation, with this answer or any, changes no state at all: not only not the present one. Reads do
    /// not, nor does what was refused. To say so spares the search much; to say it wrongly makes its verdicts wrong.
    fn changes_nothing(&self, _op: &Self::Op, _ret: Option<&Self::Ret>) -> bool {
        false
    }

    /// Whether an order may need `unknown`, an operation of unknown outcome, to take effect in `state` before `open` is
    /// answered with `ret` (at once, or after more unknown operations).
    ///
    /// `true` is always right, and slow where many outcomes are unknown. `false` is right where any such run leads to a
    /// state that a run with fewer unknown operations before `open` leads to as well, or one with all of them after it.
    fn may_help(&self, _state: &Self::State, _unknown: &Self::Op, _open: &Self::Op, _ret: &Self::Ret) -> bool {
        true
    }

    /// Operations that are linearizable exactly when the given ones are, but sooner decided: such as with one name for
    /// all values that no answer tells apart. The operation at each place must stay the same operation.
    fn simplify(&self, operations: Vec<Operation<Self::Op, Self::Ret>>) -> Vec<Operation<Self::Op, Self::Ret>> {
        operations
    }

    /// An operation and what came of it, for a person.
    fn describe(&self, op: &Self::Op, ret: Option<&Self::Ret>) -> String {
        match ret {
            Some(ret) => format!("{op:?} -> {ret:?}"),
            None => format!("{op:?}"),
        }
    }

    /// A state, for a person.
    fn describe_state(&self, state: &Self::State) -> String {
        format!("{state:?}")
    }
}

/// What a check says.
#[must_use = "a verdict that nobody reads proves nothing"]
#[derive(Clone, Debug)]
pub enum Verdict<K> {
    /// Each key's operations have an order that the model allows.
    Linearizable,
    /// A key's operations have none.
    NotLinearizable {
        /// The least such key.
        key: K,
        /// Where its history stops being linearizable.
        explanation: Explanation,
    },
    /// No key is known to be not linearizable, and one at least could not be decided within its steps.
    Undecided {
        /// The least such key.
        key: K,
        /// The model steps after which the search gave up.
        after: u64,
        /// How far it had come.
        explanation: Explanation,
    },
}

impl<K> Verdict<K> {
    /// Whether the history has been found linearizable; false for an undecided one.
    #[must_use]
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Verdict::Linearizable)
    }
}

impl<K: Debug> Display for Verdict<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Linearizable => write!(f, "linearizable"),
            Verdict::NotLinearizable { key, explanation } => {
                write!(f, "key {key:?} is not linearizable: {explanation}")
            }
            Verdict::Undecided { key, after, explanation } => write!(
                f,
                "key {key:?} is undecided after {after} steps (shorten its history or allow more steps): {explanation}"
            ),
        }
    }
}

/// Judges the history of one object, with at most [`STEPS_MAX`] steps.
pub fn check<M: Model>(history: &History<M::Op, M::Ret>, model: &M) -> Verdict<()> {
    check_by_key(history, |op| (&(), op), model)
}

/// Judges a history of many objects, each by itself and with at most [`STEPS_MAX`] steps.
///
/// `key_of` tells which object an operation is for, and what it asks of it:
///
/// ```
/// # use telegraft_sim::linearizability::{History, check_by_key, kv::{Kv, KvOp, KvRet}};
/// let mut history = History::new();
/// let put = history.call(1, ("a", KvOp::put("x")), 0);
/// history.returned(put, KvRet::Version(1), 5);
/// let get = history.call(2, ("a", KvOp::Get), 6);
/// history.returned(get, KvRet::Value(None), 9);
/// let verdict = check_by_key(&history, |(key, op)| (key, op), &Kv);
/// assert!(!verdict.is_linearizable(), "a stale read: {verdict}");
/// ```
pub fn check_by_key<O, K, M, F>(history: &History<O, M::Ret>, key_of: F, model: &M) -> Verdict<K>
where
    K: Ord + Clone,
    M: Model,
    F: for<'a> Fn(&'a O) -> (&'a K, &'a M::Op),
{
    check_by_key_within(history, key_of, model, STEPS_MAX)
}

/// As [`check_by_key`], with at most so many model steps for each key's search.
pub fn check_by_key_within<O, K, M, F>(history: &History<O, M::Ret>, key_of: F, model: &M, steps_max: u64) -> Verdict<K>
where
    K: Ord + Clone,
    M: Model,
    F: for<'a> Fn(&'a O) -> (&'a K, &'a M::Op),
{
    let mut by_key: BTreeMap<&K, Operations<M>> = BTreeMap::new();
    for operation in history.operations() {
        let (key, op) = key_of(&operation.op);
        by_key.entry(key).or_default().push(Operation {
            process: operation.process,
            op: op.clone(),
            called: operation.called,
            outcome: operation.outcome.clone(),
        });
    }
    let mut undecided = None;
    for (key, operations) in by_key {
        match judge(&operations, model, steps_max) {
            Found::Order(_) => {}
            Found::Stuck { .. } => {
                let explanation = explanation::explain(&operations, model, steps_max);
                return Verdict::NotLinearizable { key: key.clone(), explanation };
            }
            Found::OutOfSteps { after, longest } => {
                undecided.get_or_insert_with(|| {
                    let explanation = explanation::come_so_far(&operations, model, &longest);
                    Verdict::Undecided { key: key.clone(), after, explanation }
                });
            }
        }
    }
    undecided.unwrap_or(Verdict::Linearizable)
}

/// The operations on one object.
type Operations<M> = Vec<Operation<<M as Model>::Op, <M as Model>::Ret>>;

/// The search over what the model makes of the operations.
fn judge<M: Model>(operations: &[Operation<M::Op, M::Ret>], model: &M, steps_max: u64) -> Found {
    find_order(&model.simplify(operations.to_vec()), model, steps_max)
}
