//! Settings of one core, and their validation.

use crate::types::{Index, NodeId};

/// How a leader proves that a read is not stale (thesis §6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnly {
    /// Asks a quorum, by a round of heartbeats, whether it still leads.
    Safe,
    /// Trusts its check-quorum lease, as the peer does whose scripts this core answers. That is not sound under any bound on
    /// clock drift: the lease outlasts the last answer by up to two election timeouts, is counted in ticks, which a
    /// pause swallows, and survives a transfer. A host that wants leases keeps them around the core.
    LeaseBased,
}

/// Settings of a core; start from [`Config::new`].
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's id; not 0.
    pub id: NodeId,
    /// Ticks without word from a leader after which an election may start; the timeout is drawn from
    /// `election_ticks..2 * election_ticks`.
    pub election_ticks: u32,
    /// Ticks between a leader's heartbeats; fewer than `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Ask before disturbing a term (thesis §9.6).
    pub pre_vote: bool,
    /// A leader that has not heard from a quorum for `election_ticks` steps down, and voters refuse while they hear
    /// from a leader (thesis §6.2, §4.2.3).
    pub check_quorum: bool,
    /// Bytes of entries in one append message; at least one entry is sent.
    pub message_bytes_max: u64,
    /// Append messages to one follower that may be unanswered.
    pub inflight_messages_max: usize,
    /// Bytes of entries to one follower that may be unanswered; 0 for no limit.
    pub inflight_bytes_max: u64,
    /// Bytes of payload in the uncommitted tail above which a leader refuses proposals.
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries handed out and not yet applied.
    pub committed_bytes_per_ready_max: u64,
    /// Whether `ready` may be called again while earlier appends are still under way. See [`Ready`](crate::Ready).
    pub async_storage_writes: bool,
    /// How reads are proven fresh. `LeaseBased` requires `check_quorum`.
    pub read_only: ReadOnly,
    /// Whether a leader that is removed or demoted steps down once that change is applied.
    pub step_down_on_removal: bool,
    /// Whether a follower hands proposals on to its leader.
    pub proposal_forwarding: bool,
    /// Whether a leader refuses a configuration change that could not be applied now. Only tests turn it off.
    pub conf_change_validation: bool,
    /// Whether a node without pre-vote and check-quorum tells a leader of an earlier term which term it is. A group of such
    /// nodes does without; among others, which refuse votes while they hear from that leader, the node would stay alone.
    pub answer_stale_leaders: bool,
    /// The index up to which entries were applied before this start; 0 if unknown.
    pub applied: Index,
    /// Seed of the election timeouts. Give every node another one.
    pub seed: u64,
}

impl Config {
    /// Sound settings for a node: 10 ticks to an election, a heartbeat each tick, pre-vote, check-quorum.
    pub fn new(id: NodeId, seed: u64) -> Self {
        Config {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            message_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 0,
            uncommitted_bytes_max: 1 << 28,
            committed_bytes_per_ready_max: 16 << 20,
            async_storage_writes: true,
            read_only: ReadOnly::Safe,
            step_down_on_removal: true,
            proposal_forwarding: false,
            conf_change_validation: true,
            answer_stale_leaders: true,
            applied: 0,
            seed,
        }
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and the rule it breaks.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field, rule| Err(ConfigError { field, rule });
        if self.id == 0 {
            return refuse("id", "must not be 0, which stands for no node");
        }
        if self.heartbeat_ticks == 0 {
            return refuse("heartbeat_ticks", "must be at least 1");
        }
        if self.election_ticks <= self.heartbeat_ticks {
            return refuse("election_ticks", "must be greater than heartbeat_ticks");
        }
        if self.election_ticks > u32::MAX / 2 {
            return refuse("election_ticks", "must be at most 2147483647, so that its double is a number of ticks");
        }
        if self.inflight_messages_max == 0 {
            return refuse("inflight_messages_max", "must be at least 1");
        }
        if self.inflight_bytes_max != 0 && self.inflight_bytes_max < self.message_bytes_max {
            return refuse("inflight_bytes_max", "must be 0 (no limit) or at least message_bytes_max");
        }
        if self.uncommitted_bytes_max == 0 {
            return refuse("uncommitted_bytes_max", "must be at least 1");
        }
        if self.committed_bytes_per_ready_max == 0 {
            return refuse("committed_bytes_per_ready_max", "must be at least 1");
        }
        if self.read_only == ReadOnly::LeaseBased && !self.check_quorum {
            return refuse("read_only", "LeaseBased requires check_quorum, which keeps the lease");
        }
        Ok(())
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the setting `{field}` {rule}")]
pub struct ConfigError {
    /// The field of [`Config`].
    pub field: &'static str,
    /// What it must satisfy.
    pub rule: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_field() {
        let field = |change: fn(&mut Config)| {
            let mut config = Config::new(1, 1);
            change(&mut config);
            config.validate().map_err(|e| e.field)
        };
        assert_eq!(field(|_| ()), Ok(()));
        assert_eq!(field(|c| c.id = 0), Err("id"));
        assert_eq!(field(|c| c.heartbeat_ticks = 0), Err("heartbeat_ticks"));
        assert_eq!(field(|c| c.election_ticks = 1), Err("election_ticks"));
        assert_eq!(field(|c| c.election_ticks = u32::MAX), Err("election_ticks"));
        assert_eq!(field(|c| c.inflight_messages_max = 0), Err("inflight_messages_max"));
        assert_eq!(field(|c| c.inflight_bytes_max = 1), Err("inflight_bytes_max"));
        assert_eq!(field(|c| c.uncommitted_bytes_max = 0), Err("uncommitted_bytes_max"));
        assert_eq!(field(|c| c.committed_bytes_per_ready_max = 0), Err("committed_bytes_per_ready_max"));
        let lease = |c: &mut Config| (c.read_only, c.check_quorum) = (ReadOnly::LeaseBased, false);
        assert_eq!(field(lease), Err("read_only"));
    }
}
