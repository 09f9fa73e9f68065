//! Reads: a small pool of threads that ask the machine, and what comes before: the wait for an index that a client has
//! seen, or until the node says that a read is linearizable from now on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError};
use telegraft_node::{
    ReadOutcome,
    ports::{MachineFault, Outcome, Queries},
};
use telegraft_proto::v1::Consistency;
use telegraft_raft::Index;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

use super::{
    errors::{Applied, Reason, bad_call, halted, rejection, status},
    inbox::{Answer, NodeHandle, Refused},
    shared::{Leadership, Shared},
    threads,
};

/// Reads that may wait for a thread; further ones are refused as overload.
const QUEUE_MAX: usize = 4_096;
/// Pause before the node is asked again which said that it knows no leader, unless that changes before.
const PAUSE: Duration = Duration::from_millis(20);

struct Job {
    method: String,
    payload: Bytes,
    deadline: Instant,
    answer: oneshot::Sender<Result<(Index, Outcome), MachineFault>>,
}

/// Answers reads. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct Reads {
    shared: Arc<Shared>,
    node: NodeHandle,
    jobs: Sender<Job>,
}

impl Reads {
    /// Starts the threads. A machine that can no longer be read is a fault of the host.
    pub fn start(
        shared: Arc<Shared>,
        node: NodeHandle,
        machine: Arc<dyn Queries>,
        faults: &mpsc::UnboundedSender<String>,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = crossbeam_channel::bounded::<Job>(QUEUE_MAX);
        for number in 0..shared.settings.machine.query_threads.max(1) {
            let (machine, inbox, faults) = (machine.clone(), inbox.clone(), faults.clone());
            let stop_host = faults.clone();
            threads::spawn(format!("read-{number}"), stop_host, move || {
                for job in inbox {
                    if job.answer.is_closed() || job.deadline <= Instant::now() {
                        continue;
                    }
                    let answer = machine.query(&job.method, &job.payload);
                    if let Err(fault) = &answer {
                        let _ = faults.send(fault.to_string());
                    }
                    let _ = job.answer.send(answer);
                }
                Ok(())
            })?;
        }
        Ok(Self { shared, node, jobs })
    }

    /// Runs one read as `consistency` asks, and gives the index it was read at and the answer. A host whose machine has
    /// halted answers none.
    ///
    /// # Errors
    ///
    /// What the client is to see.
    pub async fn read(
        &self,
        method: String,
        payload: Bytes,
        consistency: Consistency,
        min_index: Index,
        deadline: Instant,
    ) -> Result<(Index, Bytes), Status> {
        tokio::select! {
            biased;
            why = self.shared.until_halted() => {
                let leader = self.shared.leadership.borrow().leader;
                Err(halted(&why, Applied::No, self.shared.client_address(leader)))
            }
            answer = self.read_here(method, payload, consistency, min_index, deadline) => answer,
        }
    }

    async fn read_here(
        &self,
        method: String,
        payload: Bytes,
        consistency: Consistency,
        min_index: Index,
        deadline: Instant,
    ) -> Result<(Index, Bytes), Status> {
        match consistency {
            Consistency::Unspecified | Consistency::Local => {}
            Consistency::AtLeast => self.wait_for(min_index, deadline).await?,
            Consistency::Linearizable => self.wait_until_linearizable(deadline).await?,
        }
        let (answer, receiver) = oneshot::channel();
        match self.jobs.try_send(Job { method, payload, deadline, answer }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(overloaded()),
            Err(TrySendError::Disconnected(_)) => return Err(stopping()),
        }
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(Ok((index, outcome)))) => outcome.map(|reply| (index, reply)).map_err(rejection),
            Ok(Ok(Err(fault))) => {
                Err(status(Code::DataLoss, Reason::Stopping, Applied::No, "", format!("this host stops: {fault}")))
            }
            Ok(Err(_)) if deadline > Instant::now() => Err(stopping()),
            Ok(Err(_)) | Err(_) => Err(status(
                Code::DeadlineExceeded,
                Reason::Deadline,
                Applied::No,
                "",
                "the deadline passed before the read was answered",
            )),
        }
    }

    /// Returns once a read of this host's machine reflects all that was answered anywhere before this call.
    async fn wait_until_linearizable(&self, deadline: Instant) -> Result<(), Status> {
        let mut leadership = self.shared.leadership.subscribe();
        loop {
            let now = *leadership.borrow_and_update();
            if deadline <= Instant::now() {
                return Err(self.not_confirmed(now));
            }
            let answer = match self.node.read(deadline) {
                Ok(receiver) => tokio::time::timeout_at(deadline.into(), receiver).await,
                Err(Refused::Full) => return Err(overloaded()),
                Err(Refused::Stopped) => return Err(stopping()),
            };
            match answer {
                Ok(Ok(Answer::Outcome(ReadOutcome::At { .. }))) => return Ok(()),
                Ok(Ok(Answer::Outcome(ReadOutcome::Overloaded))) => return Err(overloaded()),
                Ok(Ok(Answer::Outcome(ReadOutcome::NoLeader))) => {
                    let pause = deadline.min(Instant::now() + PAUSE);
                    let _ = tokio::time::timeout_at(pause.into(), leadership.changed()).await;
                }
                Ok(Err(_)) => return Err(stopping()),
                Ok(Ok(Answer::Expired)) | Err(_) => return Err(self.not_confirmed(*leadership.borrow())),
            }
        }
    }

    fn not_confirmed(&self, leadership: Leadership) -> Status {
        let (reason, message) = match leadership.leader {
            0 => (
                Reason::NoLeader,
                "no leader was known until the deadline: is a majority of the hosts up and connected?",
            ),
            _ => (
                Reason::Deadline,
                "no majority has confirmed before the deadline what a linearizable read must reflect: ask another host, \
                 or read LOCAL",
            ),
        };
        status(Code::Unavailable, reason, Applied::No, self.shared.client_address(leadership.leader), message)
    }

    async fn wait_for(&self, index: Index, deadline: Instant) -> Result<(), Status> {
        if index == 0 {
            return Err(bad_call("AT_LEAST needs `min_index`, the index of a reply you have seen"));
        }
        let mut applied = self.shared.applied.subscribe();
        let reached = tokio::time::timeout_at(deadline.into(), applied.wait_for(|applied| *applied >= index)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(status(
                Code::Unavailable,
                Reason::Deadline,
                Applied::No,
                "",
                format!(
                    "this host has applied up to index {}, and did not reach {index} before the deadline: ask another",
                    self.shared.applied_index()
                ),
            )),
        }
    }
}

fn overloaded() -> Status {
    let message = "too many reads wait on this host: try again a little later";
    status(Code::ResourceExhausted, Reason::Overloaded, Applied::No, "", message)
}

fn stopping() -> Status {
    status(Code::Unavailable, Reason::Stopping, Applied::No, "", "this host is stopping: ask another")
}
