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

#[cfg(test)]
mod tests {
    use telegraft_node::ports::{MachineFault, Outcome};
    use telegraft_proto::internal::{Call, Checkpoint, DigestReport};
    use telegraft_raft::{ConfState, Index, SnapshotMeta};

    use super::*;
    use crate::settings::Settings;

    /// A machine that halts at an entry, as one does whose engine is not that of the activation.
    struct Halting {
        applied: Index,
        /// The entry that it does not apply, until it is restored.
        at: Option<Index>,
        /// Whether it says that it has halted.
        says_so: bool,
    }

    impl Machine for Halting {
        fn applied_index(&self) -> Index {
            self.applied
        }

        fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, MachineFault> {
            let before = |entry: &&Entry| self.at.is_none_or(|at| entry.index < at);
            let done: Vec<Outcome> = entries.iter().take_while(before).map(|_| Ok(Bytes::new())).collect();
            self.applied += done.len() as u64;
            Ok(done)
        }

        fn make_durable(&mut self) -> Result<Index, MachineFault> {
            Ok(self.applied)
        }

        fn snapshot(&mut self) -> Result<Bytes, MachineFault> {
            Ok(Bytes::new())
        }

        fn restore(&mut self, snapshot: &Snapshot) -> Result<(), MachineFault> {
            (self.applied, self.at) = (snapshot.meta.index, None);
            Ok(())
        }

        fn restored_from(&self) -> Option<SnapshotMeta> {
            None
        }

        fn halted(&self) -> Option<String> {
            self.at.filter(|at| self.says_so && self.applied + 1 == *at).map(|at| format!("another engine at {at}"))
        }

        fn take_proposals(&mut self) -> Vec<Bytes> {
            vec![Bytes::from(self.applied.to_string())]
        }
    }

    fn entries(indexes: std::ops::RangeInclusive<Index>) -> MachineWork {
        let entry = |index| Entry { term: 1, index, kind: EntryKind::Normal, data: Bytes::new() };
        MachineWork::Apply(indexes.map(entry).collect())
    }

    /// How the apply thread ended, the batches it answered, what the host knows, and what was proposed.
    type Ran = (Result<(), String>, Vec<Vec<Index>>, Arc<Shared>, Vec<Bytes>);

    /// What the apply thread does with this work, and what the host knows afterwards.
    fn done_with(machine: Halting, work: impl IntoIterator<Item = MachineWork>) -> Ran {
        let shared = Shared::new(Settings::default(), machine.applied);
        let (done, done_inbox) = unbounded();
        let (proposals, mut proposed) = mpsc::channel(8);
        let (to_machine, inbox) = unbounded();
        for one in work {
            to_machine.send(one).unwrap();
        }
        drop(to_machine);
        let result = apply_loop(Box::new(machine), &inbox, &done, &shared, &proposals);
        drop((done, proposals));
        let applied = done_inbox.iter().filter_map(|done| match done {
            Done::Applied(entries) => Some(entries.iter().map(|entry| entry.index).collect()),
            _ => None,
        });
        let applied = applied.collect();
        (result, applied, shared, std::iter::from_fn(|| proposed.try_recv().ok()).collect())
    }

    #[test]
    fn a_machine_that_halts_answers_what_came_before_and_leaves_the_rest_until_it_is_restored() {
        let halting = || Halting { applied: 0, at: Some(4), says_so: true };
        let snapshot = |index| {
            let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
            MachineWork::Restore(Snapshot { meta: SnapshotMeta { conf_state, index, term: 1 }, data: Bytes::new() })
        };
        let (result, applied, shared, proposed) = done_with(halting(), [entries(1..=6)]);
        assert_eq!((result, applied), (Ok(()), vec![vec![1, 2, 3]]));
        assert_eq!(shared.halted().as_deref(), Some("another engine at 4"));
        assert_eq!((shared.applied_index(), proposed), (3, vec![Bytes::from("3")]), "asked for up to where it got");

        // What is handed over later is drained; a snapshot brings it back, whatever came between.
        let (_, applied, shared, _) = done_with(halting(), [entries(1..=6), snapshot(3), entries(4..=5)]);
        assert_eq!(applied, [vec![1, 2, 3], vec![4, 5]]);
        assert_eq!((shared.halted(), shared.applied_index()), (None, 5));
        let nothing = Halting { applied: 3, ..halting() };
        assert!(done_with(nothing, [entries(4..=6)]).1.is_empty(), "no answer without an entry");
    }

    #[test]
    fn answers_that_are_missing_without_a_reason_are_a_fault() {
        let (result, applied, ..) = done_with(Halting { applied: 0, at: Some(4), says_so: false }, [entries(1..=6)]);
        assert!(result.unwrap_err().contains("3 of 6 entries"), "nobody may wait for ever");
        assert!(applied.is_empty());
    }

    #[test]
    fn checkpoints_and_their_answers_are_no_work() {
        let shared = Shared::new(Settings::default(), 0);
        let seen = |index, body: Option<Body>| {
            let data = Bytes::from(Command { time_us: u64::MAX, body, ..Command::default() }.encode_to_vec());
            note(&Entry { term: 1, index, kind: EntryKind::Normal, data }, &shared);
            (shared.positions.work.load(Relaxed), shared.positions.checkpoint.load(Relaxed))
        };
        let digest = Bytes::from_static(&[0xff; 32]);
        assert_eq!(seen(1, Some(Body::Call(Call::default()))), (1, 0));
        assert_eq!(seen(2, Some(Body::Checkpoint(Checkpoint { voters: u32::MAX }))), (1, 2));
        let report = DigestReport { index: u64::MAX, host_id: u64::MAX, digest };
        assert_eq!(seen(3, Some(Body::DigestReport(report))), (1, 2), "short enough to be looked into");
        let long = Call { payload: Bytes::from_static(&[0; VERIFICATION_BYTES_MAX]), ..Call::default() };
        assert_eq!(seen(4, Some(Body::Call(long))), (4, 2));
        note(&Entry { term: 2, index: 5, kind: EntryKind::Normal, data: Bytes::new() }, &shared);
        assert_eq!(shared.positions.work.load(Relaxed), 4, "a new leader's empty entry");
    }
}
