//! The turn thread: collects what has come in, lets the node take its turn, and carries out what it asks for.
//!
//! It takes completions first, then peers' messages, then clients' reads and writes: under load, what is under way ends
//! before something new begins. Batches form by themselves: whatever arrived while the log synced is the next batch.
//!
//! Ticks stand for time that the process could use: no more than two come in one turn, after the messages that have
//! arrived, and what was due beyond them is forgotten. So of the ticks that follow a message, two may come at once and the
//! third half a tick later: `n` of them take more than `n - 3` whole ticks of the clock, which is what
//! [`RaftSettings::lease`](crate::settings::RaftSettings::lease) builds on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use nix::time::{ClockId, clock_gettime};
use telegraft_node::{Input, Node, Ports, Write, ports::LogReader, ports::LogWrite};
use telegraft_raft::{Entry, Message, MessageKind, NodeId, Role, Snapshot};

use super::{
    inbox::{HandOver, Inboxes, PEER_INBOX_MAX, QueuedRead, QueuedWrite, Waiter},
    shared::{Leadership, Shared},
    threads::{Done, MachineWork, Outboxes},
    transfer,
};

/// Clients' writes that one turn takes in.
const WRITES_PER_TURN_MAX: usize = 2_048;
/// Clients' reads that one turn takes in.
const READS_PER_TURN_MAX: usize = 4_096;
/// Ticks made up for after a pause of the process. More would let a paused leader give up, or a paused follower campaign,
/// on the strength of time that nobody could have used.
const TICKS_CAUGHT_UP_MAX: u32 = 2;
/// Time between two looks at the peers' progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A clock that goes on while this process is paused and while the machine is suspended. Only leases look at it. (A
/// virtual machine that is frozen together with its clock notices nothing: leases are not for such.)
#[cfg(target_os = "linux")]
const LEASE_CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const LEASE_CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

fn lease_clock() -> Result<Duration, String> {
    clock_gettime(LEASE_CLOCK)
        .map(Duration::from)
        .map_err(|error| format!("the system's clock cannot be read: {error}"))
}

/// What the node asks for, and where it goes.
pub struct HostPorts {
    outboxes: Outboxes,
    to_log: Sender<LogWrite>,
    to_machine: Sender<MachineWork>,
    /// Word of peers whose queue was full, for the next turn.
    word: Vec<Input<Waiter>>,
}

impl HostPorts {
    /// Ports to these queues.
    pub fn new(outboxes: Outboxes, to_log: Sender<LogWrite>, to_machine: Sender<MachineWork>) -> Self {
        Self { outboxes, to_log, to_machine, word: Vec::new() }
    }

    /// A peer that does not keep up loses messages; the core sends again what matters.
    fn was_full(&mut self, to: NodeId, lost_a_snapshot: bool) {
        if lost_a_snapshot {
            self.word.push(Input::SnapshotSent { to, arrived: false });
        }
        if !self.word.iter().any(|input| matches!(input, Input::Unreachable(peer) if *peer == to)) {
            self.word.push(Input::Unreachable(to));
        }
    }
}

impl Ports for HostPorts {
    fn send(&mut self, message: Message) {
        let (to, is_snapshot) = (message.to, message.kind == MessageKind::Snapshot);
        let Some((_, outbox)) = self.outboxes.iter().find(|(id, _)| *id == to) else { return };
        if outbox.try_send(message).is_err() {
            self.was_full(to, is_snapshot);
        }
    }

    fn persist(&mut self, write: LogWrite) {
        // Fails only where the log thread has stopped, and that has been reported.
        let _ = self.to_log.send(write);
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let _ = self.to_machine.send(MachineWork::Apply(entries));
    }

    fn restore(&mut self, snapshot: Snapshot) {
        let _ = self.to_machine.send(MachineWork::Restore(snapshot));
    }
}

/// The node and all that it needs.
pub struct Turn<S: LogReader> {
    /// The node.
    pub node: Node<S, Waiter>,
    /// Where its state is told.
    pub shared: Arc<Shared>,
    /// What others hand in.
    pub inboxes: Inboxes,
    /// What the log and apply threads have done.
    pub done: Receiver<Done>,
    /// What it asks for.
    pub ports: HostPorts,
    /// Set when the thread is to end.
    pub stop: Arc<AtomicBool>,
    /// What the next turn takes in.
    pub inbox: Vec<Input<Waiter>>,
}

impl<S: LogReader> Turn<S> {
    /// Turn after turn, until told to stop.
    ///
    /// # Errors
    ///
    /// When the node cannot go on.
    pub fn run(mut self) -> Result<(), String> {
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
            self.collect_of_clients(now);

            // Read only now: a read that came in during a pause of this process must not be judged by a time before it.
            let lease_now = lease_clock()?;
            self.node.turn(lease_now, self.inbox.drain(..), &mut self.ports).map_err(|fault| fault.to_string())?;
            self.inbox.append(&mut self.ports.word);
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
            recv(self.done) -> done => self.inbox.extend(done.ok().map(Input::from)),
            recv(self.inboxes.peers) -> input => self.inbox.extend(input.ok()),
            recv(self.inboxes.writes) -> write => if let Ok(write) = write { self.take_write(write, now) },
            recv(self.inboxes.reads) -> read => if let Ok(read) = read { self.take_read(read, now) },
            recv(self.inboxes.transfers) -> order => if let Ok(order) = order { self.hand_over(order) },
            default(tick.saturating_duration_since(now)) => {}
        }
    }

    fn collect(&mut self) {
        self.inbox.extend(self.done.try_iter().map(Input::from));
        self.inbox.extend(self.inboxes.peers.try_iter().take(PEER_INBOX_MAX));
    }

    fn collect_of_clients(&mut self, now: Instant) {
        while let Ok(order) = self.inboxes.transfers.try_recv() {
            self.hand_over(order);
        }
        for _ in 0..READS_PER_TURN_MAX {
            match self.inboxes.reads.try_recv() {
                Ok(read) => self.take_read(read, now),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        for _ in 0..WRITES_PER_TURN_MAX {
            match self.inboxes.writes.try_recv() {
                Ok(write) => self.take_write(write, now),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
    }

    fn take_write(&mut self, write: QueuedWrite, now: Instant) {
        if write.deadline <= now {
            write.waiter.expired();
        } else {
            self.inbox.push(Input::Write(Write { data: write.data, responder: write.waiter }));
        }
    }

    fn take_read(&mut self, read: QueuedRead, now: Instant) {
        if read.deadline <= now {
            read.waiter.expired();
        } else {
            self.inbox.push(Input::Read(read.waiter));
        }
    }

    fn hand_over(&mut self, order: HandOver) {
        let choice = transfer::choose(&self.shared, self.node.raft(), order.to);
        if let Ok(to) = choice
            && to != self.shared.id()
        {
            tracing::info!(to, "handing leadership over");
            self.inbox.push(Input::TransferLeader(to));
        }
        // Whoever asked may be gone; what was begun goes on.
        let _ = order.answer.send(choice);
    }

    fn publish(&self) {
        let raft = self.node.raft();
        let leadership = Leadership { role: raft.role(), leader: raft.leader(), term: raft.term() };
        self.shared.leadership.send_if_modified(|published| {
            let changed = *published != leadership;
            if changed {
                let new_term = published.term != leadership.term;
                self.shared.positions.term_changes.fetch_add(u64::from(new_term), Relaxed);
                if leadership.role == Role::Leader {
                    self.shared.begins_to_lead();
                }
                tracing::info!(role = ?leadership.role, leader = leadership.leader, term = leadership.term, "leadership");
                *published = leadership;
            }
            changed
        });
        let positions = &self.shared.positions;
        positions.last.store(raft.last_index(), Relaxed);
        positions.commit.store(raft.commit_index(), Relaxed);
        positions.pending.store(self.node.pending_writes() as u64, Relaxed);
        positions.pending_reads.store(self.node.pending_reads() as u64, Relaxed);
    }

    fn publish_progress(&self) {
        let status = self.node.raft().status();
        for peer in &self.shared.peers {
            let matched = status.progress.get(&peer.address.id).map_or(0, |progress| progress.match_index);
            peer.match_index.store(matched, Relaxed);
        }
    }
}
