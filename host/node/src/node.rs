//! The node itself: the stages of one turn. Owns the core, and the writes and reads that wait for their answers.

use std::time::Duration;

use bytes::Bytes;
use telegraft_raft::{
    ConfChangeKind, ConfChangeV2, ConfState, Entry, EntryKind, HardState, Index, Message, MessageKind, NodeId,
    ProposeError, Raft, Ready, Role, Snapshot, SnapshotMeta, Storage, Term,
    defects::{self, Defect},
};

use crate::{
    lease::{Leases, Reign},
    order::{Configurations, Order, Promises},
    pending::{Pending, ReadOutcome, Responder, WriteOutcome},
    ports::{ConfAt, LogWrite, Outcome},
    reads::Reads,
};

/// What a node asks of the world around it. None of these may block on durability or on a peer.
pub trait Ports {
    /// Sends a message to `message.to`. May drop it; must not reorder what it does not drop more than the network would.
    fn send(&mut self, message: Message);
    /// Makes a write durable, after all earlier ones; then comes [`Input::Persisted`].
    fn persist(&mut self, write: LogWrite);
    /// Applies committed entries, after all earlier ones; then comes [`Input::Applied`].
    fn apply(&mut self, entries: Vec<Entry>);
    /// Restores the machine from a snapshot, after all entries handed over earlier; then comes [`Input::Restored`].
    fn restore(&mut self, snapshot: Snapshot);
}

/// Something that happened since the last turn.
pub enum Input<R> {
    /// The oldest `count` writes handed to [`Ports::persist`] and not yet reported are durable.
    Persisted {
        /// How many.
        count: usize,
    },
    /// These entries, the oldest handed to [`Ports::apply`] and not yet reported, have been applied.
    Applied(Vec<AppliedEntry>),
    /// The machine holds the snapshot handed to [`Ports::restore`], durably.
    Restored,
    /// A message from a peer.
    Peer(Message),
    /// The network could not deliver to this peer.
    Unreachable(NodeId),
    /// The snapshot sent to this peer arrived there, or did not.
    SnapshotSent {
        /// The peer.
        to: NodeId,
        /// Whether the whole of it was handed over.
        arrived: bool,
    },
    /// One unit of the core's time passed.
    Tick,
    /// A client's write.
    Write(Write<R>),
    /// A client's read: answered once this node's machine has all that was committed by now, wherever the leader is.
    Read(R),
    /// An operator's change of the members; answered as a write is.
    ChangeMembers {
        /// What to change.
        change: ConfChangeV2,
        /// Gets the answer.
        responder: R,
    },
    /// An operator's wish that this peer lead; given up after an election timeout. A follower hands it on.
    TransferLeader(NodeId),
}

/// A client's write.
pub struct Write<R> {
    /// Data of the entry to propose.
    pub data: Bytes,
    /// Gets the answer.
    pub responder: R,
}

/// What applying one entry gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedEntry {
    /// The entry's index.
    pub index: Index,
    /// The entry's term.
    pub term: Term,
    /// The machine's answer.
    pub outcome: Outcome,
}

/// Settings of the node itself; those of the core are in [`telegraft_raft::Config`].
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Writes that may wait for their answers at once; further ones are refused as overload.
    pub pending_writes_max: usize,
    /// Reads that may wait at once; further ones are refused as overload.
    pub pending_reads_max: usize,
    /// Ticks after which a read is asked of the leader again: the request or its answer was lost.
    pub read_again_ticks: u32,
    /// How long a leader answers reads by itself after it has proven that it leads; `None`: it proves it each time. All
    /// nodes of a group must agree on whether there are leases; their soundness depends on the drift of the hosts' clocks,
    /// see `lease.rs`.
    pub lease: Option<Duration>,
    /// The core's `election_ticks`: for so long a voter refuses its vote after it heard from a leader, where there are
    /// leases.
    pub election_ticks: u32,
    /// Tells this life of the node from all others: random, or never used before.
    pub incarnation: u64,
}

/// Bytes of writes that are proposed together; a larger one goes alone.
const PROPOSAL_BYTES: usize = 1 << 20;

/// The node cannot go on; the process stops.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("node: {0}")]
pub struct NodeFault(pub String);

/// Consensus core, waiting writes and appends under way; see the crate's head for its turn.
pub struct Node<S: Storage, R> {
    raft: Raft<S>,
    config: NodeConfig,
    pending: Pending<R>,
    reads: Reads<R>,
    leases: Leases,
    order: Order,
    configurations: Configurations,
    /// A commit index that no write has carried yet: it promises nothing, so it goes with the next write that must be
    /// made anyway. (The machine's applied index says as much after a restart.)
    unwritten: Option<HardState>,
    /// Writes of this turn's inbox, proposed together: one append to each peer instead of one a write.
    proposals: Vec<Write<R>>,
    /// Reads of this turn's inbox, asked for together.
    readers: Vec<R>,
}

impl<S: Storage, R: Responder> Node<S, R> {
    /// A node around a core that was built with `async_storage_writes`, on a log whose configuration is of `conf_index`.
    pub fn new(raft: Raft<S>, conf_index: Index, config: NodeConfig) -> Self {
        Self {
            pending: Pending::new(),
            reads: Reads::new(config.incarnation),
            leases: Leases::new(config.lease, config.election_ticks),
            order: Order::default(),
            configurations: Configurations::new(ConfAt { index: conf_index, conf_state: raft.conf_state() }),
            unwritten: None,
            proposals: Vec::new(),
            readers: Vec::new(),
            raft,
            config,
        }
    }

    /// The core, to look at.
    pub fn raft(&self) -> &Raft<S> {
        &self.raft
    }

    /// Writes that wait for their answers.
    pub fn pending_writes(&self) -> usize {
        self.pending.len()
    }

    /// Reads that wait for their answers.
    pub fn pending_reads(&self) -> usize {
        self.reads.len()
    }

    /// What a snapshot of the machine at `index`, an index it has applied, stands for; `None` where the log or the
    /// configuration of that index is no longer known, and for index 0.
    pub fn snapshot_meta(&self, index: Index) -> Option<SnapshotMeta> {
        let conf_state = self.configuration_at(index)?.clone();
        // As the core knows it: while a restoration is on its way to the log, that may still hold another entry there.
        let stale = defects::active(Defect::SnapshotOfStaleTerm);
        let term = if stale { self.raft.storage().term(index) } else { self.raft.term_at(index) };
        let term = term.ok().filter(|_| (1..=self.raft.commit_index()).contains(&index))?;
        Some(SnapshotMeta { conf_state, index, term })
    }

    /// The index of the entry, or snapshot, that brought the configuration in force.
    pub fn conf_index(&self) -> Index {
        self.configurations.newest_index()
    }

    /// The members as of `index`, where still known.
    fn configuration_at(&self, index: Index) -> Option<&ConfState> {
        self.configurations.at(index).map(|conf| &conf.conf_state)
    }

    /// Takes in what happened, in order, and hands out all work that follows from it. `now` is read after the last of the
    /// inbox came in, from a clock that goes on while the process is paused; only leases look at it.
    ///
    /// # Errors
    ///
    /// When the core can no longer read its log, or a promise of the ports was broken. The node must not be used again.
    pub fn turn(
        &mut self,
        now: Duration,
        inbox: impl IntoIterator<Item = Input<R>>,
        ports: &mut impl Ports,
    ) -> Result<(), NodeFault> {
        for input in inbox {
            self.receive(now, input, ports)?;
        }
        self.propose_collected();
        self.ask_for_reads(now);
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            self.carry_out(ready, ports)?;
        }
        match self.raft.fault() {
            Some(fault) => Err(NodeFault(format!("the consensus core cannot go on: {fault}"))),
            None => Ok(()),
        }
    }

    fn receive(&mut self, now: Duration, input: Input<R>, ports: &mut impl Ports) -> Result<(), NodeFault> {
        if !matches!(input, Input::Write(_)) {
            self.propose_collected();
        }
        match input {
            Input::Persisted { count } => {
                for _ in 0..count {
                    let Some(promises) = self.order.durable(ports) else {
                        return Err(NodeFault(
                            "the log reported a write as durable that was never handed to it".into(),
                        ));
                    };
                    self.keep(promises, ports);
                }
            }
            Input::Applied(entries) => {
                if let Some(last) = entries.last() {
                    self.raft.applied(last.index);
                    self.configurations.forget_before(last.index);
                }
                for entry in entries {
                    self.pending.applied(entry.index, entry.term, entry.outcome);
                }
                self.reads.applied(self.raft.applied_index());
            }
            Input::Restored => self.order.restored(ports),
            // A message the core refuses says something impossible; it changed nothing, and the peer that sent it is
            // not ours to repair.
            Input::Peer(message) => {
                if self.leases.admits(&message, self.raft.term()) {
                    if message.kind == MessageKind::TransferLeader {
                        self.leases.transfer_begun(self.raft.term());
                    }
                    let _ = self.raft.step(message);
                }
            }
            Input::Unreachable(peer) => self.raft.report_unreachable(peer),
            Input::SnapshotSent { to, arrived } => self.raft.report_snapshot(to, arrived),
            Input::Tick => {
                self.raft.tick();
                self.leases.tick();
                if let Some(token) = self.reads.tick(now, self.config.read_again_ticks) {
                    self.raft.read_index(token);
                }
            }
            Input::Write(write) => self.proposals.push(write),
            Input::Read(reader) => self.readers.push(reader),
            Input::ChangeMembers { change, responder } => self.propose_change(change, responder),
            Input::TransferLeader(to) => {
                self.leases.transfer_begun(self.raft.term());
                self.raft.transfer_leader(to);
            }
        }
        Ok(())
    }

    /// Asks the leader, this node or another, for all reads of this turn at once.
    fn ask_for_reads(&mut self, now: Duration) {
        let room = self.config.pending_reads_max.saturating_sub(self.reads.len());
        while self.readers.len() > room {
            if let Some(reader) = self.readers.pop() {
                reader.respond_read(ReadOutcome::Overloaded);
            }
        }
        if self.readers.is_empty() {
            return;
        }
        let readers = std::mem::take(&mut self.readers);
        if self.raft.leader() == 0 {
            readers.into_iter().for_each(|reader| reader.respond_read(ReadOutcome::NoLeader));
        } else if self.leads() && self.leases.holds(self.reign(), now) {
            self.reads.confirm_at(self.raft.commit_index(), readers);
            self.reads.applied(self.raft.applied_index());
        } else {
            let token = self.reads.ask(now, readers);
            self.raft.read_index(token);
        }
    }

    fn leads(&self) -> bool {
        self.raft.role() == Role::Leader
    }

    fn reign(&self) -> Reign {
        Reign { term: self.raft.term(), conf_index: self.configurations.newest_index() }
    }

    fn propose_change(&mut self, change: ConfChangeV2, responder: R) {
        if self.leads() && self.leaves_one_behind(&change) {
            return responder.respond(WriteOutcome::TransferFirst);
        }
        match self.raft.propose_conf_change(change) {
            Ok(index) => self.pending.add(index, self.raft.term(), responder),
            Err(ProposeError::TooManyUncommitted) => responder.respond(WriteOutcome::Overloaded),
            Err(error) if error.left_an_empty_entry() => responder.respond(WriteOutcome::ChangeRefused(error)),
            Err(_) => responder.respond(WriteOutcome::NotLeader { leader: self.raft.leader() }),
        }
    }

    fn propose_collected(&mut self) {
        let room = self.config.pending_writes_max.saturating_sub(self.pending.len());
        while self.proposals.len() > room {
            if let Some(write) = self.proposals.pop() {
                write.responder.respond(WriteOutcome::Overloaded);
            }
        }
        while !self.proposals.is_empty() {
            self.propose_some();
        }
    }

    /// Proposes the oldest of the collected writes together: as many as fit one message, so that a refusal for want of
    /// room strikes no more than those.
    fn propose_some(&mut self) {
        let mut bytes = 0;
        let fit = self.proposals.iter().take_while(|write| {
            bytes += write.data.len();
            bytes <= PROPOSAL_BYTES
        });
        let count = fit.count().max(1);
        let (data, responders): (Vec<_>, Vec<_>) = self.proposals.drain(..count).map(|w| (w.data, w.responder)).unzip();
        match self.raft.propose(data) {
            Ok(first) => {
                let term = self.raft.term();
                for (index, responder) in (first..).zip(responders) {
                    self.pending.add(index, term, responder);
                }
            }
            Err(error) => {
                use telegraft_raft::ProposeError as E;
                let outcome = match error {
                    E::TooManyUncommitted => WriteOutcome::Overloaded,
                    _ => WriteOutcome::NotLeader { leader: self.raft.leader() },
                };
                responders.into_iter().for_each(|responder| responder.respond(outcome.clone()));
            }
        }
    }

    /// Whether `change` takes this leader out of a group of two voters. It would step down once that is committed, and the
    /// other, if it has not heard so, could neither win without this node's vote nor be sure of getting it.
    fn leaves_one_behind(&self, change: &ConfChangeV2) -> bool {
        let me = self.raft.id();
        let conf = self.raft.conf_state();
        let last_word = change.changes.iter().rfind(|single| single.node == me).map(|single| single.kind);
        let leaves = matches!(last_word, Some(ConfChangeKind::RemoveNode | ConfChangeKind::AddLearnerNode));
        leaves && conf.voters.len() == 2 && conf.voters.contains(&me)
    }

    fn carry_out(&mut self, ready: Ready, ports: &mut impl Ports) -> Result<(), NodeFault> {
        // The core lets a candidate ask before its own vote is durable, since that vote counts only then. But a node that
        // crashed in between could campaign in that term again, on a shorter log, and count the answers to both.
        let early = defects::active(Defect::AskedBeforeDurable);
        let (asks, messages): (Vec<_>, Vec<_>) =
            ready.messages.into_iter().partition(|message| message.kind == MessageKind::Vote && !early);
        messages.into_iter().for_each(|message| ports.send(message));

        for state in &ready.read_states {
            if let Some(asked_at) = self.reads.confirmed(state)
                && self.leads()
            {
                self.leases.confirmed(self.reign(), asked_at);
            }
        }
        if ready.soft_state.is_some() {
            self.reads.give_up();
        }
        self.reads.applied(self.raft.applied_index());

        let messages = asks.into_iter().chain(ready.messages_after_append).collect();
        let promises = Promises { tickets: ready.append.into_iter().collect(), messages };
        self.unwritten = ready.hard_state.or(self.unwritten);
        if ready.must_sync || !ready.entries.is_empty() || ready.snapshot.is_some() {
            // Class 3: the term is written first and answered for, the vote in it comes after.
            let votes = |state: &HardState| state.vote != 0 && ready.entries.is_empty() && ready.snapshot.is_none();
            let vote = self.unwritten.filter(|state| defects::active(Defect::TermWrittenWithoutVote) && votes(state));
            if let Some(state) = vote {
                self.unwritten = Some(HardState { vote: 0, ..state });
            }
            let snapshot = ready.snapshot.map(|snapshot| self.restore(snapshot, ports));
            let write = LogWrite {
                hard_state: self.unwritten.take(),
                must_sync: ready.must_sync || snapshot.is_some(),
                entries: ready.entries,
                snapshot,
                conf_state: None,
            };
            self.order.persist(write, promises, ports);
            if vote.is_some() {
                let write = LogWrite { hard_state: vote, must_sync: true, ..LogWrite::default() };
                self.order.persist(write, Promises::default(), ports);
            }
        } else if let Some(promises) = self.order.join_last(promises) {
            self.keep(promises, ports);
        }

        if !ready.committed_entries.is_empty() {
            self.apply(ready.committed_entries, ports)?;
        }
        Ok(())
    }

    /// Hands a snapshot to the machine, and gives what the log is to hold of it.
    fn restore(&mut self, snapshot: Snapshot, ports: &mut impl Ports) -> SnapshotMeta {
        let meta = snapshot.meta.clone();
        self.order.restore(snapshot, ports);
        self.configurations.add(ConfAt { index: meta.index, conf_state: meta.conf_state.clone() });
        self.pending.passed_over(meta.index);
        meta
    }

    /// What was promised may be said: to ourselves first, then to the others.
    fn keep(&mut self, promises: Promises, ports: &mut impl Ports) {
        promises.tickets.into_iter().for_each(|ticket| self.raft.persisted(ticket));
        promises.messages.into_iter().for_each(|message| ports.send(message));
    }

    /// Hands committed entries to the machine. A change of the configuration takes effect in the core at once, and is
    /// durable in the log before the machine applies its entry.
    fn apply(&mut self, mut entries: Vec<Entry>, ports: &mut impl Ports) -> Result<(), NodeFault> {
        while let Some(at) = entries.iter().position(|entry| entry.kind != EntryKind::Normal) {
            let rest = entries.split_off(at);
            if !entries.is_empty() {
                self.order.apply(entries, ports);
            }
            entries = rest;
            let Some(entry) = entries.first() else { break };
            self.apply_configuration(entry, ports)?;
            let rest = entries.split_off(1);
            self.order.apply(entries, ports);
            entries = rest;
        }
        if !entries.is_empty() {
            self.order.apply(entries, ports);
        }
        Ok(())
    }

    fn apply_configuration(&mut self, entry: &Entry, ports: &mut impl Ports) -> Result<(), NodeFault> {
        let index = entry.index;
        if index <= self.configurations.newest_index() {
            // In force already, before a restart. Joint changes applied a second time would give another configuration.
            return Ok(());
        }
        let change = ConfChangeV2::decode(entry)
            .map_err(|e| NodeFault(format!("entry {index} does not hold a configuration change: {e}")))?;
        let conf = ConfAt { index, conf_state: self.raft.apply_conf_change(&change) };
        self.configurations.add(conf.clone());
        let write = LogWrite { conf_state: Some(conf), must_sync: true, ..LogWrite::default() };
        self.order.persist(write, Promises::default(), ports);
        self.order.raise_barrier();
        Ok(())
    }
}
