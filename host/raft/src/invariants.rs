//! What must hold of a node at any time, and between two points in time.
//!
//! A simulator calls [`check`] after every step, and [`check_across`] with the states before and after; each answers with
//! the rule that is broken, in words.

use crate::progress::ProgressState;
use crate::raft::Raft;
use crate::storage::Storage;
use crate::types::{Index, NodeId, Role, Term};

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node}: {rule} ({detail})")]
pub struct Violation {
    /// The node.
    pub node: NodeId,
    /// The rule.
    pub rule: &'static str,
    /// The numbers.
    pub detail: String,
}

/// What [`check_across`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The current term.
    pub term: Term,
    /// The vote in it.
    pub vote: NodeId,
    /// The commit index.
    pub commit: Index,
    /// The applied index.
    pub applied: Index,
    /// The leader, as far as known.
    pub leader: NodeId,
    /// The role.
    pub role: Role,
    /// The last index.
    pub last_index: Index,
}

/// The node as [`check_across`] sees it.
pub fn observe<S: Storage>(raft: &Raft<S>) -> Observation {
    Observation {
        term: raft.term(),
        vote: raft.vote(),
        commit: raft.commit_index(),
        applied: raft.applied_index(),
        leader: raft.leader(),
        role: raft.role(),
        last_index: raft.last_index(),
    }
}

fn ensure(holds: bool, node: NodeId, rule: &'static str, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { node, rule, detail: detail() }) }
}

/// What must hold at any time.
///
/// # Errors
/// The first rule that is broken.
pub fn check<S: Storage>(raft: &Raft<S>) -> Result<(), Violation> {
    let now = observe(raft);
    let id = raft.id();
    let numbers = || format!("{now:?}");
    ensure(now.applied <= now.commit, id, "applied entries are committed", numbers)?;
    ensure(now.commit <= now.last_index, id, "committed entries are in the log", numbers)?;
    ensure(now.role != Role::Leader || now.leader == id, id, "a leader knows that it leads", numbers)?;
    ensure(now.leader != id || now.role == Role::Leader, id, "only a leader takes itself for one", numbers)?;
    let campaigns = matches!(now.role, Role::Candidate | Role::PreCandidate);
    ensure(!campaigns || now.leader == 0, id, "who campaigns knows no leader", numbers)?;
    ensure(now.role != Role::Candidate || now.vote == id, id, "a candidate votes for itself", numbers)?;
    check_configuration(raft)?;
    if now.role == Role::Leader {
        check_progress(raft, &now)?;
    }
    Ok(())
}

fn check_configuration<S: Storage>(raft: &Raft<S>) -> Result<(), Violation> {
    let (id, configuration) = (raft.id(), raft.configuration());
    let numbers = || format!("{configuration:?}");
    let no_learner_votes = configuration.learners.iter().all(|learner| !configuration.is_voter(*learner));
    ensure(no_learner_votes, id, "no learner votes", numbers)?;
    let next_are_outgoing = configuration.learners_next.iter().all(|next| configuration.voters_outgoing.contains(next));
    ensure(next_are_outgoing, id, "who becomes a learner on leaving is an outgoing voter", numbers)?;
    ensure(configuration.is_joint() || !configuration.auto_leave, id, "only a joint configuration is left", numbers)?;
    let tracked: Vec<NodeId> = raft.tracker.ids();
    let members: Vec<NodeId> = configuration.members().into_iter().collect();
    ensure(tracked == members, id, "there is progress for exactly the members", || format!("{tracked:?} {members:?}"))
}

fn check_progress<S: Storage>(raft: &Raft<S>, now: &Observation) -> Result<(), Violation> {
    for (peer, progress) in &raft.tracker.progress {
        let numbers = || format!("{peer}: {progress:?}, {now:?}");
        ensure(progress.match_index() < progress.next_index(), raft.id(), "next is above match", numbers)?;
        ensure(progress.match_index() <= now.last_index, raft.id(), "no member matches beyond the log", numbers)?;
        let waits = progress.state() == ProgressState::Snapshot;
        ensure(waits == (progress.pending_snapshot() != 0), raft.id(), "who waits for a snapshot has one", numbers)?;
        let windowed = progress.state() == ProgressState::Replicate || progress.inflights().count() == 0;
        ensure(windowed, raft.id(), "only a replicating member has messages in flight", numbers)?;
    }
    Ok(())
}

/// What must hold from one time to a later one, without a crash between.
///
/// # Errors
/// The first rule that is broken.
pub fn check_across(node: NodeId, before: &Observation, after: &Observation) -> Result<(), Violation> {
    let numbers = || format!("{before:?} -> {after:?}");
    ensure(after.term >= before.term, node, "the term never goes back", numbers)?;
    ensure(after.commit >= before.commit, node, "the commit index never goes back", numbers)?;
    ensure(after.applied >= before.applied, node, "the applied index never goes back", numbers)?;
    if after.term == before.term {
        let kept = before.vote == 0 || after.vote == before.vote;
        ensure(kept, node, "a vote is never changed within a term", numbers)?;
        let same = before.leader == 0 || after.leader == 0 || after.leader == before.leader;
        ensure(same, node, "a term has one leader", numbers)?;
        let grows = before.role != Role::Leader || after.role != Role::Leader || after.last_index >= before.last_index;
        ensure(grows, node, "a leader only appends", numbers)?;
    }
    Ok(())
}
