//! The node itself: the stages of one turn. Owns the core, the writes that wait for their answers, and the writes of
//! the log that are under way.

use std::collections::VecDeque;

use bytes::Bytes;
use telegraft_raft::{
    AppendTicket, ConfChangeV2, Entry, EntryKind, HardState, Index, Message, NodeId, Raft, Ready, Storage, Term,
};

use crate::{
    pending::{Pending, Responder, WriteOutcome},
    ports::{LogWrite, Outcome},
};

/// What a node asks of the world around it. None of these may block on durability or on a peer.
pub trait Ports {
    /// Sends a message to `message.to`. May drop it; must not reorder what it does not drop more than the network would.
    fn send(&mut self, message: Message);
    /// Makes a write durable, after all earlier ones; then comes [`Input::Persisted`].
    fn persist(&mut self, write: LogWrite);
    /// Applies committed entries, after all earlier ones; then comes [`Input::Applied`].
    fn apply(&mut self, entries: Vec<Entry>);
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
    /// A message from a peer.
    Peer(Message),
    /// The network could not deliver to this peer.
    Unreachable(NodeId),
    /// One unit of the core's time passed.
    Tick,
    /// A client's write.
    Write(Write<R>),
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
}

/// Bytes of writes that are proposed together; a larger one goes alone.
const PROPOSAL_BYTES: usize = 1 << 20;

/// The node cannot go on; the process stops.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("node: {0}")]
pub struct NodeFault(pub String);

/// A write under way: what may go out once it is durable.
#[derive(Default)]
struct WriteUnderWay {
    tickets: Vec<AppendTicket>,
    messages: Vec<Message>,
}

/// Consensus core, waiting writes and appends under way; see the crate's head for its turn.
pub struct Node<S: Storage, R> {
    raft: Raft<S>,
    config: NodeConfig,
    pending: Pending<R>,
    writes: VecDeque<WriteUnderWay>,
    /// A commit index that no write has carried yet: it promises nothing, so it goes with the next write that must be
    /// made anyway. (The machine's applied index says as much after a restart.)
    unwritten: Option<HardState>,
    /// Writes of this turn's inbox, proposed together: one append to each peer instead of one a write.
    proposals: Vec<Write<R>>,
}

impl<S: Storage, R: Responder> Node<S, R> {
    /// A node around a core that was built with `async_storage_writes`.
    pub fn new(raft: Raft<S>, config: NodeConfig) -> Self {
        Self { raft, config, pending: Pending::new(), writes: VecDeque::new(), unwritten: None, proposals: Vec::new() }
    }

    /// The core, to look at.
    pub fn raft(&self) -> &Raft<S> {
        &self.raft
    }

    /// Writes that wait for their answers.
    pub fn pending_writes(&self) -> usize {
        self.pending.len()
    }

    /// Takes in what happened, in order, and hands out all work that follows from it.
    ///
    /// # Errors
    ///
    /// When the core can no longer read its log, or a promise of the ports was broken. The node must not be used again.
    pub fn turn(&mut self, inbox: impl IntoIterator<Item = Input<R>>, ports: &mut impl Ports) -> Result<(), NodeFault> {
        for input in inbox {
            self.receive(input, ports)?;
        }
        self.propose_collected();
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            self.carry_out(ready, ports)?;
        }
        match self.raft.fault() {
            Some(fault) => Err(NodeFault(format!("the consensus core cannot go on: {fault}"))),
            None => Ok(()),
        }
    }

    fn receive(&mut self, input: Input<R>, ports: &mut impl Ports) -> Result<(), NodeFault> {
        if !matches!(input, Input::Write(_)) {
            self.propose_collected();
        }
        match input {
            Input::Persisted { count } => {
                for _ in 0..count {
                    let Some(write) = self.writes.pop_front() else {
                        return Err(NodeFault(
                            "the log reported a write as durable that was never handed to it".into(),
                        ));
                    };
                    self.release(write, ports);
                }
            }
            Input::Applied(entries) => {
                if let Some(last) = entries.last() {
                    self.raft.applied(last.index);
                }
                for entry in entries {
                    self.pending.applied(entry.index, entry.term, entry.outcome);
                }
            }
            // A message the core refuses says something impossible; it changed nothing, and the peer that sent it is
            // not ours to repair.
            Input::Peer(message) => drop(self.raft.step(message)),
            Input::Unreachable(peer) => self.raft.report_unreachable(peer),
            Input::Tick => self.raft.tick(),
            Input::Write(write) => self.proposals.push(write),
        }
        Ok(())
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

    fn carry_out(&mut self, ready: Ready, ports: &mut impl Ports) -> Result<(), NodeFault> {
        ready.messages.into_iter().for_each(|message| ports.send(message));

        let released =
            WriteUnderWay { tickets: ready.append.into_iter().collect(), messages: ready.messages_after_append };
        self.unwritten = ready.hard_state.or(self.unwritten);
        if ready.must_sync || !ready.entries.is_empty() || ready.snapshot.is_some() {
            self.writes.push_back(released);
            ports.persist(LogWrite {
                hard_state: self.unwritten.take(),
                entries: ready.entries,
                snapshot: ready.snapshot,
                conf_state: None,
                must_sync: ready.must_sync,
            });
        } else if let Some(last) = self.writes.back_mut() {
            // Nothing to write, but what is to be said must not overtake the writes before it.
            last.tickets.extend(released.tickets);
            last.messages.extend(released.messages);
        } else {
            self.release(released, ports);
        }

        if !ready.committed_entries.is_empty() {
            for entry in &ready.committed_entries {
                self.apply_configuration(entry, ports)?;
            }
            ports.apply(ready.committed_entries);
        }
        Ok(())
    }

    /// Everything up to `write` is durable: its promises may go out, our own to ourselves first.
    fn release(&mut self, write: WriteUnderWay, ports: &mut impl Ports) {
        write.tickets.into_iter().for_each(|ticket| self.raft.persisted(ticket));
        write.messages.into_iter().for_each(|message| ports.send(message));
    }

    /// A committed change of the configuration takes effect in the core, and in the log, before later entries are applied.
    fn apply_configuration(&mut self, entry: &Entry, ports: &mut impl Ports) -> Result<(), NodeFault> {
        let change = match entry.kind {
            EntryKind::Normal => return Ok(()),
            EntryKind::ConfChange | EntryKind::ConfChangeV2 => ConfChangeV2::decode(entry)
                .map_err(|e| NodeFault(format!("entry {} does not hold a configuration change: {e}", entry.index)))?,
        };
        let conf_state = self.raft.apply_conf_change(&change);
        self.writes.push_back(WriteUnderWay::default());
        ports.persist(LogWrite { conf_state: Some(conf_state), must_sync: true, ..LogWrite::default() });
        Ok(())
    }
}
