//! The search for an order of operations that the model allows.
//!
//! A *configuration* is the set of operations placed so far and the state they lead to. From each, the search tries the
//! operations that may come next: those called before the first return among the operations still open. It goes on from
//! the configuration that explains most answers, and holds each unknown operation that it needed for that against it: so
//! it goes deep as Wing and Gong's does, but comes back to a plain explanation before it spins out a far-fetched one.
//! Three rules make the search small; each leaves some order to be found wherever there is one:
//!
//! 1. *An operation that fits and never changes anything is placed at once*, without alternatives (a read, a refused
//!    compare-and-set). Move it to the front of any completion: it fits there, and the rest finds the same states. This
//!    is not so for one that merely changes nothing here, as a write of the present value: its effect may be needed later.
//! 2. *An operation of unknown outcome is left out unless it is needed*: it is tried only where it changes the state and
//!    the model says that it may help an open operation to fit. And a configuration is dead when another with the same
//!    known operations, the same state, and no more of the unknown ones has been seen: whatever completes the first
//!    completes the second.
//! 3. *Of unknown operations that ask for the same, the earliest called is taken first*: all that may be placed now may
//!    be placed at any later time too, and are then interchangeable. So a set of unknown operations is a number for each
//!    distinct request.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::placing::{OpenList, PlacedSet};
use super::unknowns::{self, Taken, Unknowns, is_subset};
use super::{Model, Moment, Operation, Outcome};

/// How many answers an explanation must be ahead of another to have used one unknown operation more. Too few, and the
/// search chases far-fetched explanations; too many, and it tries all variations of a plain one that leads nowhere.
const UNKNOWN_COST: i64 = 8;

/// What a search found. Operations are named by their place in the slice that was searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An order that the model allows. It holds all operations that returned, and of the unknown ones those that had to
    /// take effect.
    Order(Vec<usize>),
    /// There is no such order. The longest beginning of one that the search came by.
    Stuck {
        /// Its operations, first to last.
        longest: Vec<usize>,
    },
    /// The steps allowed are used up.
    OutOfSteps {
        /// How many they were.
        after: u64,
        /// The longest beginning of an order so far.
        longest: Vec<usize>,
    },
}

/// Searches for an order of one object's operations that `model` allows, taking at most `steps_max` of its steps.
pub fn find_order<M: Model>(operations: &[Operation<M::Op, M::Ret>], model: &M, steps_max: u64) -> Found {
    let mut search = Search::new(operations, model, steps_max);
    let ended = search.run();
    let longest = search.longest;
    let order = search.places(longest);
    match ended {
        Ok(true) => Found::Order(order),
        Ok(false) => Found::Stuck { longest: order },
        Err(OutOfSteps) => Found::OutOfSteps { after: steps_max, longest: order },
    }
}

/// The budget is used up.
struct OutOfSteps;

/// An operation whose answer is known.
struct Known<'a, M: Model> {
    place: usize,
    op: &'a M::Op,
    ret: &'a M::Ret,
    returned: Moment,
    changes_nothing: bool,
}

#[derive(Clone, Copy)]
enum Choice {
    Known(usize),
    Unknown(usize),
}

/// How far the placing had come.
#[derive(Clone, Copy)]
struct Mark {
    placed: usize,
    first_open: usize,
    top: usize,
}

/// A configuration, reached from an earlier one.
struct Config<State> {
    parent: usize,
    /// How many are before it on its way.
    generation: usize,
    /// How far the placing had come at its parent.
    before: Mark,
    /// What was placed since.
    placed: Box<[Choice]>,
    /// How many operations are placed in all.
    known: usize,
    unknown: usize,
    state: State,
}

/// What to try next from a configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Unknown,
    Known,
}

/// Something to try from a configuration, which comes last. The greatest is tried first; of equals the children of the
/// latest parent, which is the deepest, and of these the one added first.
type Trial = (i64, Next, usize, Reverse<usize>);

/// For each distinct set of known operations and state, the least sets of unknown operations it was reached with.
type Seen<State> = HashMap<(Box<[u64]>, State), Vec<Taken>, BuildHasherDefault<DefaultHasher>>;

struct Search<'a, M: Model> {
    model: &'a M,
    known: Vec<Known<'a, M>>,
    unknown: Vec<Unknowns<'a, M>>,
    /// The placing of the configuration `current`.
    open: OpenList,
    placed: Vec<Choice>,
    placed_known: PlacedSet,
    current: usize,
    configs: Vec<Config<M::State>>,
    /// The configuration with the most known operations, the first of such.
    longest: usize,
    trials: BinaryHeap<Trial>,
    seen: Seen<M::State>,
    steps: u64,
    steps_max: u64,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(operations: &'a [Operation<M::Op, M::Ret>], model: &'a M, steps_max: u64) -> Self {
        let mut by_call: Vec<usize> = (0..operations.len()).collect();
        by_call.sort_by_key(|&place| operations[place].called);
        let mut known = Vec::new();
        let mut calls = Vec::new();
        for &place in &by_call {
            let Operation { op, called, outcome, .. } = &operations[place];
            if let Outcome::Returned { ret, at } = outcome {
                let changes_nothing = model.changes_nothing(op, Some(ret));
                known.push(Known { place, op, ret, returned: *at, changes_nothing });
                calls.push(*called);
            }
        }
        let unknown = unknowns::groups(by_call.iter().map(|&place| (place, &operations[place])), model);
        let returns: Vec<Moment> = known.iter().map(|known| known.returned).collect();
        Search {
            model,
            open: OpenList::new(&calls, &returns),
            placed_known: PlacedSet::new(known.len()),
            known,
            unknown,
            placed: Vec::new(),
            current: 0,
            // Nothing is placed in the first: the others only begin there.
            configs: vec![Config {
                parent: 0,
                generation: 0,
                before: Mark { placed: 0, first_open: 0, top: 0 },
                placed: Box::default(),
                known: 0,
                unknown: 0,
                state: model.init(),
            }],
            longest: 0,
            trials: BinaryHeap::new(),
            seen: Seen::default(),
            steps: 0,
            steps_max,
        }
    }

    /// Whether there is an order: then `longest` is it.
    fn run(&mut self) -> Result<bool, OutOfSteps> {
        let (before, state) = (self.mark(), self.model.init());
        self.add(before, state)?;
        loop {
            if self.configs[self.longest].known == self.known.len() {
                return Ok(true);
            }
            match self.trials.pop() {
                Some((_, Next::Known, _, Reverse(config))) => self.try_known(config)?,
                Some((_, Next::Unknown, _, Reverse(config))) => self.try_unknown(config)?,
                None => return Ok(false),
            }
        }
    }

    /// Goes on by each known operation that may come next and fits, first by those that return first.
    fn try_known(&mut self, config: usize) -> Result<(), OutOfSteps> {
        self.go_to(config);
        let before = self.mark();
        let state = self.configs[config].state.clone();
        let mut next: Vec<usize> = self.open.calls().filter(|&index| !self.known[index].changes_nothing).collect();
        next.sort_by_key(|&index| self.known[index].returned);
        for index in next {
            let Known { op, ret, .. } = self.known[index];
            if let Some(next) = self.step(&state, op, Some(ret))? {
                self.place(Choice::Known(index));
                self.add(before, next)?;
            }
        }
        let Config { parent, known, unknown, .. } = self.configs[config];
        self.trials.push((promise(known, unknown + 1), Next::Unknown, parent, Reverse(config)));
        Ok(())
    }

    /// Goes on by each unknown operation that may come next, changes something and may help.
    fn try_unknown(&mut self, config: usize) -> Result<(), OutOfSteps> {
        self.go_to(config);
        let before = self.mark();
        let state = self.configs[config].state.clone();
        let Some(first_return) = self.open.first_return().map(|index| self.known[index].returned) else {
            return Ok(());
        };
        for group in 0..self.unknown.len() {
            let Unknowns { op, calls, taken, .. } = &self.unknown[group];
            let op = *op;
            if calls.get(*taken).is_some_and(|(called, _)| *called < first_return)
                && self.may_help(&state, op)?
                && let Some(next) = self.step(&state, op, None)?
                && next != state
            {
                self.place(Choice::Unknown(group));
                self.add(before, next)?;
            }
        }
        Ok(())
    }

    /// Whether an unknown operation may help one that may come next.
    fn may_help(&mut self, state: &M::State, op: &M::Op) -> Result<bool, OutOfSteps> {
        let helped = self.open.calls().position(|index| {
            let Known { op: open, ret, .. } = self.known[index];
            self.model.may_help(state, op, open, ret)
        });
        self.count_steps(helped.map_or_else(|| self.open.calls().count(), |asked| asked + 1))?;
        Ok(helped.is_some())
    }

    /// Adds the configuration that is now placed, unless one was seen that makes it needless, and undoes its placing.
    fn add(&mut self, before: Mark, state: M::State) -> Result<(), OutOfSteps> {
        self.place_what_changes_nothing(&state)?;
        if self.is_new(&state) {
            let known = self.placed_known.len;
            let unknown = self.placed.len() - known;
            let generation = self.configs[self.current].generation + 1;
            let placed = self.placed[before.placed..].into();
            self.trials.push((promise(known, unknown), Next::Known, self.current, Reverse(self.configs.len())));
            if known > self.configs[self.longest].known {
                self.longest = self.configs.len();
            }
            self.configs.push(Config { parent: self.current, generation, before, placed, known, unknown, state });
        }
        self.undo_to(before);
        Ok(())
    }

    /// Rule 1. What did not fit before an operation was placed here does not fit after it, in the same state, and what
    /// may come next only grows: one pass is enough.
    fn place_what_changes_nothing(&mut self, state: &M::State) -> Result<(), OutOfSteps> {
        let mut entry = self.open.first();
        while let Some(index) = self.open.call(entry) {
            entry = self.open.after(entry);
            let Known { op, ret, changes_nothing, .. } = self.known[index];
            if changes_nothing && self.step(state, op, Some(ret))?.is_some() {
                // The entry after a call may be its own return, which leaves the list with it.
                if self.open.is_return_of(entry, index) {
                    entry = self.open.after(entry);
                }
                self.place(Choice::Known(index));
            }
        }
        Ok(())
    }

    fn step(&mut self, state: &M::State, op: &M::Op, ret: Option<&M::Ret>) -> Result<Option<M::State>, OutOfSteps> {
        self.count_steps(1)?;
        Ok(self.model.step(state, op, ret))
    }

    fn count_steps(&mut self, steps: usize) -> Result<(), OutOfSteps> {
        self.steps += steps as u64;
        if self.steps > self.steps_max { Err(OutOfSteps) } else { Ok(()) }
    }

    /// Rule 2. Whether no configuration that was seen makes the one now placed needless; if so it is now seen.
    fn is_new(&mut self, state: &M::State) -> bool {
        let taken = unknowns::taken(&self.unknown);
        let least = self.seen.entry((self.placed_known.key(), state.clone())).or_default();
        // A long comparison counts too, or the budget would not bound the work.
        self.steps += least.len() as u64 / 16;
        if least.iter().any(|seen| is_subset(seen, &taken)) {
            return false;
        }
        least.retain(|seen| !is_subset(&taken, seen));
        least.push(taken);
        true
    }

    /// Places what is placed in another configuration: back to the last that both have in common, and on from there.
    fn go_to(&mut self, config: usize) {
        let mut ahead = Vec::new();
        let mut target = config;
        while target != self.current {
            if self.configs[target].generation > self.configs[self.current].generation {
                ahead.push(target);
                target = self.configs[target].parent;
            } else {
                let Config { before, parent, .. } = self.configs[self.current];
                self.undo_to(before);
                self.current = parent;
            }
        }
        for config in ahead.into_iter().rev() {
            for choice in 0..self.configs[config].placed.len() {
                self.place(self.configs[config].placed[choice]);
            }
        }
        self.current = config;
    }

    fn mark(&self) -> Mark {
        Mark { placed: self.placed.len(), first_open: self.placed_known.first_open, top: self.placed_known.top }
    }

    fn place(&mut self, choice: Choice) {
        match choice {
            Choice::Known(index) => {
                self.open.lift(index);
                self.placed_known.insert(index);
            }
            Choice::Unknown(group) => self.unknown[group].taken += 1,
        }
        self.placed.push(choice);
    }

    fn undo_to(&mut self, mark: Mark) {
        for choice in self.placed.drain(mark.placed..).rev() {
            match choice {
                Choice::Known(index) => {
                    self.open.unlift(index);
                    self.placed_known.remove(index);
                }
                Choice::Unknown(group) => self.unknown[group].taken -= 1,
            }
        }
        self.placed_known.first_open = mark.first_open;
        self.placed_known.top = mark.top;
    }

    /// The order that leads to a configuration, also where the search broke off in the middle of another.
    fn places(&mut self, config: usize) -> Vec<usize> {
        self.undo_to(self.configs[0].before);
        self.current = 0;
        self.go_to(config);
        let mut taken = vec![0; self.unknown.len()];
        (self.placed.iter())
            .map(|choice| match *choice {
                Choice::Known(index) => self.known[index].place,
                Choice::Unknown(group) => {
                    taken[group] += 1;
                    self.unknown[group].calls[taken[group] - 1].1
                }
            })
            .collect()
    }
}

/// How much a configuration is worth going on from.
fn promise(known: usize, unknown: usize) -> i64 {
    known as i64 - UNKNOWN_COST * unknown as i64
}
