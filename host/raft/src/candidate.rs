//! The candidate and the pre-candidate: elections (Raft §5.2, thesis §9.6).

use crate::defects::{self, Defect};
use crate::message::{CAMPAIGN_TRANSFER, Message, MessageKind};
use crate::quorum::VoteResult;
use crate::raft::Raft;
use crate::storage::Storage;
use crate::types::Role;

/// Why an election is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Campaign {
    PreElection,
    Election,
    Transfer,
}

impl<S: Storage> Raft<S> {
    /// Starts an election now, if this node may: it does not lead, is a voter, and has applied every committed
    /// configuration change.
    pub fn campaign(&mut self) {
        // Class 34: nobody is asked whether there is a leader already.
        let asks = self.config.pre_vote && !defects::active(Defect::NoPreVote);
        self.campaign_if_allowed(if asks { Campaign::PreElection } else { Campaign::Election });
    }

    pub(crate) fn campaign_for_transfer(&mut self) {
        self.campaign_if_allowed(Campaign::Transfer);
    }

    pub(crate) fn tick_election(&mut self) {
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        if self.is_promotable() && self.election_elapsed >= self.randomized_election_ticks {
            self.election_elapsed = 0;
            self.campaign();
        }
    }

    fn campaign_if_allowed(&mut self, campaign: Campaign) {
        // A committed change that is not applied here could mean other voters than those this node would ask.
        // Class 14: it asks those whom it knows of.
        let ahead = || self.log.has_unapplied_conf_change() && !defects::active(Defect::CampaignsWithUnappliedChange);
        if self.role == Role::Leader || !self.is_promotable() || ahead() {
            return;
        }
        self.hold_election(campaign);
    }

    fn hold_election(&mut self, campaign: Campaign) {
        let pre = campaign == Campaign::PreElection;
        let (request, response, term) = if pre {
            self.become_pre_candidate();
            (MessageKind::PreVote, MessageKind::PreVoteResponse, self.term + 1)
        } else {
            self.become_candidate();
            (MessageKind::Vote, MessageKind::VoteResponse, self.term)
        };
        let (index, log_term) = (self.log.last_index(), self.log.last_term());
        if self.log.fault().is_some() {
            return;
        }
        for id in self.tracker.configuration.all_voters() {
            if id == self.config.id {
                // The own vote counts when it is durable, like any other.
                let vote = self.message(response, id);
                self.send(Message { term, ..vote });
                continue;
            }
            let mut message = Message { term, index, log_term, ..self.message(request, id) };
            if campaign == Campaign::Transfer {
                message.context = CAMPAIGN_TRANSFER.into();
            }
            self.send(message);
        }
    }

    fn become_pre_candidate(&mut self) {
        // Neither term nor vote change: nothing has happened yet.
        self.tracker.reset_votes();
        self.leader = 0;
        self.role = Role::PreCandidate;
    }

    fn become_candidate(&mut self) {
        self.reset(self.term + 1);
        self.vote = self.config.id;
        self.role = Role::Candidate;
    }

    pub(crate) fn step_candidate(&mut self, m: Message) {
        match m.kind {
            MessageKind::Append | MessageKind::Heartbeat | MessageKind::Snapshot => {
                // Of this very term: another node has won.
                self.become_follower(m.term, m.from);
                self.hear_leader(m);
            }
            // A yes to an earlier question, about a term that has begun since, says nothing about this one.
            MessageKind::PreVoteResponse if !m.reject && m.term != self.term + 1 => {}
            MessageKind::PreVoteResponse if self.role == Role::PreCandidate => self.count_vote(&m),
            MessageKind::VoteResponse if self.role == Role::Candidate => self.count_vote(&m),
            _ => {}
        }
    }

    fn count_vote(&mut self, m: &Message) {
        self.tracker.record_vote(m.from, !m.reject);
        match (self.tracker.vote_result(), self.role) {
            (VoteResult::Won, Role::PreCandidate) => self.hold_election(Campaign::Election),
            (VoteResult::Won, _) => self.become_leader(),
            (VoteResult::Lost, _) => self.become_follower(self.term, 0),
            (VoteResult::Pending, _) => {}
        }
    }
}
