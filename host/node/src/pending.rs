//! The writes whose answers are awaited: which client waits for which log entry. Owns the rule that decides, for a
//! proposed entry, between "applied", "certainly not applied" and "not known yet".

use std::collections::VecDeque;

use telegraft_raft::{Index, NodeId, Term};

use crate::ports::Outcome;

/// What became of a proposed write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was committed and applied at this index; the machine's answer.
    Applied {
        /// Index of its log entry.
        index: Index,
        /// The machine's answer.
        outcome: Outcome,
    },
    /// This node does not lead; nothing was proposed.
    NotLeader {
        /// Who does, 0 where unknown.
        leader: NodeId,
    },
    /// Another leader's entry took its place: it was certainly not applied.
    Replaced,
    /// Too many writes are under way on this node; nothing was proposed.
    Overloaded,
}

/// Takes the answer of one write to whoever waits for it.
pub trait Responder {
    /// Called once. Must not block.
    fn respond(self, outcome: WriteOutcome);
}

/// Writes that this node proposed as leader, in the order of their indices.
pub(crate) struct Pending<R> {
    waiting: VecDeque<(Index, Term, R)>,
}

impl<R: Responder> Pending<R> {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Notes that the entry `index` of `term` was proposed for `responder`. What waited at this index or later was
    /// proposed in an earlier term, and the log now holds something else there.
    pub(crate) fn add(&mut self, index: Index, term: Term, responder: R) {
        while self.waiting.back().is_some_and(|(waiting, ..)| *waiting >= index) {
            if let Some((.., replaced)) = self.waiting.pop_back() {
                replaced.respond(WriteOutcome::Replaced);
            }
        }
        self.waiting.push_back((index, term, responder));
    }

    /// Answers whoever waits for the entry that was applied at `index`. A write proposed at this index in another term
    /// lost its place; so did, by log matching, any that waits at an earlier index.
    pub(crate) fn applied(&mut self, index: Index, term: Term, outcome: Outcome) {
        while self.waiting.front().is_some_and(|(waiting, ..)| *waiting <= index) {
            let Some((waiting_index, waiting_term, responder)) = self.waiting.pop_front() else { return };
            if waiting_index == index && waiting_term == term {
                responder.respond(WriteOutcome::Applied { index, outcome });
                return;
            }
            responder.respond(WriteOutcome::Replaced);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use bytes::Bytes;

    use super::*;

    type Answers = Rc<RefCell<Vec<(u32, WriteOutcome)>>>;
    struct Note(u32, Answers);
    impl Responder for Note {
        fn respond(self, outcome: WriteOutcome) {
            self.1.borrow_mut().push((self.0, outcome));
        }
    }
    fn ok() -> Outcome {
        Ok(Bytes::new())
    }

    #[test]
    fn the_writer_of_the_applied_entry_is_answered() {
        let answers = Answers::default();
        let mut pending = Pending::new();
        pending.add(5, 2, Note(1, answers.clone()));
        pending.add(6, 2, Note(2, answers.clone()));
        pending.applied(4, 2, ok());
        assert!(answers.borrow().is_empty());
        pending.applied(5, 2, ok());
        assert_eq!(*answers.borrow(), [(1, WriteOutcome::Applied { index: 5, outcome: ok() })]);
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn an_entry_of_another_term_at_the_index_replaces_the_write() {
        let answers = Answers::default();
        let mut pending = Pending::new();
        pending.add(5, 2, Note(1, answers.clone()));
        pending.applied(5, 3, ok());
        assert_eq!(*answers.borrow(), [(1, WriteOutcome::Replaced)]);
    }

    #[test]
    fn leading_again_at_a_lower_index_replaces_what_waited_there() {
        let answers = Answers::default();
        let mut pending = Pending::new();
        pending.add(5, 2, Note(1, answers.clone()));
        pending.add(6, 2, Note(2, answers.clone()));
        pending.add(6, 4, Note(3, answers.clone()));
        assert_eq!(*answers.borrow(), [(2, WriteOutcome::Replaced)]);
        pending.applied(5, 2, ok());
        pending.applied(6, 4, ok());
        assert_eq!(
            answers.borrow()[1..],
            [
                (1, WriteOutcome::Applied { index: 5, outcome: ok() }),
                (3, WriteOutcome::Applied { index: 6, outcome: ok() })
            ]
        );
    }
}
