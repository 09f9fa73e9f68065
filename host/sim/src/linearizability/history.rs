//! What clients did and saw, and when: the operations of a history.

use std::fmt;

/// A point in a history: the caller's time, and the order of what happened at the same time.
///
/// Only comparisons of moments decide which operation came before another; the unit of time is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    time: u64,
    rank: u64,
}

impl Moment {
    /// The time that the caller gave, in the caller's unit.
    #[must_use]
    pub fn time(self) -> u64 {
        self.time
    }
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<Ret> {
    /// The client saw no answer: the operation may take effect at any moment after its call, or never.
    Unknown,
    /// The client saw an answer, so the operation took effect between its call and this moment.
    Returned {
        /// What the client saw.
        ret: Ret,
        /// When it saw it.
        at: Moment,
    },
    /// The client was told that the operation did not and will not take effect: it plays no part in the verdict.
    NoEffect,
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<Op, Ret> {
    /// The client; for the reader only, the verdict does not depend on it.
    pub process: u64,
    /// What it asked for.
    pub op: Op,
    /// When it asked.
    pub called: Moment,
    /// What became of it.
    pub outcome: Outcome<Ret>,
}

impl<Op, Ret> Operation<Op, Ret> {
    /// What the client saw, if it saw anything.
    pub fn ret(&self) -> Option<&Ret> {
        match &self.outcome {
            Outcome::Returned { ret, .. } => Some(ret),
            Outcome::Unknown | Outcome::NoEffect => None,
        }
    }

    /// When the client saw it.
    pub fn returned_at(&self) -> Option<Moment> {
        match &self.outcome {
            Outcome::Returned { at, .. } => Some(*at),
            Outcome::Unknown | Outcome::NoEffect => None,
        }
    }
}

/// An operation under way, to be handed back with its outcome. One that is dropped has an unknown outcome.
#[derive(Debug)]
pub struct Call(usize);

/// The operations of many clients on the objects of one system.
///
/// Recorded as they happen, by [`History::call`] and [`History::returned`], what happens at the same time keeps the
/// order in which it was recorded: in a simulated world that order is the world's own. Taken from elsewhere as
/// intervals, by [`History::push`], operations that touch at one time count as concurrent, since their order there is
/// not known.
///
/// ```
/// # use telegraft_sim::linearizability::{History, Outcome};
/// let mut history = History::new();
/// let put = history.call(1, "put x", 10);
/// let _lost = history.call(2, "put y", 10);
/// history.returned(put, "done", 15);
/// assert_eq!(history.operations()[0].ret(), Some(&"done"));
/// assert_eq!(history.operations()[1].outcome, Outcome::Unknown);
/// ```
#[derive(Clone)]
pub struct History<Op, Ret> {
    operations: Vec<Operation<Op, Ret>>,
    events: u64,
}

impl<Op, Ret> History<Op, Ret> {
    /// One without operations.
    #[must_use]
    pub fn new() -> Self {
        Self { operations: Vec::new(), events: 0 }
    }

    /// A client asks for something.
    pub fn call(&mut self, process: u64, op: Op, time: u64) -> Call {
        let called = self.moment(time);
        self.operations.push(Operation { process, op, called, outcome: Outcome::Unknown });
        Call(self.operations.len() - 1)
    }

    /// The client sees the answer.
    ///
    /// # Panics
    ///
    /// Where the time is before that of the call, or the call is another history's: the recorder is wrong, and so
    /// would be every verdict.
    pub fn returned(&mut self, call: Call, ret: Ret, time: u64) {
        let at = self.moment(time);
        let operation = &mut self.operations[call.0];
        assert!(
            operation.called < at,
            "an operation called at {} cannot have returned at {time}",
            operation.called.time
        );
        operation.outcome = Outcome::Returned { ret, at };
    }

    /// The client learns for certain that the operation has not taken effect and never will. A timeout or a lost
    /// connection is not that: drop the call then.
    ///
    /// # Panics
    ///
    /// Where the call is another history's.
    pub fn no_effect(&mut self, call: Call) {
        self.operations[call.0].outcome = Outcome::NoEffect;
    }

    /// Adds an operation by its interval; without an answer its outcome is unknown.
    ///
    /// # Panics
    ///
    /// Where it returned before its call.
    pub fn push(&mut self, process: u64, op: Op, called: u64, answer: Option<(Ret, u64)>) {
        let outcome = match answer {
            None => Outcome::Unknown,
            Some((ret, time)) => {
                assert!(called <= time, "an operation called at {called} cannot have returned at {time}");
                Outcome::Returned { ret, at: Moment { time, rank: u64::MAX } }
            }
        };
        self.operations.push(Operation { process, op, called: Moment { time: called, rank: 0 }, outcome });
    }

    /// All operations, in the order in which they were added.
    #[must_use]
    pub fn operations(&self) -> &[Operation<Op, Ret>] {
        &self.operations
    }

    fn moment(&mut self, time: u64) -> Moment {
        self.events += 1;
        Moment { time, rank: self.events }
    }
}

impl<Op, Ret> Default for History<Op, Ret> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Op: fmt::Debug, Ret: fmt::Debug> fmt::Debug for History<Op, Ret> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Operation { process, op, called, outcome } in &self.operations {
            write!(f, "client {process}: {op:?} called {}, ", called.time)?;
            match outcome {
                Outcome::Unknown => writeln!(f, "unknown")?,
                Outcome::Returned { ret, at } => writeln!(f, "returned {ret:?} at {}", at.time)?,
                Outcome::NoEffect => writeln!(f, "no effect")?,
            }
        }
        Ok(())
    }
}
