//! Reads: a small pool of threads that ask the machine, and what comes before: the wait for an index that a client has
//! seen, or until the node says that a read is linearizable from now on.
//!
//! A read that nobody waits for any more is cancelled, whether it waits for a thread or runs: its deadline has passed, it has
//! run for `machine.query_time_max`, or its future was dropped, as it is when the client cancels the call, when its connection
//! ends, and when the machine halts.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use crossbeam_channel::Sender;
use telegraft_node::{
    ReadOutcome,
    ports::{Cancellation, MachineFault, Outcome, Queries},
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
use crate::settings::{Settings, format_duration};

/// Reads that may wait for a thread; further ones are refused as overload.
const QUEUE_MAX: usize = 4_096;
/// Pause before the node is asked again which said that it knows no leader, unless that changes before.
const PAUSE: Duration = Duration::from_millis(20);

struct Job {
    request: Arc<Request>,
    deadline: Instant,
    cancellation: Cancellation,
    /// When a thread took it.
    begun: Arc<OnceLock<Instant>>,
    answer: oneshot::Sender<Result<(Index, Outcome), MachineFault>>,
}

/// What is asked, until a thread takes it or its client goes: what nobody waits for holds neither memory nor a place.
struct Request {
    asked: Mutex<Option<(String, Bytes)>>,
    /// Requests that wait for a thread, this one among them.
    waiting: Arc<AtomicUsize>,
}

impl Request {
    fn take(&self) -> Option<(String, Bytes)> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if asked.is_some() {
            self.waiting.fetch_sub(1, Relaxed);
        }
        asked
    }
}

/// Whoever holds this waits for the read.
struct CancelOnDrop(Cancellation, Arc<Request>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
        self.1.take();
    }
}

/// Answers reads. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct Reads {
    shared: Arc<Shared>,
    node: NodeHandle,
    jobs: Sender<Job>,
    /// Requests that wait for a thread.
    waiting: Arc<AtomicUsize>,
}

impl Reads {
    /// Starts the threads. A machine that can no longer be read is a fault of the host.
    pub fn start(
        shared: Arc<Shared>,
        node: NodeHandle,
        machine: Arc<dyn Queries>,
        faults: &mpsc::UnboundedSender<String>,
    ) -> std::io::Result<Self> {
        // Bounded by those that somebody waits for, which are counted.
        let (jobs, inbox) = crossbeam_channel::unbounded::<Job>();
        for number in 0..shared.settings.machine.query_threads.max(1) {
            let (machine, inbox, faults) = (machine.clone(), inbox.clone(), faults.clone());
            let (stop_host, shared) = (faults.clone(), shared.clone());
            threads::spawn(format!("read-{number}"), stop_host, move || {
                for job in inbox {
                    let Some((method, payload)) = job.request.take() else { continue };
                    if job.cancellation.is_cancelled() || job.deadline <= Instant::now() {
                        continue;
                    }
                    let _ = job.begun.set(Instant::now());
                    shared.positions.reads_running.fetch_add(1, Relaxed);
                    let answer = machine.query_until(&method, &payload, &job.cancellation);
                    if matches!(answer, Ok(None)) {
                        shared.positions.reads_cancelled.fetch_add(1, Relaxed);
                    }
                    shared.positions.reads_running.fetch_sub(1, Relaxed);
                    if let Err(fault) = &answer {
                        let _ = faults.send(fault.to_string());
                    }
                    if let Some(answer) = answer.transpose() {
                        let _ = job.answer.send(answer);
                    }
                }
                Ok(())
            })?;
        }
        Ok(Self { shared, node, jobs, waiting: Arc::default() })
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
        let (answer, mut receiver) = oneshot::channel();
        let (cancellation, begun) = (Cancellation::default(), Arc::<OnceLock<Instant>>::default());
        let waiting = self.waiting.clone();
        let before = waiting.fetch_add(1, Relaxed);
        let request = Arc::new(Request { asked: Mutex::new(Some((method, payload))), waiting });
        let _waiting = CancelOnDrop(cancellation.clone(), request.clone());
        if before >= QUEUE_MAX {
            return Err(overloaded());
        }
        if self.jobs.send(Job { request, deadline, cancellation, begun: begun.clone(), answer }).is_err() {
            return Err(stopping());
        }
        let settings = &self.shared.settings;
        loop {
            let now = Instant::now();
            let begun = begun.get().copied();
            let end = end_of(begun.unwrap_or(now), deadline, settings);
            if end <= now {
                return Err(out_of_time(begun.is_some(), end < deadline, settings));
            }
            match tokio::time::timeout_at(end.into(), &mut receiver).await {
                Ok(Ok(Ok((index, outcome)))) => return outcome.map(|reply| (index, reply)).map_err(rejection),
                Ok(Ok(Err(fault))) => {
                    let message = format!("this host stops: {fault}");
                    return Err(status(Code::DataLoss, Reason::Stopping, Applied::No, "", message));
                }
                // A thread leaves one that comes too late.
                Ok(Err(_)) if deadline <= Instant::now() => return Err(out_of_time(false, false, settings)),
                Ok(Err(_)) => return Err(stopping()),
                // Perhaps it has begun only meanwhile.
                Err(_) => {}
            }
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

/// When a read that a thread took at `begun` has had all the time it may have.
fn end_of(begun: Instant, deadline: Instant, settings: &Settings) -> Instant {
    let time_max = settings.machine.query_time_max;
    let own = if time_max.is_zero() { None } else { begun.checked_add(time_max) };
    own.map_or(deadline, |own| own.min(deadline))
}

/// Why a read ends without an answer: it had not begun at its deadline, ran beyond it, or ran for longer than this host allows.
fn out_of_time(begun: bool, overran: bool, settings: &Settings) -> Status {
    let (requests, machine) = (&settings.requests, &settings.machine);
    let message = match (begun, overran) {
        (true, true) => format!(
            "the query has run for {}, the longest that this host gives one (machine.query_time_max), and was ended: have it \
             read less at once (an index, a page), or raise machine.query_time_max here",
            format_duration(machine.query_time_max)
        ),
        (true, false) => format!(
            "the deadline passed while the query ran, and it was ended: have it read less at once (an index, a page), or \
             give the call a longer deadline (at most requests.timeout_max, {})",
            format_duration(requests.timeout_max)
        ),
        (false, _) => format!(
            "the deadline passed before a thread was free for the query: this host runs {} at a time \
             (machine.query_threads); ask another host, or give the call a longer deadline",
            machine.query_threads
        ),
    };
    status(Code::DeadlineExceeded, Reason::Deadline, Applied::No, "", message)
}

fn overloaded() -> Status {
    let message = "too many reads wait on this host: try again a little later";
    status(Code::ResourceExhausted, Reason::Overloaded, Applied::No, "", message)
}

fn stopping() -> Status {
    status(Code::Unavailable, Reason::Stopping, Applied::No, "", "this host is stopping: ask another")
}
