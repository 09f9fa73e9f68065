//! Where and why a history stops being linearizable, for a person.
//!
//! What is left of a linearizable history when it is cut at a moment, with the operations then under way of unknown
//! outcome, is linearizable too (Herlihy and Wing, 1990: linearizability is a safety property). So there is one first
//! answer with which the history no longer is, and bisection finds it. All that happened later is left out.

use std::fmt;

use super::{Found, Model, Moment, Operation, Outcome, judge};

/// The last operations of the order found that are shown.
const PLACED_SHOWN_MAX: usize = 8;
/// The operations outside it that are shown, with and without an answer.
const UNPLACED_SHOWN_MAX: usize = 8;
/// The characters of a bar that stand for the time shown.
const BAR_WIDTH: u64 = 32;
/// The characters of what an operation asked and was told.
const WHAT_WIDTH_MAX: usize = 60;

/// Why a history is not linearizable, or how far an undecided search came; its text is a small timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The time of the first answer with which the history is not linearizable, or that could not be explained.
    pub at: u64,
    /// Whether the history is known to be linearizable without that answer; if not, the steps did not suffice to tell.
    pub is_first: bool,
    /// The operations, up to that time, of the longest beginning of an order.
    pub placed: usize,
    text: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Explains operations that have been found not linearizable.
pub(super) fn explain<M: Model>(operations: &[Operation<M::Op, M::Ret>], model: &M, steps_max: u64) -> Explanation {
    let mut returns: Vec<Moment> = operations.iter().filter_map(Operation::returned_at).collect();
    returns.sort_unstable();
    // The first `fits` answers are linearizable, the first `fails` are not: no answer at all always is.
    let (mut fits, mut fails) = (0, returns.len());
    while fails - fits > 1 {
        let middle = fits.midpoint(fails);
        match judge(&cut::<M>(operations, returns[middle - 1]), model, steps_max) {
            Found::Order(_) => fits = middle,
            Found::Stuck { .. } => fails = middle,
            Found::OutOfSteps { .. } => break,
        }
    }
    let (is_first, end) = (fails - fits == 1, returns[fails - 1]);
    let operations = cut::<M>(operations, end);
    let longest = match judge(&operations, model, steps_max) {
        Found::Stuck { longest } | Found::OutOfSteps { longest, .. } => longest,
        Found::Order(_) => Vec::new(),
    };
    let mut opening = format!("it stops being linearizable at time {}", end.time());
    if !is_first {
        opening.push_str(" or before (the steps allowed did not suffice to say when)");
    }
    for operation in operations.iter().filter(|operation| operation.returned_at() == Some(end)) {
        let what = model.describe(&operation.op, operation.ret());
        opening.push_str(&format!(", when client {} sees: {what}", operation.process));
    }
    let text = Timeline { model, operations: &operations, longest: &longest, end }.write(opening);
    Explanation { at: end.time(), is_first, placed: longest.len(), text }
}

/// Tells how far a search had come.
pub(super) fn come_so_far<M: Model>(
    operations: &[Operation<M::Op, M::Ret>],
    model: &M,
    longest: &[usize],
) -> Explanation {
    let mut is_open: Vec<bool> = operations.iter().map(|operation| operation.ret().is_some()).collect();
    for &place in longest {
        is_open[place] = false;
    }
    let open = operations.iter().zip(is_open).filter(|(_, is_open)| *is_open);
    let last = operations.iter().map(|operation| operation.called).max();
    let Some(end) = open.filter_map(|(operation, _)| operation.returned_at()).min().or(last) else {
        return Explanation { at: 0, is_first: false, placed: 0, text: "there are no operations".to_owned() };
    };
    // Later answers stay: the order found rests on them.
    let opening = format!("the search came to time {}", end.time());
    let text = Timeline { model, operations, longest, end }.write(opening);
    Explanation { at: end.time(), is_first: false, placed: longest.len(), text }
}

/// What is known of the operations at a moment. Each keeps its place.
fn cut<M: Model>(operations: &[Operation<M::Op, M::Ret>], end: Moment) -> Vec<Operation<M::Op, M::Ret>> {
    let mut operations = operations.to_vec();
    for operation in &mut operations {
        if operation.called > end {
            operation.outcome = Outcome::NoEffect;
        } else if operation.returned_at().is_some_and(|at| at > end) {
            operation.outcome = Outcome::Unknown;
        }
    }
    operations
}

struct Timeline<'a, M: Model> {
    model: &'a M,
    operations: &'a [Operation<M::Op, M::Ret>],
    longest: &'a [usize],
    end: Moment,
}

impl<M: Model> Timeline<'_, M> {
    fn write(&self, opening: String) -> String {
        let mut text = opening;
        let placed = &self.longest[self.longest.len().saturating_sub(PLACED_SHOWN_MAX)..];
        let (open, silent) = self.unplaced();
        let shown: Vec<usize> = placed.iter().chain(&open).chain(&silent).copied().collect();
        // The time shown is that of the answered ones; an unknown one may have been called long before.
        let answered =
            || shown.iter().map(|&place| &self.operations[place]).filter(|operation| operation.ret().is_some());
        let from = answered().map(|operation| operation.called).min().unwrap_or(self.end).time();
        let to = answered().filter_map(Operation::returned_at).max().unwrap_or(self.end).time();
        let width = shown.iter().map(|&place| self.what(place).chars().count()).max().unwrap_or(0).min(WHAT_WIDTH_MAX);

        let state = self.state_after_longest();
        let count = self.longest.len();
        text.push_str(&format!("\n  the longest order found holds {count} operations and leaves {state}"));
        if placed.len() < count {
            text.push_str(&format!("; its last {}", placed.len()));
        }
        text.push_str(":\n");
        self.rows(&mut text, placed, (from, to), width);
        text.push_str("  none of these fits next:\n");
        self.rows(&mut text, &open, (from, to), width);
        if !silent.is_empty() {
            text.push_str("  not needed or of no use, as their outcome was not known by then:\n");
            self.rows(&mut text, &silent, (from, to), width);
        }
        text
    }

    /// The operations outside the order that could be its next ones: the first that were answered, the last that were not.
    fn unplaced(&self) -> (Vec<usize>, Vec<usize>) {
        let mut is_placed = vec![false; self.operations.len()];
        for &place in self.longest {
            is_placed[place] = true;
        }
        let mut unplaced: Vec<usize> = (0..self.operations.len())
            .filter(|&place| !is_placed[place] && !matches!(self.operations[place].outcome, Outcome::NoEffect))
            .collect();
        unplaced.sort_by_key(|&place| self.operations[place].called);
        let (mut open, mut silent): (Vec<usize>, Vec<usize>) =
            unplaced.into_iter().partition(|&place| self.operations[place].ret().is_some());
        let first_return = open.iter().filter_map(|&place| self.operations[place].returned_at()).min();
        open.retain(|&place| first_return.is_none_or(|first| self.operations[place].called <= first));
        silent.retain(|&place| {
            let Operation { op, called, .. } = &self.operations[place];
            !self.model.changes_nothing(op, None) && first_return.is_none_or(|first| *called <= first)
        });
        open.truncate(UNPLACED_SHOWN_MAX);
        silent.drain(..silent.len().saturating_sub(UNPLACED_SHOWN_MAX));
        (open, silent)
    }

    fn state_after_longest(&self) -> String {
        let mut state = self.model.init();
        for &place in self.longest {
            let operation = &self.operations[place];
            if let Some(next) = self.model.step(&state, &operation.op, operation.ret()) {
                state = next;
            }
        }
        self.model.describe_state(&state)
    }

    fn what(&self, place: usize) -> String {
        let Operation { op, outcome, .. } = &self.operations[place];
        match outcome {
            Outcome::Returned { ret, .. } => self.model.describe(op, Some(ret)),
            Outcome::Unknown | Outcome::NoEffect => format!("{} -> ?", self.model.describe(op, None)),
        }
    }

    fn rows(&self, text: &mut String, places: &[usize], (from, to): (u64, u64), width: usize) {
        for &place in places {
            let operation = &self.operations[place];
            let called = operation.called.time();
            let returned = operation.returned_at().map(Moment::time);
            let what: String = self.what(place).chars().take(WHAT_WIDTH_MAX).collect();
            let times = match returned {
                Some(returned) => format!("{called}..{returned}"),
                None => format!("{called}.."),
            };
            let since = |time: u64| time.clamp(from, to) - from;
            let bar = bar(since(called), returned.map(since), to - from);
            let row = format!("    client {:<4} {what:<width$}  {times:<17} {bar}", operation.process);
            text.push_str(row.trim_end());
            text.push('\n');
        }
    }
}

/// The interval of an operation in a span of time that is [`BAR_WIDTH`] characters wide.
fn bar(called: u64, returned: Option<u64>, span: u64) -> String {
    let column = |time: u64| (u128::from(time) * u128::from(BAR_WIDTH - 1) / u128::from(span.max(1))) as usize;
    let start = column(called);
    let end = column(returned.unwrap_or(span));
    let mut bar = " ".repeat(start);
    bar.push('|');
    if end > start {
        bar.push_str(&"-".repeat(end - start - 1));
        bar.push(if returned.is_some() { '|' } else { '>' });
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn a_bar_spans_its_interval() {
        assert_eq!(bar(0, Some(310), 310), format!("|{}|", "-".repeat(30)));
        assert_eq!(bar(310, Some(310), 310), format!("{}|", " ".repeat(31)));
        assert_eq!(bar(300, None, 310), format!("{}|>", " ".repeat(30)));
        assert_eq!(bar(0, Some(0), 0), "|");
        assert_eq!(bar(u64::MAX - 1, Some(u64::MAX), u64::MAX).len(), 32);
    }
}
