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

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use futures::FutureExt as _;
use prost::Message as _;
use telegraft_node::{
    AppliedEntry, Input, Node,
    ports::{LogReader, LogWrite, LogWriter, Machine},
};
use telegraft_proto::internal::{Command, command::Body};
use telegraft_raft::{Entry, EntryKind, Message, NodeId, Snapshot};
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

/// A command longer than this is neither a checkpoint nor a report (some 60 bytes each): it is not looked into.
const VERIFICATION_BYTES_MAX: usize = 128;

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
    /// Starts the node's threads. What the machine asks to be proposed goes to `proposals`. A fault of any of them is sent to
    /// `faults`; the process should then end.
    pub fn start<S: LogReader>(
        node: Node<S, Waiter>,
        writer: Box<dyn LogWriter>,
        machine: Box<dyn Machine>,
        outboxes: Outboxes,
        shared: Arc<Shared>,
        proposals: mpsc::Sender<Bytes>,
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
        handles.push(spawn("apply", faults.clone(), move || {
            apply_loop(machine, &machine_inbox, &done, &apply_shared, &proposals)
        })?);
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
    proposals: &mpsc::Sender<Bytes>,
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
                // A machine that has halted stays where it is: the core sees no progress, and soon hands out no more.
                if shared.halted().is_some() {
                    continue;
                }
                let applied = apply(machine.as_mut(), &entries, shared)?;
                if !applied.is_empty() {
                    let _ = done.send(Done::Applied(applied));
                }
                for proposal in machine.take_proposals() {
                    // One that finds no room is lost, which does no harm.
                    let _ = proposals.try_send(proposal);
                }
            }
            MachineWork::Restore(snapshot) => {
                machine.restore(&snapshot).map_err(|fault| fault.to_string())?;
                tracing::info!(index = snapshot.meta.index, "the machine was restored from the leader's snapshot");
                // Another state may be one that it can go on from.
                shared.set_halted(machine.halted());
                shared.applied.send_replace(machine.applied_index());
                let _ = done.send(Done::Restored);
            }
        }
    }
    Ok(())
}

fn apply(machine: &mut dyn Machine, entries: &[Entry], shared: &Shared) -> Result<Vec<AppliedEntry>, String> {
    let outcomes = machine.apply(entries).map_err(|fault| fault.to_string())?;
    let halted = machine.halted();
    if outcomes.len() > entries.len() || (outcomes.len() < entries.len() && halted.is_none()) {
        return Err(format!("the machine answered {} of {} entries", outcomes.len(), entries.len()));
    }
    count(&shared.positions.entries_applied, outcomes.len() as u64);
    count(&shared.positions.apply_batches, 1);
    entries.iter().take(outcomes.len()).for_each(|entry| note(entry, shared));
    // Before the index is told: who waits for that must not read a state that is not to be trusted.
    shared.set_halted(halted);
    shared.applied.send_replace(machine.applied_index());
    let applied = entries.iter().zip(outcomes);
    Ok(applied.map(|(entry, outcome)| AppliedEntry { index: entry.index, term: entry.term, outcome }).collect())
}

/// Notes whether an applied entry is a checkpoint, and whether it gives reason for another one.
fn note(entry: &Entry, shared: &Shared) {
    if entry.kind != EntryKind::Normal || entry.data.is_empty() {
        return;
    }
    let short = entry.data.len() <= VERIFICATION_BYTES_MAX;
    let body = if short { Command::decode(entry.data.clone()).ok().and_then(|command| command.body) } else { None };
    match body {
        Some(Body::Checkpoint(_)) => shared.positions.checkpoint.store(entry.index, Relaxed),
        Some(Body::DigestReport(_)) => {}
        _ => shared.positions.work.store(entry.index, Relaxed),
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}
