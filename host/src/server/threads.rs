//! The threads a node runs on, and the channels between them.
//!
//! ```text
//! peers ──────────▶ ┐                 ┌─▶ log thread    one synced write for all that waits ──▶ done
//! reads, writes ──▶ ├─▶ turn thread ──┼─▶ apply thread  one transaction for all that waits ──▶ done
//! done ───────────▶ ┘   (node.turn)   └─▶ peers' streams (see `peers`)
//! ```
//!
//! `inbox` owns the queues into the turn thread, `turn` what that does; here are the other two, and how all are started
//! and stopped.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use futures::FutureExt as _;
use telegraft_node::{
    AppliedEntry, Input, Node,
    ports::{LogReader, LogWrite, LogWriter, Machine},
};
use telegraft_raft::{Entry, Message, NodeId, Snapshot};
use tokio::sync::mpsc;

use super::{
    inbox::{NodeHandle, Waiter},
    shared::Shared,
    turn::{HostPorts, Turn},
};

/// Entries that one transaction of the machine takes in.
const ENTRIES_PER_APPLY_MAX: usize = 1_024;
/// Appends that one write of the log takes in.
const APPENDS_PER_WRITE_MAX: usize = 1_024;

/// The threads of one node.
pub struct Threads {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

/// Where messages to peers go: one bounded queue for each, by its id.
pub type Outboxes = Vec<(NodeId, mpsc::Sender<Message>)>;

/// What the log and the machine have done.
pub enum Done {
    /// So many of the oldest writes.
    Persisted(usize),
    /// These entries.
    Applied(Vec<AppliedEntry>),
    /// A restoration.
    Restored,
}

impl From<Done> for Input<Waiter> {
    fn from(done: Done) -> Self {
        match done {
            Done::Persisted(count) => Input::Persisted { count },
            Done::Applied(entries) => Input::Applied(entries),
            Done::Restored => Input::Restored,
        }
    }
}

/// What the machine is to do.
pub enum MachineWork {
    /// Apply these.
    Apply(Vec<Entry>),
    /// Become this.
    Restore(Snapshot),
}

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
        let (handle, inboxes) = NodeHandle::new();
        let (done, done_inbox) = unbounded();
        // Bounded by the core: it hands out no more than its limits of uncommitted and unapplied bytes.
        let (to_log, log_inbox) = unbounded();
        let (to_machine, machine_inbox) = unbounded();

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
            inboxes,
            done: done_inbox,
            ports: HostPorts::new(outboxes, to_log, to_machine),
            stop: stop.clone(),
            inbox: Vec::new(),
        };
        handles.push(spawn("turn", faults, move || turn.run())?);
        Ok((Self { stop, handles }, handle))
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
    inbox: &Receiver<MachineWork>,
    done: &Sender<Done>,
    shared: &Shared,
) -> Result<(), String> {
    let mut waiting = None;
    while let Some(work) = waiting.take().or_else(|| inbox.recv().ok()) {
        match work {
            MachineWork::Apply(mut entries) => {
                while entries.len() < ENTRIES_PER_APPLY_MAX && waiting.is_none() {
                    match inbox.try_recv() {
                        Ok(MachineWork::Apply(more)) => entries.extend(more),
                        Ok(other) => waiting = Some(other),
                        Err(_) => break,
                    }
                }
                let _ = done.send(Done::Applied(apply(machine.as_mut(), &entries, shared)?));
            }
            MachineWork::Restore(snapshot) => {
                machine.restore(&snapshot).map_err(|fault| fault.to_string())?;
                tracing::info!(index = snapshot.meta.index, "the machine was restored from the leader's snapshot");
                shared.applied.send_replace(machine.applied_index());
                let _ = done.send(Done::Restored);
            }
        }
    }
    Ok(())
}

fn apply(machine: &mut dyn Machine, entries: &[Entry], shared: &Shared) -> Result<Vec<AppliedEntry>, String> {
    let outcomes = machine.apply(entries).map_err(|fault| fault.to_string())?;
    if outcomes.len() != entries.len() {
        return Err(format!("the machine answered {} of {} entries", outcomes.len(), entries.len()));
    }
    count(&shared.positions.entries_applied, entries.len() as u64);
    count(&shared.positions.apply_batches, 1);
    shared.applied.send_replace(machine.applied_index());
    let outcomes = entries.iter().zip(outcomes);
    Ok(outcomes.map(|(entry, outcome)| AppliedEntry { index: entry.index, term: entry.term, outcome }).collect())
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}
