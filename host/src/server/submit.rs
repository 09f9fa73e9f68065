//! The way of a write from any host to its answer: proposed here if this host leads, forwarded if another does, held back
//! while nobody does. Owns the decision what may be tried again without applying a write twice.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prost::Message as _;
use telegraft_node::WriteOutcome;
use telegraft_proto::internal::Command;
use telegraft_raft::{Index, NodeId, Role};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::{
    errors::{self, Applied, Reason, rejection, status},
    forward::{Forward, Forwarded},
    inbox::{Answer, NodeHandle, Refused},
    shared::{Leadership, Shared},
};
use crate::settings::Settings;

/// How much earlier than the client's own deadline we answer, so that the answer says why instead of being cut off.
const ANSWER_EARLY_MAX: Duration = Duration::from_millis(50);

/// Bytes of writes that may wait in this host, in KiB; further ones are refused as overload.
const ROOM_KIBIBYTES: usize = 256 << 10;
/// Entries applied since a write began, after which this host no longer sends it again by itself: half of what the machine
/// remembers of sessions.
const RETRY_ENTRIES_MAX: u64 = telegraft_sandbox::REMEMBERED / 2;
/// Election timeouts for which a write waits for a leader whose machine has halted to hand over; then it is refused.
const HALTED_PATIENCE_TIMEOUTS: u32 = 4;

/// Takes writes in. Cheap to clone.
#[derive(Clone)]
pub struct Writes {
    shared: Arc<Shared>,
    node: NodeHandle,
    forward: Forward,
    room: Arc<Semaphore>,
}

/// How one attempt ended, if not with the client's answer.
enum Attempt {
    Answered(Result<(Index, Bytes), Status>),
    /// Certainly not applied: another attempt is safe.
    NotApplied,
    /// The same, since the leader's machine has halted: it is about to hand over, if there is anyone to hand over to.
    Halted(Status),
    /// Perhaps applied: another attempt is safe only for a write with a session.
    Unknown(Status),
}

/// The instant at which a call must be answered, from its `grpc-timeout` or the configured default.
pub fn deadline(settings: &Settings, timeout: Option<Duration>) -> Instant {
    let timeout = timeout.unwrap_or(settings.requests.timeout).min(settings.requests.timeout_max);
    Instant::now() + timeout.saturating_sub(ANSWER_EARLY_MAX.min(timeout / 10))
}

impl Writes {
    /// See the head of this file.
    pub fn new(shared: Arc<Shared>, node: NodeHandle, forward: Forward) -> Self {
        Self { shared, node, forward, room: Arc::new(Semaphore::new(ROOM_KIBIBYTES)) }
    }

    /// See [`deadline`].
    pub fn deadline(&self, timeout: Option<Duration>) -> Instant {
        deadline(&self.shared.settings, timeout)
    }

    /// Gets a write applied, wherever the leader is, and gives its index and the machine's answer.
    ///
    /// # Errors
    ///
    /// What the client is to see.
    pub async fn submit(&self, command: Command, deadline: Instant) -> Result<(Index, Bytes), Status> {
        let has_session = !command.client_id.is_empty();
        let mut leadership = self.shared.leadership.subscribe();
        let mut perhaps_applied = Applied::No;
        let begun_at = self.shared.applied_index();
        let halted_patience = Instant::now() + self.shared.settings.raft.election_max * HALTED_PATIENCE_TIMEOUTS;
        let Ok(_room) = self.room.clone().try_acquire_many_owned(kibibytes(&command)) else {
            return Err(self.overloaded());
        };
        loop {
            let now = *leadership.borrow_and_update();
            let attempt = match now {
                _ if deadline <= Instant::now() => return Err(self.out_of_time(now, perhaps_applied)),
                Leadership { role: Role::Leader, .. } => self.propose(command.clone(), deadline).await,
                Leadership { leader: 0, .. } => Attempt::NotApplied,
                Leadership { leader, .. } => match self.call_leader(leader, &command, deadline, has_session).await {
                    Forwarded::Answered(Err(refused)) => match errors::is_of_halted(&refused) {
                        Some(Applied::No) => Attempt::Halted(refused),
                        Some(_) => Attempt::Unknown(refused),
                        None => Attempt::Answered(Err(refused)),
                    },
                    Forwarded::Answered(answer) => Attempt::Answered(answer),
                    Forwarded::NotSent | Forwarded::NotLeader => Attempt::NotApplied,
                    Forwarded::TimedOut { sent } => Attempt::Answered(Err(self.deadline_passed(sent))),
                    Forwarded::Lost => Attempt::Unknown(self.status(
                        Code::Unavailable,
                        Reason::LeaderChanged,
                        Applied::Unknown,
                        "the leader could not be reached any more while the write was under way: it may have been \
                         applied; send it again with the same client and request id to be sure",
                    )),
                },
            };
            match attempt {
                Attempt::Answered(answer) if perhaps_applied == Applied::Unknown => {
                    return answer.map_err(errors::in_doubt);
                }
                Attempt::Answered(answer) => return answer,
                Attempt::Halted(refused) if halted_patience.min(deadline) <= Instant::now() => {
                    return Err(if perhaps_applied == Applied::No { refused } else { errors::in_doubt(refused) });
                }
                Attempt::NotApplied | Attempt::Halted(_) => {}
                Attempt::Unknown(status) if has_session => {
                    perhaps_applied = Applied::Unknown;
                    // Beyond the machine's memory of sessions a retry would be a second write.
                    if self.shared.applied_index().saturating_sub(begun_at) > RETRY_ENTRIES_MAX {
                        return Err(status);
                    }
                }
                Attempt::Unknown(status) => return Err(status),
            }
            // Tried again when the leader changes; at the latest after a while, since a forward may fail without one.
            let pause = Instant::now() + Duration::from_millis(20);
            let wait = if now.leader == 0 { deadline } else { pause.min(deadline) };
            let _ = tokio::time::timeout_at(wait.into(), leadership.changed()).await;
        }
    }

    /// Gets a write applied if this host leads; what a forwarding host asks for.
    pub async fn submit_here(&self, command: Command, deadline: Instant) -> Option<Result<(Index, Bytes), Status>> {
        if self.shared.leadership.borrow().role != Role::Leader {
            return None;
        }
        match self.propose(command, deadline).await {
            Attempt::Answered(answer) => Some(answer),
            Attempt::NotApplied => None,
            Attempt::Halted(status) | Attempt::Unknown(status) => Some(Err(status)),
        }
    }

    /// Proposes here, and waits for the outcome. A host whose machine has halted proposes nothing: it could not say what
    /// became of it.
    async fn propose(&self, mut command: Command, deadline: Instant) -> Attempt {
        if let Some(why) = self.shared.halted() {
            return Attempt::Halted(errors::halted(&why, Applied::No, self.leader_address()));
        }
        stamp(&mut command);
        let data = Bytes::from(command.encode_to_vec());
        let receiver = match self.node.write(data, deadline) {
            Ok(receiver) => receiver,
            Err(Refused::Full) => return Attempt::Answered(Err(self.overloaded())),
            Err(Refused::Stopped) => return Attempt::Answered(Err(self.stopping(Applied::No))),
        };
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout_at(deadline.into(), receiver) => answer,
            why = self.shared.until_halted() => {
                return Attempt::Unknown(errors::halted(&why, Applied::Unknown, self.leader_address()));
            }
        };
        match answer {
            Ok(Ok(Answer::Outcome(WriteOutcome::Applied { index, outcome }))) => {
                Attempt::Answered(outcome.map(|reply| (index, reply)).map_err(rejection))
            }
            Ok(Ok(Answer::Outcome(WriteOutcome::NotLeader { .. } | WriteOutcome::Replaced))) => Attempt::NotApplied,
            Ok(Ok(Answer::Outcome(WriteOutcome::Unknown))) => Attempt::Unknown(self.status(
                Code::Unavailable,
                Reason::LeaderChanged,
                Applied::Unknown,
                "this host fell behind while the write was under way: it may have been applied",
            )),
            // Said of changes of the members alone, and nothing of those takes effect.
            Ok(Ok(Answer::Outcome(WriteOutcome::ChangeRefused(_) | WriteOutcome::TransferFirst))) => {
                Attempt::NotApplied
            }
            Ok(Ok(Answer::Outcome(WriteOutcome::Overloaded))) => Attempt::Answered(Err(self.overloaded())),
            Ok(Ok(Answer::Expired)) => Attempt::Answered(Err(self.deadline_passed(false))),
            Ok(Err(_)) => Attempt::Answered(Err(self.stopping(Applied::Unknown))),
            Err(_) => Attempt::Answered(Err(self.deadline_passed(true))),
        }
    }

    /// Asks the leader. A write with a session need not wait for a leader that lost its place: it can be sent again.
    async fn call_leader(&self, leader: NodeId, command: &Command, deadline: Instant, has_session: bool) -> Forwarded {
        let call = self.forward.call(leader, command, deadline);
        if !has_session {
            return call.await;
        }
        let mut leadership = self.shared.leadership.subscribe();
        tokio::select! {
            biased;
            forwarded = call => forwarded,
            _ = leadership.wait_for(|now| now.leader != leader && now.leader != 0) => Forwarded::Lost,
        }
    }

    fn deadline_passed(&self, started: bool) -> Status {
        let (applied, message) = if started {
            (
                Applied::Unknown,
                "the deadline passed before a majority of the hosts confirmed the write: it may still be applied",
            )
        } else {
            (Applied::No, "the deadline passed before the write was started")
        };
        self.status(Code::DeadlineExceeded, Reason::Deadline, applied, message)
    }

    fn out_of_time(&self, leadership: Leadership, applied: Applied) -> Status {
        if leadership.leader == 0 {
            self.status(
                Code::Unavailable,
                Reason::NoLeader,
                applied,
                "no leader was known until the deadline: is a majority of the hosts up and connected?",
            )
        } else {
            self.status(
                Code::Unavailable,
                Reason::LeaderChanged,
                applied,
                "the leader could not be reached until the deadline",
            )
        }
    }

    fn overloaded(&self) -> Status {
        self.status(
            Code::ResourceExhausted,
            Reason::Overloaded,
            Applied::No,
            format!(
                "{} writes are under way here: try again a little later",
                self.shared.positions.pending.load(Relaxed)
            ),
        )
    }

    fn stopping(&self, applied: Applied) -> Status {
        self.status(Code::Unavailable, Reason::Stopping, applied, "this host is stopping: ask another")
    }

    fn status(&self, code: Code, reason: Reason, applied: Applied, message: impl Into<String>) -> Status {
        status(code, reason, applied, self.leader_address(), message)
    }

    fn leader_address(&self) -> &str {
        self.shared.client_address(self.shared.leadership.borrow().leader)
    }
}

fn kibibytes(command: &Command) -> u32 {
    let most = u32::try_from(ROOM_KIBIBYTES).unwrap_or(u32::MAX);
    u32::try_from(command.encoded_len().div_ceil(1 << 10)).unwrap_or(u32::MAX).clamp(1, most)
}

/// Time and entropy enter here, once, on the host that proposes; the log carries them to every replica.
fn stamp(command: &mut Command) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    command.time_us = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
    command.entropy_high = rand::random();
    command.entropy_low = rand::random();
}
