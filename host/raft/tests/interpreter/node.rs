//! One node: the core, the queues of its two threads, and what travels to and from them.

use std::collections::VecDeque;

use telegraft_raft::invariants::{self, Observation};
use telegraft_raft::{
    AppendTicket, ConfChangeV2, Config, Entry, EntryKind, HardState, Index, Message, NodeId, Raft, Snapshot,
};

use super::print::{self, Line};
use super::store::Store;

/// The name of a node's append thread in messages.
pub const APPEND_THREAD: &str = "AppendThread";
/// The name of a node's apply thread in messages.
pub const APPLY_THREAD: &str = "ApplyThread";

/// One node with its queues.
pub struct Node {
    /// The core.
    pub raft: Raft<Store>,
    /// The settings that it starts with.
    pub config: Config,
    /// What the last check saw.
    pub observed: Option<Observation>,
    /// Ticks that `tick-election` makes.
    pub election_ticks: u32,
    /// Ticks that `tick-heartbeat` makes.
    pub heartbeat_ticks: u32,
    /// Whether storage writes are asynchronous.
    pub asynchronous: bool,
    /// Writes to make durable, oldest first.
    pub appends: VecDeque<AppendWork>,
    /// Batches to apply, oldest first.
    pub applies: VecDeque<Vec<Entry>>,
    /// Tickets of appends that are durable, with the answers to this node that are still under way.
    pub tickets: VecDeque<(AppendTicket, usize)>,
    /// The snapshot that was last handed out for installing.
    pub installing: Option<Snapshot>,
}

/// A write that the append thread was asked for.
pub struct AppendWork {
    /// The request as printed, without the answers.
    pub request: String,
    /// To write.
    pub hard_state: Option<HardState>,
    /// To write.
    pub entries: Vec<Entry>,
    /// To install.
    pub snapshot: Option<Snapshot>,
    /// Goes back to the core.
    pub ticket: AppendTicket,
    /// Sent once it is durable.
    pub responses: Vec<Envelope>,
}

/// A message under way.
pub struct Envelope {
    /// Receiver.
    pub to: NodeId,
    /// Printed name of its kind.
    pub kind: &'static str,
    /// Its printed form.
    pub printed: String,
    /// What it does on arrival.
    pub effect: Effect,
}

/// What the arrival of a message does.
pub enum Effect {
    /// A message of a node.
    Step(Box<Message>),
    /// An answer of the node's append thread to the ticket of that sequence; `own` where it is the node's own message.
    Durable { sequence: u64, own: bool },
    /// The answer of the node's apply thread.
    Applied(Index),
}

impl Envelope {
    /// A message from one node to another.
    pub fn peer(message: Message) -> Self {
        Envelope {
            to: message.to,
            kind: print::message_kind(message.kind),
            printed: print::message(&message),
            effect: Effect::Step(Box::new(message)),
        }
    }

    /// Whether a node or its own threads sent it; such a message is never lost.
    pub fn is_local(&self) -> bool {
        !matches!(self.effect, Effect::Step(_))
    }
}

impl Node {
    /// Writes at once: hard state, snapshot, then entries.
    ///
    /// # Errors
    ///
    /// The entries do not fit the log.
    pub fn persist(
        &mut self,
        hard_state: Option<HardState>,
        snapshot: Option<Snapshot>,
        entries: &[Entry],
    ) -> Result<(), String> {
        let store = self.raft.storage_mut();
        if let Some(state) = hard_state {
            store.set_hard_state(state);
        }
        if let Some(snapshot) = snapshot {
            store.install(snapshot);
        }
        store.append(entries)
    }

    /// Applies entries in order: data to the state machine, changes of the configuration to the core too.
    ///
    /// # Errors
    ///
    /// An entry does not hold the change its kind promises.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            if entry.kind == EntryKind::Normal {
                self.raft.storage_mut().apply(entry, &entry.data, None);
                continue;
            }
            let change = ConfChangeV2::decode(entry).map_err(|error| error.to_string())?;
            let membership = self.raft.apply_conf_change(&change);
            self.raft.storage_mut().apply(entry, &change.context, Some(membership));
        }
        Ok(())
    }

    /// What the append thread answers once a write is durable, in the order in which it arose: messages of one term
    /// before those of the next, those to peers before those to the node itself, then the receipt.
    pub fn responses(&self, ticket: &AppendTicket, after: Vec<Message>) -> Vec<Envelope> {
        let sequence = ticket.sequence();
        let mut responses: Vec<(u64, Envelope)> =
            after.into_iter().map(|message| (message.term, Envelope::peer(message))).collect();
        for message in ticket.self_messages() {
            let effect = Effect::Durable { sequence, own: true };
            let (kind, printed) = (print::message_kind(message.kind), print::message(message));
            responses.push((message.term, Envelope { to: message.to, kind, printed, effect }));
        }
        responses.sort_by_key(|(term, _)| *term);
        let mut responses: Vec<Envelope> = responses.into_iter().map(|(_, envelope)| envelope).collect();
        if ticket.confirms_storage() {
            let kind = "MsgStorageAppendResp";
            let stable = ticket.stable();
            let installed = ticket.snapshot_index();
            let line = Line {
                term: ticket.term(),
                log_term: stable.map_or(0, |mark| mark.term),
                index: stable.map_or(0, |mark| mark.index),
                snapshot: self.installing.as_ref().filter(|snapshot| installed == Some(snapshot.meta.index)),
                ..Line::new(APPEND_THREAD, self.raft.id(), kind)
            };
            let effect = Effect::Durable { sequence, own: false };
            responses.push(Envelope { to: self.raft.id(), kind, printed: line.print(), effect });
        }
        responses
    }

    /// Gives the core the tickets whose answers have all arrived, in order.
    pub fn return_tickets(&mut self) {
        while self.tickets.front().is_some_and(|(_, left)| *left == 0) {
            if let Some((ticket, _)) = self.tickets.pop_front() {
                self.raft.persisted(ticket);
            }
        }
    }

    /// Whether the node takes part in its own configuration, as voter or learner.
    pub fn is_member(&self) -> bool {
        let state = self.raft.conf_state();
        [&state.voters, &state.voters_outgoing, &state.learners].into_iter().any(|ids| ids.contains(&self.raft.id()))
    }

    /// What must hold after every step, and from one step to the next.
    ///
    /// # Errors
    ///
    /// The core stopped because a read of its log failed, or breaks one of its invariants.
    pub fn check(&mut self) -> Result<(), String> {
        if let Some(error) = self.raft.fault() {
            return Err(format!("node {} stopped: {error}", self.raft.id()));
        }
        invariants::check(&self.raft).map_err(|violation| violation.to_string())?;
        let now = invariants::observe(&self.raft);
        if let Some(before) = self.observed.replace(now) {
            invariants::check_across(self.raft.id(), &before, &now).map_err(|violation| violation.to_string())?;
        }
        Ok(())
    }
}

/// The request to apply entries, as printed.
pub fn apply_request(id: NodeId, entries: &[Entry]) -> String {
    Line { entries, ..Line::new(id, APPLY_THREAD, "MsgStorageApply") }.print()
}

/// The answer that entries are applied.
pub fn applied_response(id: NodeId, entries: &[Entry], last: Index) -> Envelope {
    let kind = "MsgStorageApplyResp";
    let printed = Line { entries, ..Line::new(APPLY_THREAD, id, kind) }.print();
    Envelope { to: id, kind, printed, effect: Effect::Applied(last) }
}

/// A request with the answers it will get, as printed.
pub fn with_responses(request: &str, responses: &[Envelope]) -> String {
    if responses.is_empty() {
        return request.to_owned();
    }
    let printed: Vec<String> = responses.iter().map(|response| print::indent(&response.printed)).collect();
    format!("{request} Responses:[\n{}\n]", printed.join("\n"))
}
