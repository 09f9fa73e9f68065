//! The reads whose turn has not come: asked of the leader and not confirmed, or confirmed and not applied yet. Owns the
//! tokens that tell one request to the leader from another (thesis §6.4).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use telegraft_raft::{
    Index, ReadState,
    defects::{self, Defect},
};

use crate::pending::{ReadOutcome, Responder};

/// A request to the leader, for all reads that were handed in together.
struct Asked<R> {
    number: u64,
    /// Ticks since it was sent.
    age_ticks: u32,
    asked_at: Duration,
    readers: Vec<R>,
}

pub(crate) struct Reads<R> {
    /// Tells this life of the node from earlier ones, whose answers may still be on their way.
    incarnation: u64,
    last_number: u64,
    asked: VecDeque<Asked<R>>,
    confirmed: BTreeMap<Index, Vec<R>>,
    waiting: usize,
}

impl<R: Responder> Reads<R> {
    pub(crate) fn new(incarnation: u64) -> Self {
        Reads { incarnation, last_number: 0, asked: VecDeque::new(), confirmed: BTreeMap::new(), waiting: 0 }
    }

    /// Reads that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Notes that `readers` are asked for together, under the token returned.
    pub(crate) fn ask(&mut self, now: Duration, readers: Vec<R>) -> Bytes {
        self.waiting += readers.len();
        // Class 7: who comes later joins the request under way, whose answer may be older than they are.
        if defects::active(Defect::ReadRoundsReused)
            && let Some(last) = self.asked.back_mut()
        {
            last.readers.extend(readers);
            let number = last.number;
            return self.token(number);
        }
        self.ask_again(now, readers)
    }

    fn ask_again(&mut self, now: Duration, readers: Vec<R>) -> Bytes {
        // Class 7: with no request under way, tokens begin anew.
        if defects::active(Defect::ReadRoundsReused) && self.asked.is_empty() {
            self.last_number = 0;
        }
        self.last_number += 1;
        self.asked.push_back(Asked { number: self.last_number, age_ticks: 0, asked_at: now, readers });
        self.token(self.last_number)
    }

    fn token(&self, number: u64) -> Bytes {
        [self.incarnation.to_be_bytes(), number.to_be_bytes()].concat().into()
    }

    /// A tick passed. Requests of `again_after_ticks` were lost on the way, they or their answers: their readers are asked
    /// for again under one new token, so that an answer to an old one finds nobody.
    pub(crate) fn tick(&mut self, now: Duration, again_after_ticks: u32) -> Option<Bytes> {
        for asked in &mut self.asked {
            asked.age_ticks += 1;
        }
        let overdue = self.asked.iter().take_while(|asked| asked.age_ticks >= again_after_ticks).count();
        let readers: Vec<R> = self.asked.drain(..overdue).flat_map(|asked| asked.readers).collect();
        (!readers.is_empty()).then(|| self.ask_again(now, readers))
    }

    /// The leader confirmed a request; says when that was asked for.
    pub(crate) fn confirmed(&mut self, state: &ReadState) -> Option<Duration> {
        let found = self.asked.iter().position(|asked| self.token(asked.number) == state.context);
        let asked = found.and_then(|at| self.asked.remove(at))?;
        self.confirmed.entry(state.index).or_default().extend(asked.readers);
        Some(asked.asked_at)
    }

    /// Reads that need not be asked for: they wait for `index` alone.
    pub(crate) fn confirm_at(&mut self, index: Index, readers: Vec<R>) {
        self.waiting += readers.len();
        self.confirmed.entry(index).or_default().extend(readers);
    }

    /// The machine has applied `applied`: answers the reads that waited for no more than that.
    pub(crate) fn applied(&mut self, applied: Index) {
        while let Some(first) = self.confirmed.first_entry() {
            if *first.key() > applied {
                return;
            }
            let (_, readers) = first.remove_entry();
            self.waiting -= readers.len();
            readers.into_iter().for_each(|reader| reader.respond_read(ReadOutcome::At { index: applied }));
        }
    }

    /// Leadership changed: the leader that was asked may have forgotten the requests.
    pub(crate) fn give_up(&mut self) {
        for asked in self.asked.drain(..) {
            self.waiting -= asked.readers.len();
            asked.readers.into_iter().for_each(|reader| reader.respond_read(ReadOutcome::NoLeader));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;
    use crate::pending::WriteOutcome;

    const NOW: Duration = Duration::ZERO;

    type Answers = Rc<RefCell<Vec<(u32, ReadOutcome)>>>;
    struct Note(u32, Answers);
    impl Responder for Note {
        fn respond(self, outcome: WriteOutcome) {
            unreachable!("no write was asked for: {outcome:?}");
        }
        fn respond_read(self, outcome: ReadOutcome) {
            self.1.borrow_mut().push((self.0, outcome));
        }
    }

    #[test]
    fn a_confirmed_read_waits_for_its_index() {
        let answers = Answers::default();
        let mut reads = Reads::new(7);
        let token = reads.ask(NOW, vec![Note(1, answers.clone()), Note(2, answers.clone())]);
        reads.confirmed(&ReadState { index: 5, context: token.clone() });
        reads.confirmed(&ReadState { index: 3, context: token });
        reads.applied(4);
        assert!(answers.borrow().is_empty());
        reads.applied(6);
        assert_eq!(*answers.borrow(), [(1, ReadOutcome::At { index: 6 }), (2, ReadOutcome::At { index: 6 })]);
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn an_answer_to_another_life_or_to_an_overdue_request_finds_nobody() {
        let answers = Answers::default();
        let earlier = Reads::<Note>::new(6).token(1);
        let mut reads = Reads::new(7);
        let first = reads.ask(NOW, vec![Note(1, answers.clone())]);
        reads.confirmed(&ReadState { index: 1, context: earlier });
        assert_eq!(reads.tick(NOW, 2), None);
        let second = reads.tick(NOW, 2).expect("it is overdue");
        assert_ne!(first, second);
        reads.confirmed(&ReadState { index: 1, context: first });
        reads.applied(9);
        assert!(answers.borrow().is_empty());
        reads.confirmed(&ReadState { index: 2, context: second });
        reads.applied(9);
        assert_eq!(*answers.borrow(), [(1, ReadOutcome::At { index: 9 })]);
    }

    #[test]
    fn a_change_of_leadership_sends_back_what_is_not_confirmed() {
        let answers = Answers::default();
        let mut reads = Reads::new(7);
        let token = reads.ask(NOW, vec![Note(1, answers.clone())]);
        reads.ask(NOW, vec![Note(2, answers.clone())]);
        reads.confirmed(&ReadState { index: 5, context: token });
        reads.give_up();
        assert_eq!(*answers.borrow(), [(2, ReadOutcome::NoLeader)]);
        reads.applied(5);
        assert_eq!(answers.borrow().len(), 2);
    }
}
