//! The threads a node runs on, and the channels between them.
//!
//! ```text
//! peers ──▶ ┐                      ┌─▶ log thread    one synced write for all that waits ──▶ done
//! writes ─▶ ├─▶ turn thread ───────┼─▶ apply thread  one transaction for all that waits ──▶ done
//! done ───▶ ┘   (node.turn)        └─▶ peers' streams (see `peers`)
//! ```
//!
//! The turn thread takes completions first, then peers' messages, then clients' writes: under load, what is under way ends
//! before something new begins. Batches form by themselves: whatever arrived while the log synced is the next batch.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use futures::FutureExt as _;
use telegraft_node::{
    AppliedEntry, Input, Node, Ports, Responder, Write, WriteOutcome,
    ports::{LogReader, LogWrite, LogWriter, Machine},
};
use telegraft_raft::{Entry, Message, NodeId};
use tokio::sync::{mpsc, oneshot};

use super::shared::{Leadership, Shared};

/// Peers' messages that may wait for the turn thread; then the peer's stream waits.
const PEER_INBOX_MAX: usize = 4_096;
/// Clients' writes that may wait for the turn thread; further ones are refused as overload.
const WRITE_INBOX_MAX: usize = 16_384;
/// Clients' writes that one turn takes in.
const WRITES_PER_TURN_MAX: usize = 2_048;
/// Entries that one transaction of the machine takes in.
const ENTRIES_PER_APPLY_MAX: usize = 1_024;
/// Appends that one write of the log takes in.
const APPENDS_PER_WRITE_MAX: usize = 1_024;
/// Ticks made up for after a pause of the process. More would let a paused leader give up, or a paused follower campaign,
/// on the strength of time that nobody could have used.
const TICKS_CAUGHT_UP_MAX: u32 = 2;
/// Turns between two looks at the peers' progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What a waiting client learns of its write.
#[derive(Debug)]
pub enum Answer {
    /// What the node says.
    Outcome(WriteOutcome),
    /// The deadline had passed before the write was started.
    Expired,
}

/// The way of an answer to the task that waits for it.
pub struct Waiter(oneshot::Sender<Answer>);

impl Responder for Waiter {
    fn respond(self, outcome: WriteOutcome) {
        // Nobody waits any more where the client went away; the write stands all the same.
        let _ = self.0.send(Answer::Outcome(outcome));
    }
}

struct QueuedWrite {
    data: Bytes,
    deadline: Instant,
    waiter: Waiter,
}

/// The way into the node for the rest of the host. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    peers: Sender<Input<Waiter>>,
    writes: Sender<QueuedWrite>,
}

/// The node has stopped, or its inbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Try later.
    Full,
    /// The host is stopping.
    Stopped,
}

impl NodeHandle {
    /// Hands in a peer's message (or word of a peer), waiting while the node's inbox is full so that the peer's stream
    /// feels it.
    pub async fn peer(&self, input: Input<Waiter>) -> Result<(), Refused> {
        let mut input = input;
        loop {
            match self.peers.try_send(input) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Refused::Stopped),
                Err(TrySendError::Full(back)) => {
                    input = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    /// Hands in a write to be proposed if this host leads; the answer comes through the receiver, which fails if the host
    /// stops before it is known.
    pub fn write(&self, data: Bytes, deadline: Instant) -> Result<oneshot::Receiver<Answer>, Refused> {
        let (sender, receiver) = oneshot::channel();
        match self.writes.try_send(QueuedWrite { data, deadline, waiter: Waiter(sender) }) {
            Ok(()) => Ok(receiver),
            Err(TrySendError::Full(_)) => Err(Refused::Full),
            Err(TrySendError::Disconnected(_)) => Err(Refused::Stopped),
        }
    }
}

/// The threads of one node.
pub struct Threads {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

/// Where messages to peers go: one bounded queue for each, by its id.
pub type Outboxes = Vec<(NodeId, mpsc::Sender<Message>)>;

impl Threads {
    /// Starts the node's threads. A fault of any of them is sent to `faults`; the process should then end.
    pub fn start<S: LogReader>(
        node: Node<S, Waiter>,
        writer: Box<dyn LogWriter>,
        machine: Box<dyn Machine>,
        outboxes: Outboxes,
        shared: Arc<Shared>,
        faults: mpsc::UnboundedSender<String>,
    ) -> std::io::Result<(Self, NodeHandle)> {
        let stop = Arc::new(AtomicBool::new(false));
        let (peers, peer_inbox) = crossbeam_channel::bounded(PEER_INBOX_MAX);
        let (writes, write_inbox) = crossbeam_channel::bounded(WRITE_INBOX_MAX);
        let (done, done_inbox) = crossbeam_channel::unbounded();
        // Bounded by the core: it hands out no more than its limits of uncommitted and unapplied bytes.
        let (to_log, log_inbox) = crossbeam_channel::unbounded();
        let (to_machine, machine_inbox) = crossbeam_channel::unbounded();

        let mut handles = Vec::new();
        let log_done = done.clone();
        let log_shared = shared.clone();
        handles.push(spawn("log", faults.clone(), move || log_loop(writer, &log_inbox, &log_done, &log_shared))?);
        let apply_shared = shared.clone();
        handles
            .push(spawn("apply", faults.clone(), move || apply_loop(machine, &machine_inbox, &done, &apply_shared))?);
        let turn = Turn {
            node,
            shared,
            peer_inbox,
            write_inbox,
            done_inbox,
            ports: HostPorts { outboxes, to_log, to_machine, unreachable: Vec::new() },
            stop: stop.clone(),
            inbox: Vec::new(),
        };
        handles.push(spawn("turn", faults, move || turn.run())?);
        Ok((Self { stop, handles }, NodeHandle { peers, writes }))
    }

    /// Ends the turn, lets the log and the machine finish what they were given, and waits for all three.
    pub fn stop(self) {
        self.stop.store(true, Relaxed);
        for handle in self.handles {
            // A panic was reported as a fault already.
            let _ = handle.join();
        }
    }
}

/// Starts a thread whose failure, or panic, stops the host.
pub fn spawn(
    name: impl Into<String>,
    faults: mpsc::UnboundedSender<String>,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let name = name.into();
    thread::Builder::new().name(format!("tg-{name}")).spawn(move || {
        let fault = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault,
            Err(_) => format!("the {name} thread panicked: this is a defect of Telegraft; its trace is above"),
        };
        let _ = faults.send(fault);
    })
}

/// Starts a task that lives as long as the host, and whose panic stops it.
pub fn spawn_task(
    name: &'static str,
    faults: mpsc::UnboundedSender<String>,
    body: impl Future<Output = ()> + Send + 'static,
) {
    tokio::spawn(async move {
        if AssertUnwindSafe(body).catch_unwind().await.is_err() {
            let _ = faults.send(format!("the {name} task panicked: this is a defect of Telegraft; its trace is above"));
        }
    });
}

enum Done {
    Persisted(usize),
    Applied(Vec<AppliedEntry>),
}

impl From<Done> for Input<Waiter> {
    fn from(done: Done) -> Self {
        match done {
            Done::Persisted(count) => Input::Persisted { count },
            Done::Applied(entries) => Input::Applied(entries),
        }
    }
}

struct HostPorts {
    outboxes: Outboxes,
    to_log: Sender<LogWrite>,
    to_machine: Sender<Vec<Entry>>,
    /// Peers whose queue was full; told to the core in the next turn.
    unreachable: Vec<NodeId>,
}

impl Ports for HostPorts {
    fn send(&mut self, message: Message) {
        let to = message.to;
        let Some((_, outbox)) = self.outboxes.iter().find(|(id, _)| *id == to) else { return };
        // A peer that does not keep up loses messages; the core sends again what matters.
        if outbox.try_send(message).is_err() && !self.unreachable.contains(&to) {
            self.unreachable.push(to);
        }
    }

    fn persist(&mut self, write: LogWrite) {
        // Fails only where the log thread has stopped, and that has been reported.
        let _ = self.to_log.send(write);
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let _ = self.to_machine.send(entries);
    }
}

struct Turn<S: LogReader> {
    node: Node<S, Waiter>,
    shared: Arc<Shared>,
    peer_inbox: Receiver<Input<Waiter>>,
    write_inbox: Receiver<QueuedWrite>,
    done_inbox: Receiver<Done>,
    ports: HostPorts,
    stop: Arc<AtomicBool>,
    inbox: Vec<Input<Waiter>>,
}

impl<S: LogReader> Turn<S> {
    fn run(mut self) -> Result<(), String> {
        let tick = self.shared.settings.raft.tick;
        let mut next_tick = Instant::now() + tick;
        let mut next_progress = Instant::now();
        while !self.stop.load(Relaxed) {
            self.wait_until(next_tick);
            self.collect();
            let now = Instant::now();
            let mut ticks = 0;
            while next_tick <= now {
                next_tick += tick;
                ticks += 1;
                if ticks == TICKS_CAUGHT_UP_MAX {
                    next_tick = next_tick.max(now + tick / 2);
                    break;
                }
            }
            self.inbox.extend((0..ticks).map(|_| Input::Tick));
            self.collect_writes(now);

            self.node.turn(self.inbox.drain(..), &mut self.ports).map_err(|fault| fault.to_string())?;
            self.inbox.extend(self.ports.unreachable.drain(..).map(Input::Unreachable));
            self.publish();
            if now >= next_progress {
                next_progress = now + PROGRESS_INTERVAL;
                self.publish_progress();
            }
        }
        Ok(())
    }

    /// Sleeps until something comes in or the tick is due. What comes in goes to the inbox.
    fn wait_until(&mut self, tick: Instant) {
        if !self.inbox.is_empty() {
            return;
        }
        let now = Instant::now();
        crossbeam_channel::select! {
            recv(self.done_inbox) -> done => self.inbox.extend(done.ok().map(Input::from)),
            recv(self.peer_inbox) -> input => self.inbox.extend(input.ok()),
            recv(self.write_inbox) -> write => if let Ok(write) = write { self.take_write(write, now) },
            default(tick.saturating_duration_since(now)) => {}
        }
    }

    fn collect(&mut self) {
        self.inbox.extend(self.done_inbox.try_iter().map(Input::from));
        self.inbox.extend(self.peer_inbox.try_iter().take(PEER_INBOX_MAX));
    }

    fn collect_writes(&mut self, now: Instant) {
        for _ in 0..WRITES_PER_TURN_MAX {
            match self.write_inbox.try_recv() {
                Ok(write) => self.take_write(write, now),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn take_write(&mut self, write: QueuedWrite, now: Instant) {
        if write.deadline <= now {
            let _ = write.waiter.0.send(Answer::Expired);
        } else {
            self.inbox.push(Input::Write(Write { data: write.data, responder: write.waiter }));
        }
    }

    fn publish(&self) {
        let raft = self.node.raft();
        let leadership = Leadership { role: raft.role(), leader: raft.leader(), term: raft.term() };
        self.shared.leadership.send_if_modified(|published| {
            let changed = *published != leadership;
            if changed {
                let new_term = published.term != leadership.term;
                self.shared.positions.term_changes.fetch_add(u64::from(new_term), Relaxed);
                tracing::info!(role = ?leadership.role, leader = leadership.leader, term = leadership.term, "leadership");
                *published = leadership;
            }
            changed
        });
        let positions = &self.shared.positions;
        positions.last.store(raft.last_index(), Relaxed);
        positions.commit.store(raft.commit_index(), Relaxed);
        positions.pending.store(self.node.pending_writes() as u64, Relaxed);
    }

    fn publish_progress(&self) {
        let status = self.node.raft().status();
        for peer in &self.shared.peers {
            let matched = status.progress.get(&peer.address.id).map_or(0, |progress| progress.match_index);
            peer.match_index.store(matched, Relaxed);
        }
    }
}

fn log_loop(
    mut writer: Box<dyn LogWriter>,
    inbox: &Receiver<LogWrite>,
    done: &Sender<Done>,
    shared: &Shared,
) -> Result<(), String> {
    let mut batch = Vec::new();
    while let Ok(first) = inbox.recv() {
        batch.push(first);
        batch.extend(inbox.try_iter().take(APPENDS_PER_WRITE_MAX - 1));
        writer.write(&batch).map_err(|fault| fault.to_string())?;
        count(&shared.positions.log_writes, 1);
        let _ = done.send(Done::Persisted(batch.len()));
        batch.clear();
    }
    Ok(())
}

fn apply_loop(
    mut machine: Box<dyn Machine>,
    inbox: &Receiver<Vec<Entry>>,
    done: &Sender<Done>,
    shared: &Shared,
) -> Result<(), String> {
    while let Ok(mut entries) = inbox.recv() {
        while entries.len() < ENTRIES_PER_APPLY_MAX {
            match inbox.try_recv() {
                Ok(more) => entries.extend(more),
                Err(_) => break,
            }
        }
        let outcomes = machine.apply(&entries).map_err(|fault| fault.to_string())?;
        if outcomes.len() != entries.len() {
            return Err(format!("the machine answered {} of {} entries", outcomes.len(), entries.len()));
        }
        count(&shared.positions.entries_applied, entries.len() as u64);
        count(&shared.positions.apply_batches, 1);
        shared.applied.send_replace(machine.applied_index());
        let applied = entries
            .iter()
            .zip(outcomes)
            .map(|(entry, outcome)| AppliedEntry { index: entry.index, term: entry.term, outcome })
            .collect();
        let _ = done.send(Done::Applied(applied));
    }
    Ok(())
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}
