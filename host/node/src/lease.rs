//! Reads by lease: a leader that proved a moment ago that it leads answers reads without asking again. Owns the rule when
//! that is sound, on both sides: the leader's (how long) and the voters' (whom they refuse meanwhile).
//!
//! The leader's lease begins when a read-index round is *asked for* that a quorum then confirms (thesis §6.4.1), and lasts
//! for [`NodeConfig::lease`](crate::NodeConfig::lease) of the leader's own clock, pauses of its process included. Every
//! voter of that quorum heard from the leader after the beginning, and refuses all others its vote for
//! `election_ticks` ticks. These take less time by *its* clock than so many whole ticks: the first was under way
//! already, and a runner that was late makes up for ticks (by how many, the runner knows). So a lease is sound as long as
//!
//! ```text
//! lease  <=  (election_ticks - early) * tick * (1 - drift)
//! ```
//!
//! where `early` is 1 for a runner that never makes up for ticks, one more for each that it may, and `drift` bounds how
//! far the rates of two hosts' clocks are apart. The core refuses votes too (thesis §4.2.3), but forgets whom it heard
//! when it restarts or sees a later term, so that is done here once more, by ticks alone.
//!
//! Three things end a lease before its time, since others may be elected then without waiting: another term or role, a
//! change of the configuration, and a transfer of leadership, after which a term has no leases any more (the order to
//! campaign may arrive late).

use std::time::Duration;

use telegraft_raft::{
    CAMPAIGN_TRANSFER, Index, Message, MessageKind, Term,
    defects::{self, Defect},
};

/// What a lease depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reign {
    pub term: Term,
    /// Index of the configuration in force.
    pub conf_index: Index,
}

/// Both sides' rule for one node.
pub(crate) struct Leases {
    /// How long a lease lasts; `None`: there are none.
    length: Option<Duration>,
    held: Option<(Reign, Duration)>,
    /// A transfer was begun in this term.
    transferred_in: Term,
    /// Ticks since a leader was heard, or since the start: what an earlier life heard is not known.
    silence_ticks: u32,
    refuse_ticks: u32,
}

impl Leases {
    pub(crate) fn new(length: Option<Duration>, refuse_ticks: u32) -> Self {
        Leases { length, held: None, transferred_in: 0, silence_ticks: 0, refuse_ticks }
    }

    pub(crate) fn tick(&mut self) {
        self.silence_ticks = self.silence_ticks.saturating_add(1);
    }

    /// A message of a peer: whether the core may see it.
    pub(crate) fn admits(&mut self, message: &Message, own_term: Term) -> bool {
        if self.length.is_none() {
            return true;
        }
        match message.kind {
            MessageKind::Append | MessageKind::Heartbeat | MessageKind::Snapshot if message.term >= own_term => {
                self.silence_ticks = 0;
                true
            }
            MessageKind::Vote | MessageKind::PreVote if message.context != CAMPAIGN_TRANSFER => {
                self.silence_ticks >= self.refuse_ticks
            }
            _ => true,
        }
    }

    /// A transfer may be under way in `term`.
    pub(crate) fn transfer_begun(&mut self, term: Term) {
        // Class 9: the lease goes on although its end need not be awaited any more.
        if defects::active(Defect::LeaseSurvivesTransfer) {
            return;
        }
        self.transferred_in = self.transferred_in.max(term);
    }

    /// A quorum confirmed that this node led when it asked at `asked_at`.
    pub(crate) fn confirmed(&mut self, reign: Reign, asked_at: Duration) {
        if self.length.is_some() && self.transferred_in < reign.term {
            // Class 36: the lease begins with the answer, and only ticks count: none while the process is paused.
            let counted = defects::active(Defect::LeaseIgnoresPauses);
            let asked_at = if counted { self.tick_clock() } else { asked_at };
            self.held = Some((reign, asked_at));
        }
    }

    /// Whether this node, which leads as `reign` says, may answer a read at `now` without asking.
    pub(crate) fn holds(&self, reign: Reign, now: Duration) -> bool {
        let (Some(length), Some((of, since))) = (self.length, self.held) else { return false };
        // Class 36: see `confirmed`.
        let counted = defects::active(Defect::LeaseIgnoresPauses);
        let (now, length) =
            if counted { (self.tick_clock(), Duration::from_secs(self.refuse_ticks.into())) } else { (now, length) };
        of == reign && self.transferred_in < reign.term && now.saturating_sub(since) < length
    }
}

impl Leases {
    /// A clock for class 36: a second a tick. (No leader hears another, so this grows while a node leads.)
    fn tick_clock(&self) -> Duration {
        Duration::from_secs(self.silence_ticks.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(90);
    const REIGN: Reign = Reign { term: 3, conf_index: 0 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_lease_lasts_from_the_asking_not_from_the_answer() {
        let mut leases = Leases::new(Some(LENGTH), 10);
        assert!(!leases.holds(REIGN, ms(0)));
        leases.confirmed(REIGN, ms(100));
        assert!(leases.holds(REIGN, ms(189)) && !leases.holds(REIGN, ms(190)));
    }

    #[test]
    fn another_term_another_configuration_or_a_transfer_ends_it() {
        let mut leases = Leases::new(Some(LENGTH), 10);
        leases.confirmed(REIGN, ms(100));
        assert!(!leases.holds(Reign { term: 4, ..REIGN }, ms(101)));
        assert!(!leases.holds(Reign { conf_index: 7, ..REIGN }, ms(101)));
        leases.transfer_begun(3);
        assert!(!leases.holds(REIGN, ms(101)));
        leases.confirmed(REIGN, ms(102));
        assert!(!leases.holds(REIGN, ms(103)), "for the rest of the term");
        leases.confirmed(Reign { term: 4, ..REIGN }, ms(104));
        assert!(leases.holds(Reign { term: 4, ..REIGN }, ms(105)));
    }

    #[test]
    fn a_voter_refuses_until_it_has_heard_no_leader_for_long_enough() {
        let vote = Message { term: 5, ..Message::new(MessageKind::PreVote, 2, 1) };
        let transfer = Message { context: CAMPAIGN_TRANSFER.into(), ..vote.clone() };
        let heartbeat = Message { term: 4, ..Message::new(MessageKind::Heartbeat, 3, 1) };
        let mut leases = Leases::new(Some(LENGTH), 2);
        leases.tick();
        assert!(!leases.admits(&vote, 4), "it has just started");
        leases.tick();
        assert!(leases.admits(&vote, 4));
        assert!(leases.admits(&heartbeat, 5), "of an earlier term: no leader any more");
        assert!(leases.admits(&vote, 5));
        assert!(leases.admits(&heartbeat, 4));
        assert!(!leases.admits(&vote, 4) && leases.admits(&transfer, 4));
        let mut none = Leases::new(None, 2);
        assert!(none.admits(&vote, 4), "without leases the core decides alone");
    }
}
