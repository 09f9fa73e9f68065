//! Linearizable reads without a log entry (thesis §6.4).
//!
//! Each request opens a *round*: the leader notes its commit index and sends heartbeats that carry the round's number. A
//! member that answers confirms that the sender led when the round opened, and when every earlier one did; so what is
//! kept is, for each member, the highest round it answered, and a round is confirmed when a quorum answered it or a later
//! one. Numbers are never reused in a process's life and answers of other terms are dropped, so a late or repeated
//! heartbeat response cannot confirm a round it does not belong to, whatever tokens the callers choose.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::defects::{self, Defect};
use crate::types::{Index, NodeId};

/// Requests that wait at once; more are dropped, as on a change of leadership. Bounds the memory of a leader without quorum.
const REQUESTS_MAX: usize = 1 << 16;

/// A read-index request: who asked (0 or the node itself: its own host), and the asker's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadRequest {
    pub from: NodeId,
    pub context: Bytes,
}

#[derive(Clone, Debug)]
struct Round {
    number: u64,
    index: Index,
    request: ReadRequest,
}

/// The rounds under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadRounds {
    /// The number of the newest round ever opened.
    last_number: u64,
    open: VecDeque<Round>,
    answered: BTreeMap<NodeId, u64>,
    /// Requests that wait for the first commit of the leader's term.
    postponed: Vec<ReadRequest>,
}

impl ReadRounds {
    /// Drops all requests; numbers go on.
    pub fn reset(&mut self) {
        *self = ReadRounds { last_number: self.last_number, ..Default::default() };
    }

    pub fn is_full(&self) -> bool {
        self.open.len() + self.postponed.len() >= REQUESTS_MAX
    }

    pub fn postpone(&mut self, request: ReadRequest) {
        self.postponed.push(request);
    }

    pub fn take_postponed(&mut self) -> Vec<ReadRequest> {
        std::mem::take(&mut self.postponed)
    }

    /// Opens a round that will answer with `index`; the node itself has answered it.
    pub fn open(&mut self, me: NodeId, index: Index, request: ReadRequest) {
        // Class 7: with no round open, numbers begin anew.
        if defects::active(Defect::ReadRoundsReused) && self.open.is_empty() {
            self.last_number = 0;
            self.answered.clear();
        }
        self.last_number += 1;
        self.open.push_back(Round { number: self.last_number, index, request });
        self.answered.insert(me, self.last_number);
    }

    /// What a heartbeat carries: the newest open round, or nothing.
    pub fn heartbeat_context(&self) -> Bytes {
        match self.open.back() {
            Some(round) => Bytes::copy_from_slice(&round.number.to_le_bytes()),
            None => Bytes::new(),
        }
    }

    /// Notes a heartbeat response. Returns whether it names a round at all.
    pub fn answer(&mut self, from: NodeId, context: &[u8]) -> bool {
        let Ok(number) = <[u8; 8]>::try_from(context).map(u64::from_le_bytes) else { return false };
        if number > self.last_number || self.open.is_empty() {
            return false;
        }
        let highest = self.answered.entry(from).or_default();
        *highest = number.max(*highest);
        true
    }

    /// The highest round that a member answered.
    pub fn answered_by(&self, id: NodeId) -> Option<u64> {
        self.answered.get(&id).copied()
    }

    /// Closes the rounds up to `number` and returns what to answer.
    pub fn confirmed_to(&mut self, number: u64) -> Vec<(ReadRequest, Index)> {
        let confirmed = self.open.iter().take_while(|round| round.number <= number).count();
        self.open.drain(..confirmed).map(|round| (round.request, round.index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ReadRequest {
        ReadRequest { from: 0, context: Bytes::from_static(b"same") }
    }

    #[test]
    fn an_answer_confirms_its_round_and_those_before_it_only() {
        let mut rounds = ReadRounds::default();
        rounds.open(1, 10, request());
        let first = rounds.heartbeat_context();
        rounds.open(1, 12, request());
        assert!(rounds.answer(2, &first));
        assert_eq!(rounds.answered_by(2), Some(1));
        assert_eq!(rounds.confirmed_to(1), vec![(request(), 10)]);
        assert!(rounds.answer(2, &rounds.heartbeat_context()));
        assert!(rounds.answer(2, &first), "late");
        assert_eq!(rounds.answered_by(2), Some(2), "a late answer takes nothing back");
        assert_eq!(rounds.confirmed_to(2), vec![(request(), 12)]);
    }

    #[test]
    fn the_number_of_waiting_requests_is_bounded() {
        let mut rounds = ReadRounds::default();
        (1..REQUESTS_MAX).for_each(|_| rounds.open(1, 10, request()));
        assert!(!rounds.is_full());
        rounds.postpone(request());
        assert!(rounds.is_full());
    }

    #[test]
    fn an_answer_to_a_round_of_before_a_reset_confirms_nothing_new() {
        let mut rounds = ReadRounds::default();
        rounds.open(1, 10, request());
        let old = rounds.heartbeat_context();
        rounds.reset();
        rounds.open(1, 20, request());
        assert!(rounds.answer(2, &old));
        assert!(rounds.confirmed_to(rounds.answered_by(2).unwrap()).is_empty());
        assert!(!rounds.answer(2, b"x") && !rounds.answer(2, &u64::MAX.to_le_bytes()));
    }
}
