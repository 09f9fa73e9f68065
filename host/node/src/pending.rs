//! The writes whose answers are awaited: which client waits for which log entry. Owns the rule that decides, for a
//! proposed entry, between "applied", "certainly not applied" and "not known yet".

use std::collections::BTreeMap;

use telegraft_raft::{Index, NodeId, ProposeError, Term};

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
    /// Another entry was committed in its place: it was certainly not applied.
    Replaced,
    /// It was proposed, and what became of it can no longer be known here.
    Unknown,
    /// Too many writes are under way on this node; nothing was proposed.
    Overloaded,
    /// A change that takes the leader out of a group of two: leadership is to be transferred first. Nothing was proposed.
    TransferFirst,
    /// A change of the members that the leader refuses now, and why. Nothing of it takes effect.
    ChangeRefused(ProposeError),
}

/// What became of the wish to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// A read of this node's machine is linearizable from now on: the machine has applied this index, which was the commit
    /// index at some time since the wish was handed in.
    At {
        /// The index.
        index: Index,
    },
    /// No leader is known, or leadership changed meanwhile: ask again.
    NoLeader,
    /// Too many reads wait on this node.
    Overloaded,
}

/// Takes one answer to whoever waits for it: exactly one of the two is called, once. Must not block.
pub trait Responder {
    /// The answer to a write.
    fn respond(self, outcome: WriteOutcome);
    /// The answer to a read.
    fn respond_read(self, outcome: ReadOutcome);
}

/// Writes that this node proposed as leader, by index and term.
///
/// Two may wait at one index: proposed in different terms of this node's leadership. Which of them holds the place is not
/// known before the index is applied: the log of a newer leader may overwrite the newer entry and bring the older one back
/// (Raft, figure 8). So nobody is told "replaced" before something is applied there.
pub(crate) struct Pending<R> {
    waiting: BTreeMap<(Index, Term), R>,
}

impl<R: Responder> Pending<R> {
    pub(crate) fn new() -> Self {
        Self { waiting: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Notes that the entry `index` of `term` was proposed for `responder`.
    pub(crate) fn add(&mut self, index: Index, term: Term, responder: R) {
        self.waiting.insert((index, term), responder);
    }

    /// The machine was restored at `index`: what became of the writes up to there nobody here can say any more.
    pub(crate) fn passed_over(&mut self, index: Index) {
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > index {
                return;
            }
            first.remove().respond(WriteOutcome::Unknown);
        }
    }

    /// Answers whoever waits at `index`, where an entry of `term` was applied: it, or that it was replaced. Who still
    /// waits at an earlier index waits for an entry that was passed over (by a snapshot): nobody can say any more.
    pub(crate) fn applied(&mut self, index: Index, term: Term, outcome: Outcome) {
        let mut outcome = Some(outcome);
        while let Some(first) = self.waiting.first_entry() {
            let (waiting_index, waiting_term) = *first.key();
            if waiting_index > index {
                return;
            }
            let responder = first.remove();
            responder.respond(match outcome.take_if(|_| (waiting_index, waiting_term) == (index, term)) {
                Some(outcome) => WriteOutcome::Applied { index, outcome },
                None if waiting_index == index => WriteOutcome::Replaced,
                None => WriteOutcome::Unknown,
            });
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
        fn respond_read(self, outcome: ReadOutcome) {
            unreachable!("no read was asked for: {outcome:?}");
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
    fn of_two_writes_at_one_index_the_applied_one_wins_whichever_came_first() {
        for (term, winner) in [(2, 1), (4, 2)] {
            let answers = Answers::default();
            let mut pending = Pending::new();
            pending.add(6, 2, Note(1, answers.clone()));
            pending.add(6, 4, Note(2, answers.clone()));
            assert!(answers.borrow().is_empty(), "nothing is decided before something is applied at the index");
            pending.applied(6, term, ok());
            let mut answers = answers.borrow().clone();
            answers.sort_by_key(|(number, _)| *number != winner);
            assert_eq!(answers[0], (winner, WriteOutcome::Applied { index: 6, outcome: ok() }));
            assert_eq!(answers[1].1, WriteOutcome::Replaced);
        }
    }

    #[test]
    fn a_write_that_was_passed_over_is_in_doubt() {
        let answers = Answers::default();
        let mut pending = Pending::new();
        pending.add(5, 2, Note(1, answers.clone()));
        pending.applied(9, 3, ok());
        assert_eq!(*answers.borrow(), [(1, WriteOutcome::Unknown)]);
    }

    #[test]
    fn a_restored_machine_leaves_the_writes_up_to_there_in_doubt() {
        let answers = Answers::default();
        let mut pending = Pending::new();
        pending.add(5, 2, Note(1, answers.clone()));
        pending.add(6, 2, Note(2, answers.clone()));
        pending.passed_over(5);
        assert_eq!(*answers.borrow(), [(1, WriteOutcome::Unknown)]);
        assert_eq!(pending.len(), 1);
    }
}
