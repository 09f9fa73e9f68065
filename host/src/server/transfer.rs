//! Handing leadership over: on an operator's wish, before a planned stop, and while the machine has halted. Owns the choice
//! of who is to lead, the way of the wish to the leader, and the wait until it is fulfilled.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use telegraft_proto::internal::{ConditionRequest, TransferReply, TransferRequest, peer_client::PeerClient};
use telegraft_raft::{Configuration, Index, NodeId, Raft, Role, Storage, Term};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    errors::{Applied, Reason, status},
    inbox::NodeHandle,
    peers::introduce,
    shared::{GROUP, Leadership, Shared},
};

/// Pause before the wish is brought to a leader again.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause before a host whose machine has halted, and that leads, looks again for one that could lead instead.
const HALTED_PAUSE: Duration = Duration::from_millis(500);
/// How long another host may take to say how its machine is.
const CONDITION_TIMEOUT: Duration = Duration::from_millis(500);

/// Why leadership cannot go where it was wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// This host does not lead.
    NotLeader,
    /// No member has this id.
    Unknown(NodeId),
    /// It has no vote.
    Learner(NodeId),
    /// It has not been heard from for an election timeout.
    Silent(NodeId),
    /// No other voter has been heard from for an election timeout.
    Alone,
}

/// What the leader knows of another voter.
struct Voter {
    id: NodeId,
    match_index: Index,
    /// Whether it was heard from within the longest election timeout.
    heard: bool,
}

/// Who is to lead, chosen by the leader as it sees things now: `to`, or whoever's log is the most complete.
pub fn choose<S: Storage>(shared: &Shared, raft: &Raft<S>, to: Option<NodeId>) -> Result<NodeId, Unfit> {
    if raft.role() != Role::Leader {
        return Err(Unfit::NotLeader);
    }
    let status = raft.status();
    let voters = status.progress.iter().filter(|(id, progress)| **id != raft.id() && !progress.is_learner);
    let voters: Vec<Voter> = voters
        .map(|(id, progress)| {
            let peer = shared.peer(*id).filter(|peer| peer.connected());
            let heard = peer.is_some_and(|peer| shared.silence(peer) < shared.settings.raft.election_max);
            Voter { id: *id, match_index: progress.match_index, heard }
        })
        .collect();
    choose_among(raft.id(), raft.configuration(), &voters, to)
}

fn choose_among(
    me: NodeId,
    configuration: &Configuration,
    voters: &[Voter],
    to: Option<NodeId>,
) -> Result<NodeId, Unfit> {
    match to {
        Some(to) if !configuration.members().contains(&to) => Err(Unfit::Unknown(to)),
        Some(to) if !configuration.is_voter(to) => Err(Unfit::Learner(to)),
        Some(to) if to == me || voters.iter().any(|voter| voter.id == to && voter.heard) => Ok(to),
        Some(to) => Err(Unfit::Silent(to)),
        None => {
            let fit = voters.iter().filter(|voter| voter.heard);
            // Of equal ones the first.
            let best = fit.min_by_key(|voter| (std::cmp::Reverse(voter.match_index), voter.id));
            best.map(|voter| voter.id).ok_or(Unfit::Alone)
        }
    }
}

/// A wish fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Who leads now.
    pub leader: NodeId,
    /// In which term.
    pub term: Term,
    /// Who led before.
    pub previous: NodeId,
}

/// Takes wishes in. Cheap to clone.
#[derive(Clone)]
pub struct Transfers {
    shared: Arc<Shared>,
    node: NodeHandle,
    channels: Arc<[(NodeId, Channel)]>,
}

impl Transfers {
    /// See the head of this file.
    pub fn new(shared: Arc<Shared>, node: NodeHandle, channels: &[(NodeId, Channel)]) -> Self {
        Self { shared, node, channels: channels.into() }
    }

    /// Gets leadership to `to` (or to whoever is fit), wherever the leader is.
    ///
    /// # Errors
    ///
    /// What the client is to see.
    pub async fn transfer(&self, to: Option<NodeId>, deadline: Instant) -> Result<Transferred, Status> {
        let mut leadership = self.shared.leadership.subscribe();
        loop {
            let now = *leadership.borrow_and_update();
            if deadline <= Instant::now() {
                return Err(self.no_leader(now));
            }
            let answer = match now {
                Leadership { role: Role::Leader, .. } => self.transfer_here(to, deadline).await,
                Leadership { leader: 0, .. } => None,
                _ => self.ask_leader(now, to, deadline).await,
            };
            if let Some(answer) = answer {
                return answer;
            }
            let pause = Instant::now() + PAUSE;
            let wait = if now.leader == 0 { deadline } else { pause.min(deadline) };
            let _ = tokio::time::timeout_at(wait.into(), leadership.changed()).await;
        }
    }

    /// The same if this host leads; what another host asks for.
    pub async fn transfer_here(&self, to: Option<NodeId>, deadline: Instant) -> Option<Result<Transferred, Status>> {
        let mut leadership = self.shared.leadership.subscribe();
        let before = *leadership.borrow_and_update();
        let chosen = match self.node.hand_over(to).await {
            Err(_) => {
                let message = "this host is stopping, or busy with other transfers: ask again";
                return Some(Err(self.refusal(Code::Unavailable, Reason::Stopping, message)));
            }
            Ok(Err(Unfit::NotLeader)) => return None,
            Ok(Err(unfit)) => return Some(Err(self.unfit(unfit))),
            Ok(Ok(chosen)) => chosen,
        };
        let me = self.shared.id();
        if chosen == me {
            return Some(Ok(Transferred { leader: me, term: before.term, previous: me }));
        }
        // The core gives up after an election timeout; an election begun just before that may take another.
        let raft = &self.shared.settings.raft;
        let end = deadline.min(Instant::now() + raft.election_min + raft.election_max);
        let moved = leadership.wait_for(|now| now.leader != 0 && now.leader != me);
        let now = tokio::time::timeout_at(end.into(), moved).await.ok().and_then(Result::ok).map(|now| *now);
        Some(match now {
            Some(now) if now.leader == chosen => Ok(Transferred { leader: now.leader, term: now.term, previous: me }),
            Some(now) => Err(self.not_transferred(format!(
                "host {chosen} was to lead, but host {} won the election and leads now: ask again",
                now.leader
            ))),
            None => Err(self.not_transferred(format!(
                "host {chosen} has not taken leadership over in time: it may be far behind, slow or cut off"
            ))),
        })
    }

    /// Brings the wish to the leader. None where that did not lead (any more), or cannot be reached.
    async fn ask_leader(
        &self,
        asked: Leadership,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Option<Result<Transferred, Status>> {
        let (_, channel) = self.channels.iter().find(|(id, _)| *id == asked.leader)?;
        let timeout = deadline.saturating_duration_since(Instant::now());
        let mut request = Request::new(TransferRequest {
            group: GROUP,
            to: to.unwrap_or(0),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        });
        introduce(&mut request, &self.shared);
        let mut leader = PeerClient::new(channel.clone());
        match tokio::time::timeout_at(deadline.into(), leader.transfer(request)).await {
            Ok(Ok(reply)) => {
                let TransferReply { not_leader, leader_id, term, previous_leader_id } = reply.into_inner();
                let done = Transferred { leader: leader_id, term, previous: previous_leader_id };
                (!not_leader).then_some(Ok(done))
            }
            // A refusal of the leader's own goes to the client as it is.
            Ok(Err(refusal)) if refusal.get_details_error_info().is_some() => Some(Err(Status::with_details(
                refusal.code(),
                refusal.message(),
                bytes::Bytes::copy_from_slice(refusal.details()),
            ))),
            // Its answer was lost, and the wish may be fulfilled: without a name any other leader is.
            Ok(Err(_)) | Err(_) => {
                let now = *self.shared.leadership.borrow();
                let fulfilled = now.leader != 0 && now.leader != asked.leader && to.is_none_or(|to| to == now.leader);
                fulfilled.then_some(Ok(Transferred { leader: now.leader, term: now.term, previous: asked.leader }))
            }
        }
    }

    /// Before a planned stop: if this host leads, gets another to lead, for as long as two election timeouts at most.
    /// Clients' calls go on meanwhile. Says whether this host led.
    pub async fn before_stop(&self) -> bool {
        if !self.shared.leads() {
            return false;
        }
        let deadline = Instant::now() + self.shared.settings.raft.election_max * 2;
        while self.shared.leads() && Instant::now() < deadline {
            match self.node.hand_over(None).await {
                Ok(Ok(to)) => {
                    let mut leadership = self.shared.leadership.subscribe();
                    let moved = leadership.wait_for(|now| now.leader != 0 && now.leader != self.shared.id());
                    // The core gives up after an election timeout; then perhaps another is fit.
                    let end = deadline.min(Instant::now() + self.shared.settings.raft.election_max);
                    if tokio::time::timeout_at(end.into(), moved).await.is_ok_and(|moved| moved.is_ok()) {
                        tracing::info!(leader = to, "leadership was handed over before the stop");
                    } else {
                        tracing::warn!(to, "leadership was not taken over in time");
                    }
                }
                Ok(Err(unfit)) => {
                    tracing::info!(?unfit, "leadership is not handed over");
                    break;
                }
                Err(_) => break,
            }
        }
        true
    }

    /// For as long as the host lives: whenever it leads while its machine has halted, gets another voter to lead whose
    /// machine has not. Where there is none it goes on leading: those that could serve may come back.
    pub async fn pass_on_while_halted(self) {
        let mut leadership = self.shared.leadership.subscribe();
        loop {
            self.shared.until_halted().await;
            if leadership.wait_for(|now| now.role == Role::Leader).await.is_err() {
                return;
            }
            // It may have been restored meanwhile.
            if self.shared.halted().is_some() && !self.pass_on().await {
                tokio::time::sleep(HALTED_PAUSE).await;
            }
        }
    }

    /// Tries the voters whose machines go on, the most advanced first; says whether one of them leads.
    async fn pass_on(&self) -> bool {
        let asked = self.channels.iter().map(|(id, channel)| self.applied_unless_halted(*id, channel.clone()));
        let mut sound: Vec<(Index, NodeId)> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        sound.sort_unstable_by_key(|(applied, id)| (std::cmp::Reverse(*applied), *id));
        for (_, id) in sound {
            match self.node.hand_over(Some(id)).await {
                Ok(Ok(_)) => {
                    let mut leadership = self.shared.leadership.subscribe();
                    let moved = leadership.wait_for(|now| now.role != Role::Leader && now.leader != 0);
                    // The core gives up after an election timeout.
                    let patience = self.shared.settings.raft.election_max;
                    if tokio::time::timeout(patience, moved).await.is_ok_and(|moved| moved.is_ok()) {
                        tracing::info!(to = id, "leadership was handed over: the machine here has halted");
                        return true;
                    }
                }
                Ok(Err(unfit)) => tracing::debug!(?unfit, to = id, "leadership is not handed over"),
                Err(_) => return false,
            }
        }
        false
    }

    /// What another host's machine has applied; nothing where it has halted or does not say.
    async fn applied_unless_halted(&self, id: NodeId, channel: Channel) -> Option<(Index, NodeId)> {
        let mut request = Request::new(ConditionRequest { group: GROUP, ..ConditionRequest::default() });
        introduce(&mut request, &self.shared);
        let mut peer = PeerClient::new(channel);
        let reply = tokio::time::timeout(CONDITION_TIMEOUT, peer.condition(request)).await.ok()?.ok()?.into_inner();
        (!reply.halted).then_some((reply.applied_index, id))
    }

    fn unfit(&self, unfit: Unfit) -> Status {
        let timeout = crate::settings::format_duration(self.shared.settings.raft.election_max);
        match unfit {
            Unfit::NotLeader => self.not_transferred("this host does not lead any more: ask again".into()),
            Unfit::Unknown(id) => {
                let known: Vec<String> = self.shared.settings.hosts.iter().map(|host| host.id.to_string()).collect();
                let message = format!("host {id} is not a member of this cluster (there are: {})", known.join(", "));
                self.refusal(Code::NotFound, Reason::BadCall, message)
            }
            Unfit::Learner(id) => {
                let message = format!("host {id} is a learner: it has no vote and cannot lead");
                self.refusal(Code::FailedPrecondition, Reason::BadCall, message)
            }
            Unfit::Silent(id) => self.not_transferred(format!(
                "host {id} has not been heard from for {timeout} or longer: is it up and connected?"
            )),
            Unfit::Alone => {
                self.not_transferred(format!("there is no other voter that was heard from within the last {timeout}"))
            }
        }
    }

    fn no_leader(&self, leadership: Leadership) -> Status {
        if leadership.leader == 0 {
            let message = "no leader was known until the deadline: is a majority of the hosts up and connected?";
            self.refusal(Code::Unavailable, Reason::NoLeader, message)
        } else {
            let message = "the leader could not be reached until the deadline";
            self.refusal(Code::Unavailable, Reason::LeaderChanged, message)
        }
    }

    fn not_transferred(&self, message: String) -> Status {
        self.refusal(Code::Unavailable, Reason::NotTransferred, message)
    }

    fn refusal(&self, code: Code, reason: Reason, message: impl Into<String>) -> Status {
        let leader = self.shared.leadership.borrow().leader;
        status(code, reason, Applied::No, self.shared.client_address(leader), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(id: NodeId, match_index: Index, heard: bool) -> Voter {
        Voter { id, match_index, heard }
    }

    fn chosen(voters: &[Voter], to: Option<NodeId>) -> Result<NodeId, Unfit> {
        let mut configuration = Configuration { voters: [1].into(), learners: [9].into(), ..Configuration::default() };
        configuration.voters.extend(voters.iter().map(|voter| voter.id));
        choose_among(1, &configuration, voters, to)
    }

    #[test]
    fn without_a_name_the_most_complete_log_that_is_heard_from_is_chosen() {
        assert_eq!(chosen(&[voter(2, 5, true), voter(3, 7, true)], None), Ok(3));
        assert_eq!(chosen(&[voter(2, 7, true), voter(3, 7, true)], None), Ok(2));
        assert_eq!(chosen(&[voter(2, 5, true), voter(3, 7, false)], None), Ok(2));
        assert_eq!(chosen(&[voter(2, 5, false)], None), Err(Unfit::Alone));
        assert_eq!(chosen(&[], None), Err(Unfit::Alone));
    }

    #[test]
    fn a_named_host_must_be_a_voter_that_is_heard_from() {
        let voters = [voter(2, 5, true), voter(3, 7, false)];
        assert_eq!(chosen(&voters, Some(2)), Ok(2));
        assert_eq!(chosen(&voters, Some(1)), Ok(1), "the leader itself");
        assert_eq!(chosen(&voters, Some(3)), Err(Unfit::Silent(3)));
        assert_eq!(chosen(&voters, Some(9)), Err(Unfit::Learner(9)));
        assert_eq!(chosen(&voters, Some(4)), Err(Unfit::Unknown(4)));
    }
}
