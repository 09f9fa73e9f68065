//! One node: its disks, and, while it runs, its process: node loop, log stage, machine stage. Owns what a process does in
//! one step; the world says when.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use bytes::Bytes;
use telegraft_node::{
    AppliedEntry, Input, Node, NodeConfig, NodeFault, Ports, ReadOutcome, Responder, WriteOutcome,
    ports::{LogWrite, MachineFault},
};
use telegraft_raft::{
    Config, Entry, HardState, Index, Message, NodeId, Raft, ReadOnly, Snapshot, Storage,
    defects::{self, Defect},
    invariants,
};

use crate::{
    disk::{LogDisk, OpenError},
    machine::{MachineDisk, RunningMachine},
    settings::{ELECTION_TICKS, LEASE_DRIFT_PPM, Micros, Settings, TICK},
};

/// Which request of which client an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Client.
    pub client: usize,
    /// Number of the client's attempt.
    pub attempt: u64,
    /// Hash of the data proposed; 0 for a read.
    pub data: u64,
}

/// What a node says to a ticket.
#[derive(Clone, Debug)]
pub enum Told {
    /// About a write.
    Write(WriteOutcome),
    /// About a read.
    Read(ReadOutcome),
}

/// Answers of one node that nobody has fetched.
pub type Answers = Rc<RefCell<Vec<(Ticket, Told)>>>;

/// Puts the answer where the world fetches it.
pub struct Waiter {
    /// Whose it is; `None`: an operator's, who does not wait.
    pub ticket: Option<Ticket>,
    /// Where it goes.
    pub answers: Answers,
}

impl Waiter {
    fn put(self, told: Told) {
        if let Some(ticket) = self.ticket {
            self.answers.borrow_mut().push((ticket, told));
        }
    }
}

impl Responder for Waiter {
    fn respond(self, outcome: WriteOutcome) {
        self.put(Told::Write(outcome));
    }
    fn respond_read(self, outcome: ReadOutcome) {
        self.put(Told::Read(outcome));
    }
}

/// What the machine stage is to do.
pub enum MachineJob {
    /// Apply entries.
    Apply(Vec<Entry>),
    /// Restore from a snapshot.
    Restore(Snapshot),
    /// Make a snapshot of what is applied; then compact the log so far behind it.
    Snapshot {
        /// Entries to keep before the snapshot.
        compact_behind: u64,
    },
    /// Make what is applied durable.
    MakeDurable,
}

/// What a turn asked for.
#[derive(Default)]
pub struct Asked {
    /// To peers.
    pub messages: Vec<Message>,
    /// To the log stage.
    pub writes: Vec<LogWrite>,
    /// To the machine stage.
    pub jobs: Vec<MachineJob>,
}

impl Ports for Asked {
    fn send(&mut self, message: Message) {
        self.messages.push(message);
    }
    fn persist(&mut self, write: LogWrite) {
        self.writes.push(write);
    }
    fn apply(&mut self, entries: Vec<Entry>) {
        self.jobs.push(MachineJob::Apply(entries));
    }
    fn restore(&mut self, snapshot: Snapshot) {
        self.jobs.push(MachineJob::Restore(snapshot));
    }
}

/// A process that runs.
pub struct Running {
    /// The node loop.
    pub node: Node<LogDisk, Waiter>,
    /// The machine.
    pub machine: Box<dyn RunningMachine>,
    /// What came in since the last turn.
    pub inbox: Vec<Input<Waiter>>,
    /// Whether a turn is due already.
    pub turn_due: bool,
    /// Waits for the log stage.
    pub writes: VecDeque<LogWrite>,
    /// Writes that the log stage is at.
    pub writing: usize,
    /// Waits for the machine stage.
    pub jobs: VecDeque<MachineJob>,
    /// Whether the machine stage is at something.
    pub machine_busy: bool,
    /// The core as the checkers last saw it.
    pub seen: invariants::Observation,
    /// The index of the configuration in force then.
    pub conf_seen: Index,
}

/// A node's place in the world: what outlives its processes.
pub struct Process {
    /// Its id.
    pub id: NodeId,
    /// Counts its processes.
    pub incarnation: u64,
    /// The log's disk.
    pub disk: LogDisk,
    /// The machine's disk.
    pub machine_disk: Box<dyn MachineDisk>,
    /// The process, while there is one.
    pub running: Option<Running>,
    /// Answers that the process gave.
    pub answers: Answers,
    /// Nothing of the process happens before then.
    pub paused_until: Micros,
    /// Most that a sync takes.
    pub disk_delay_max: Micros,
    /// Most that the machine takes for a batch.
    pub machine_delay_max: Micros,
    /// Until when disk or machine are slow, and the disk is full.
    pub slow_until: Micros,
    /// See `slow_until`.
    pub full_until: Micros,
    /// A bit of the disk has flipped.
    pub flipped: bool,
    /// It was seen that the disk is damaged: it starts no more.
    pub damaged: bool,
    /// The world wants it down until then.
    pub down_until: Micros,
    /// What the machine said is durable.
    pub machine_durable: Index,
}

/// Why a process did not start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The machine cannot be opened.
    #[error(transparent)]
    Machine(#[from] MachineFault),
    /// Log and machine do not fit together, or the core refuses what it finds.
    #[error("{0}")]
    Refused(String),
}

impl Process {
    /// A node whose disks are new.
    pub fn new(id: NodeId, disk: LogDisk, machine_disk: Box<dyn MachineDisk>) -> Self {
        Process {
            id,
            incarnation: 0,
            disk,
            machine_disk,
            running: None,
            answers: Answers::default(),
            paused_until: 0,
            disk_delay_max: DISK_DELAY,
            machine_delay_max: MACHINE_DELAY,
            slow_until: 0,
            full_until: 0,
            flipped: false,
            damaged: false,
            down_until: 0,
            machine_durable: 0,
        }
    }

    /// Starts a process on what the disks hold, as a host does.
    ///
    /// # Errors
    /// Why it refuses to run.
    pub fn start(&mut self, settings: &Settings) -> Result<(), StartError> {
        self.disk.open()?;
        let machine = self.machine_disk.open()?;
        self.mend_log(&*machine)?;
        let applied = machine.applied_index();
        if applied > self.disk.last_index() {
            return Err(StartError::Refused(format!(
                "the machine has applied entry {applied}, but the log ends at {}",
                self.disk.last_index()
            )));
        }
        self.incarnation += 1;
        let own = settings.node(self.id);
        let config = Config {
            election_ticks: ELECTION_TICKS,
            pre_vote: own.pre_vote,
            check_quorum: own.check_quorum,
            message_bytes_max: settings.message_bytes_max,
            inflight_messages_max: settings.inflight_messages_max,
            inflight_bytes_max: settings.inflight_bytes_max,
            committed_bytes_per_ready_max: settings.committed_bytes_max,
            step_down_on_removal: settings.step_down_on_removal,
            async_storage_writes: true,
            read_only: ReadOnly::Safe,
            applied,
            ..Config::new(self.id, settings.seed ^ (self.id << 32) ^ self.incarnation)
        };
        let raft = Raft::new(config, self.disk.clone()).map_err(|e| StartError::Refused(e.to_string()))?;
        let lease =
            Duration::from_micros(u64::from(ELECTION_TICKS - 1) * TICK * (1_000_000 - LEASE_DRIFT_PPM) / 1_000_000);
        let config = NodeConfig {
            pending_writes_max: 1_000,
            pending_reads_max: 1_000,
            read_again_ticks: ELECTION_TICKS,
            lease: settings.lease.then_some(lease),
            election_ticks: ELECTION_TICKS,
            incarnation: (self.id << 32) | self.incarnation,
        };
        let seen = invariants::observe(&raft);
        let node = Node::new(raft, self.disk.conf_index(), config);
        self.running = Some(Running {
            node,
            machine,
            inbox: Vec::new(),
            turn_due: false,
            writes: VecDeque::new(),
            writing: 0,
            jobs: VecDeque::new(),
            machine_busy: false,
            seen,
            conf_seen: self.disk.conf_index(),
        });
        Ok(())
    }

    /// The machine may have been restored from a snapshot that the log never heard of; and it may have applied more than
    /// the log knows to be committed.
    fn mend_log(&self, machine: &dyn RunningMachine) -> Result<(), StartError> {
        let applied = machine.applied_index();
        let (hard_state, _) = self.disk.initial_state().map_err(|e| StartError::Refused(e.to_string()))?;
        let mut write = LogWrite { must_sync: true, ..LogWrite::default() };
        if let Some(meta) = machine.restored_from().filter(|_| !defects::active(Defect::LogBehindSnapshot)) {
            let known = meta.index < self.disk.first_index() || self.disk.term(meta.index) == Ok(meta.term);
            if !known {
                let term = hard_state.term.max(meta.term);
                let vote = if term == hard_state.term { hard_state.vote } else { 0 };
                write.hard_state = Some(HardState { term, vote, commit: applied.max(hard_state.commit) });
                write.snapshot = Some(meta);
            }
        }
        if write.snapshot.is_none() && applied > hard_state.commit && applied <= self.disk.last_index() {
            write.hard_state = Some(HardState { commit: applied, ..hard_state });
        }
        if write.hard_state.is_some() {
            let mended = self.disk.write(&[write]).and_then(|()| self.disk.sync());
            mended.map_err(|fault| StartError::Refused(fault.to_string()))?;
        }
        Ok(())
    }

    /// The process is gone, and what its machine had in memory with it.
    pub fn stop(&mut self) {
        self.running = None;
        self.answers.borrow_mut().clear();
        self.disk.process_died();
    }

    /// The faults have ended.
    pub fn recover(&mut self, now: Micros) {
        self.paused_until = self.paused_until.min(now);
        self.down_until = self.down_until.min(now);
        self.disk_delay_max = DISK_DELAY;
        self.machine_delay_max = MACHINE_DELAY;
        self.disk.set_full(false);
    }

    /// Hands in what came for the process, if there is one.
    pub fn receive(&mut self, input: Input<Waiter>) -> bool {
        let Some(running) = &mut self.running else { return false };
        running.inbox.push(input);
        true
    }

    /// A waiter for an answer of this process.
    pub fn waiter(&self, ticket: Option<Ticket>) -> Waiter {
        Waiter { ticket, answers: Rc::clone(&self.answers) }
    }
}

/// Most that a sync takes on a disk in good health.
pub const DISK_DELAY: Micros = 4_000;
/// Most that a machine in good health takes for a batch.
pub const MACHINE_DELAY: Micros = 3_000;
/// Entries that one batch of the machine takes in.
const ENTRIES_PER_APPLY_MAX: usize = 64;

impl Running {
    /// One turn; what it asked for.
    ///
    /// # Errors
    /// When the node cannot go on.
    pub fn turn(&mut self, now: Duration) -> Result<Asked, NodeFault> {
        self.turn_due = false;
        let mut asked = Asked::default();
        let inbox = std::mem::take(&mut self.inbox);
        self.node.turn(now, inbox, &mut asked)?;
        Ok(asked)
    }

    /// The next job of the machine stage, entries together.
    pub fn next_job(&mut self) -> Option<MachineJob> {
        let mut job = self.jobs.pop_front()?;
        if let MachineJob::Apply(entries) = &mut job {
            while entries.len() < ENTRIES_PER_APPLY_MAX
                && let Some(MachineJob::Apply(more)) = self.jobs.front_mut()
            {
                entries.append(more);
                self.jobs.pop_front();
            }
        }
        Some(job)
    }

    /// Applies entries, and gives what the node is to hear of it.
    ///
    /// # Errors
    /// The machine's own defect.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Vec<AppliedEntry>, MachineFault> {
        let outcomes = self.machine.apply(entries)?;
        if let Some(why) = self.machine.halted() {
            return Err(MachineFault(format!("it halted: {why}")));
        }
        if outcomes.len() != entries.len() {
            return Err(MachineFault(format!("{} outcomes for {} entries", outcomes.len(), entries.len())));
        }
        let applied = |(entry, outcome): (&Entry, _)| AppliedEntry { index: entry.index, term: entry.term, outcome };
        Ok(entries.iter().zip(outcomes).map(applied).collect())
    }
}

/// The data of an entry, as a number.
pub fn data_hash(data: &Bytes) -> u64 {
    crate::trace::hash(data) | 1
}
