//! Reads: a small pool of threads that ask the machine, and the wait for an index that a client has seen.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError};
use telegraft_node::ports::{MachineFault, Outcome, Queries};
use telegraft_proto::v1::Consistency;
use telegraft_raft::Index;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

use super::{
    errors::{Applied, Reason, bad_call, rejection, status},
    shared::Shared,
    threads,
};

/// Reads that may wait for a thread; further ones are refused as overload.
const QUEUE_MAX: usize = 4_096;

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
    jobs: Sender<Job>,
}

impl Reads {
    /// Starts the threads. A machine that can no longer be read is a fault of the host.
    pub fn start(
        shared: Arc<Shared>,
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
        Ok(Self { shared, jobs })
    }

    /// Runs one read as `consistency` asks, and gives the index it was read at and the answer.
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
        match consistency {
            Consistency::Unspecified | Consistency::Local => {}
            Consistency::AtLeast => self.wait_for(min_index, deadline).await?,
            Consistency::Linearizable => {
                return Err(status(
                    Code::Unimplemented,
                    Reason::NotServed,
                    Applied::No,
                    "",
                    "linearizable reads are not served yet: read AT_LEAST the index of a reply you have seen, or LOCAL",
                ));
            }
        }
        let (answer, receiver) = oneshot::channel();
        match self.jobs.try_send(Job { method, payload, deadline, answer }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                let message = format!("{QUEUE_MAX} reads wait on this host: try again a little later");
                return Err(status(Code::ResourceExhausted, Reason::Overloaded, Applied::No, "", message));
            }
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

fn stopping() -> Status {
    status(Code::Unavailable, Reason::Stopping, Applied::No, "", "this host is stopping: ask another")
}
