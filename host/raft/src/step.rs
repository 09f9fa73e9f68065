//! How a message reaches a role: what cannot be is refused, terms are compared, votes are given.
//!
//! A message is examined before anything changes, so that a refused one leaves no trace.

use crate::defects::{self, Defect};
use crate::error::StepError;
use crate::message::{CAMPAIGN_TRANSFER, Message, MessageKind};
use crate::raft::Raft;
use crate::storage::Storage;
use crate::types::{Index, Role, Term};

/// No honest node comes near: terms and indexes grow by one. Keeps arithmetic on what others claim from wrapping.
const NUMBER_MAX: u64 = u64::MAX / 4;

impl<S: Storage> Raft<S> {
    /// Takes a message from a peer.
    ///
    /// # Errors
    /// [`StepError`] if the message makes an impossible claim or cannot be taken up; then nothing has changed. A message
    /// that is merely late or of no interest is dropped silently.
    pub fn step(&mut self, m: Message) -> Result<(), StepError> {
        self.examine(&m)?;
        if m.kind.is_termless() {
            return self.step_termless(m);
        }
        if m.term < self.term {
            self.answer_stale(&m);
            return Ok(());
        }
        if m.term > self.term && !self.enter_term_of(&m) {
            return Ok(());
        }
        match m.kind {
            MessageKind::Vote | MessageKind::PreVote => self.handle_vote_request(&m),
            _ => self.step_role(m),
        }
        Ok(())
    }

    /// A message of this node to itself, which takes effect now that it is durable.
    pub(crate) fn step_own(&mut self, m: Message) {
        let asks_ahead = m.kind == MessageKind::PreVoteResponse && m.term == self.term + 1;
        // Class 18: an acknowledgement is one, whatever was written in its place since.
        let late = m.kind == MessageKind::AppendResponse && defects::active(Defect::OverwrittenAppendAcknowledged);
        if m.term == self.term || asks_ahead || late {
            self.step_role(m);
        }
    }

    fn step_role(&mut self, m: Message) {
        match self.role {
            Role::Follower => self.step_follower(m),
            Role::PreCandidate | Role::Candidate => self.step_candidate(m),
            Role::Leader => self.step_leader(m),
        }
    }

    fn step_termless(&mut self, m: Message) -> Result<(), StepError> {
        match m.kind {
            MessageKind::Propose => {
                let entries = m.entries.into_iter().map(|e| (e.kind, e.data)).collect();
                match self.propose_entries(m.from, entries) {
                    Ok(_) | Err(crate::ProposeError::Forwarded) => Ok(()),
                    Err(error) if error.left_an_empty_entry() => Ok(()),
                    Err(_) => Err(StepError::Dropped),
                }
            }
            MessageKind::ReadIndex => {
                if self.leader == 0 {
                    return Err(StepError::Dropped);
                }
                self.read_index_for(m.from, m.context);
                Ok(())
            }
            MessageKind::TransferLeader => {
                self.transfer_leader(m.from);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A node that lives in an earlier term. It may be a leader that does not know, or one that cannot win for being
    /// behind: where anyone has leases or pre-vote nobody else would tell it, so it is told.
    fn answer_stale(&mut self, m: &Message) {
        // Class 35: who lives in the past is not worth an answer.
        if defects::active(Defect::CheckQuorumSilence) {
            return;
        }
        match m.kind {
            MessageKind::Heartbeat | MessageKind::Append if self.answers_stale_leaders() => {
                let answer = self.message(MessageKind::AppendResponse, m.from);
                self.send(answer);
            }
            MessageKind::PreVote => {
                let answer = self.message(MessageKind::PreVoteResponse, m.from);
                self.send(Message { reject: true, ..answer });
            }
            _ => {}
        }
    }

    fn answers_stale_leaders(&self) -> bool {
        self.config.check_quorum || self.config.pre_vote || self.config.answer_stale_leaders
    }

    /// The message is from a later term. Returns whether to go on with it.
    fn enter_term_of(&mut self, m: &Message) -> bool {
        match m.kind {
            // Class 34: a voter helps to depose the leader that it hears.
            MessageKind::Vote | MessageKind::PreVote if defects::active(Defect::NoPreVote) => {
                self.become_follower(m.term, 0);
                true
            }
            MessageKind::Vote | MessageKind::PreVote if self.in_lease() && m.context != CAMPAIGN_TRANSFER => false,
            // Asking what would be, and a yes to that, move nobody's term.
            MessageKind::PreVote => true,
            MessageKind::PreVoteResponse if !m.reject => true,
            MessageKind::Append | MessageKind::Heartbeat | MessageKind::Snapshot => {
                self.become_follower(m.term, m.from);
                true
            }
            _ => {
                self.become_follower(m.term, 0);
                true
            }
        }
    }

    /// Raft §5.2, §5.4.1. Learners vote too: one may be a voter already in a configuration it has not applied yet.
    fn handle_vote_request(&mut self, m: &Message) {
        let pre = m.kind == MessageKind::PreVote;
        // Class 33: a vote is given away once, even if its answer was lost.
        let again = self.vote == m.from && !defects::active(Defect::RepeatedVoteDenied);
        let free = again || (self.vote == 0 && self.leader == 0) || (pre && m.term > self.term);
        // Class 15: a learner has no vote to give.
        let learner = self.tracker.configuration.learners.contains(&self.config.id);
        let free = free && !(learner && defects::active(Defect::LearnerRefusesVote));
        let granted = free && self.log.is_up_to_date(m.index, m.log_term) && self.log.fault().is_none();
        let kind = if pre { MessageKind::PreVoteResponse } else { MessageKind::VoteResponse };
        let answer = self.message(kind, m.from);
        if granted {
            self.send(Message { term: m.term, ..answer });
            if !pre {
                self.election_elapsed = 0;
                self.vote = m.from;
            }
        } else {
            self.send(Message { reject: true, ..answer });
        }
    }

    /// Refuses what cannot be.
    fn examine(&self, m: &Message) -> Result<(), StepError> {
        if self.log.fault().is_some() {
            return Err(StepError::Stopped);
        }
        if m.to != self.config.id {
            return Err(StepError::WrongReceiver(m.to));
        }
        if m.from == 0 || m.from == self.config.id {
            return Err(StepError::BadSender(m.from));
        }
        if m.kind.is_response() && !self.tracker.progress.contains_key(&m.from) {
            return Err(StepError::UnknownPeer(m.from));
        }
        if m.kind.is_termless() {
            return Ok(());
        }
        if m.term == 0 || m.term > NUMBER_MAX {
            return Err(StepError::BadTerm);
        }
        match m.kind {
            MessageKind::Append => examine_append(m)?,
            MessageKind::Snapshot => examine_snapshot(m)?,
            MessageKind::Vote | MessageKind::PreVote if m.log_term > m.term => return Err(StepError::BadTerm),
            _ => {}
        }
        if m.kind.is_from_leader() && m.term >= self.term {
            self.examine_leader(m)?;
        }
        let acknowledges = m.kind == MessageKind::AppendResponse && !m.reject;
        if acknowledges && self.role == Role::Leader && m.term == self.term && m.index > self.log.last_index() {
            return Err(StepError::BeyondLog(m.index));
        }
        Ok(())
    }

    /// What a leader of this term or a later one cannot say, given what this node holds.
    fn examine_leader(&self, m: &Message) -> Result<(), StepError> {
        let known = if self.role == Role::Leader { self.config.id } else { self.leader };
        if m.term == self.term && known != 0 && known != m.from {
            return Err(StepError::TwoLeaders(m.from));
        }
        match m.kind {
            // Class 10: a leader's word on what is committed needs no check.
            MessageKind::Heartbeat if defects::active(Defect::HeartbeatCommitUnbounded) => Ok(()),
            MessageKind::Heartbeat if m.commit > self.log.last_index() => Err(StepError::BeyondLog(m.commit)),
            MessageKind::Append if m.index <= self.log.committed() => match self.log.term(m.index) {
                Ok(term) if term != m.log_term => Err(StepError::CommittedConflict(m.index)),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn examine_append(m: &Message) -> Result<(), StepError> {
    if m.index > NUMBER_MAX || m.log_term > m.term {
        return Err(StepError::BadTerm);
    }
    let mut last: (Index, Term) = (m.index, m.log_term);
    for entry in &m.entries {
        if entry.index != last.0 + 1 || entry.term < last.1 || entry.term > m.term || entry.term == 0 {
            return Err(StepError::BadEntries);
        }
        last = (entry.index, entry.term);
    }
    Ok(())
}

fn examine_snapshot(m: &Message) -> Result<(), StepError> {
    let Some(meta) = m.snapshot.as_ref().map(|s| &s.meta) else { return Err(StepError::BadSnapshot) };
    let bad_place = meta.index == 0 || meta.index > NUMBER_MAX || meta.term == 0 || meta.term > m.term;
    if bad_place || meta.conf_state.voters.is_empty() {
        return Err(StepError::BadSnapshot);
    }
    Ok(())
}
