//! The nodes of a script, the network between them, and each node's append and apply queues.
//!
//! Nothing happens by itself: a `Ready` is taken, a write is made durable, an entry is applied and a message arrives
//! when a command says so. With asynchronous storage writes a node has two threads of its own; what they are asked to do
//! and what they answer travels as printed messages to and from `AppendThread` and `ApplyThread`. The answers of the
//! append thread that concern the node itself come back through the network like any message; once all of them are
//! delivered, the node's ticket for that append goes back to the core.

use std::collections::VecDeque;

use telegraft_raft::{Config, Message, NodeId, Raft, Ready, Snapshot, StepError};

use super::node::{APPEND_THREAD, AppendWork, Effect, Envelope, Node, applied_response, apply_request, with_responses};
use super::print::{self, Line};
use super::store::Store;

/// Rounds after which a cluster that still finds work is taken to be in an endless loop.
const STABILIZE_ROUNDS_MAX: usize = 10_000;

/// All of a script's state.
#[derive(Default)]
pub struct Environment {
    /// Node `id` stands at `id - 1`.
    pub nodes: Vec<Node>,
    /// Messages under way, oldest first.
    pub network: Vec<Envelope>,
    /// Messages that are delayed.
    pub held: Vec<Envelope>,
    /// What the current command prints.
    pub output: Output,
}

/// The output of one command.
#[derive(Default)]
pub struct Output {
    text: String,
    depth: usize,
    /// Whether only errors are printed (`log-level none`).
    pub quiet: bool,
}

impl Output {
    /// Prints one or more lines.
    pub fn print(&mut self, lines: &str) {
        if !self.quiet {
            self.error(lines);
        }
    }

    /// Prints even where output is turned off.
    pub fn error(&mut self, lines: &str) {
        for line in lines.lines() {
            self.text.push_str(&"  ".repeat(self.depth));
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    /// Takes what was printed; `ok` where nothing was.
    pub fn take(&mut self) -> String {
        self.depth = 0;
        let text = std::mem::take(&mut self.text);
        if text.is_empty() { "ok".to_owned() } else { text }
    }
}

/// Which messages a command delivers or drops.
#[derive(Clone, Copy, Debug)]
pub struct Recipient {
    /// The node.
    pub id: NodeId,
    /// Whether its messages are lost.
    pub dropped: bool,
}

impl Environment {
    /// Adds a node with the next id.
    ///
    /// # Errors
    ///
    /// The core refuses the settings or the snapshot.
    pub fn add_node(&mut self, mut config: Config, snapshot: Snapshot) -> Result<(), String> {
        config.id = self.nodes.len() as NodeId + 1;
        config.seed = config.id;
        let (election_ticks, heartbeat_ticks) = (config.election_ticks, config.heartbeat_ticks);
        let asynchronous = config.async_storage_writes;
        let raft = Raft::new(config.clone(), Store::new(snapshot)).map_err(|error| error.to_string())?;
        self.nodes.push(Node {
            raft,
            config,
            observed: None,
            election_ticks,
            heartbeat_ticks,
            asynchronous,
            appends: VecDeque::new(),
            applies: VecDeque::new(),
            tickets: VecDeque::new(),
            installing: None,
        });
        Ok(())
    }

    /// Runs `work` on each node at the positions given, under a heading where there is more than one of them.
    pub fn each(
        &mut self,
        positions: &[usize],
        heading: &str,
        work: fn(&mut Self, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        for at in positions {
            if positions.len() == 1 {
                work(self, *at)?;
            } else {
                self.under(&format!("> {} {heading}", at + 1), |env| work(env, *at))?;
            }
        }
        Ok(())
    }

    /// Runs `work` with its output indented below a heading.
    fn under(&mut self, heading: &str, work: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        self.output.print(heading);
        self.output.depth += 1;
        let result = work(self);
        self.output.depth -= 1;
        result
    }

    /// Takes a node's `Ready`, prints it and does what it asks: all of it at once, or, with asynchronous storage writes,
    /// the sending alone.
    pub fn process_ready(&mut self, at: usize) -> Result<(), String> {
        let node = &mut self.nodes[at];
        if !node.raft.has_ready() {
            self.output.print("<empty Ready>");
            return Ok(());
        }
        let ready = node.raft.ready();
        if node.asynchronous {
            self.hand_to_threads(at, ready);
            return Ok(());
        }
        let id = node.raft.id();
        let Ready { messages, messages_after_append, .. } = &ready;
        let to_send: Vec<Message> =
            messages.iter().chain(messages_after_append).filter(|message| message.to != id).cloned().collect();
        let printed: Vec<String> = to_send.iter().map(print::message).collect();
        self.output.print(&print::ready(&ready, &printed));
        node.persist(ready.hard_state, ready.snapshot, &ready.entries)?;
        node.apply(&ready.committed_entries)?;
        self.network.extend(to_send.into_iter().map(Envelope::peer));
        if let Some(ticket) = ready.append {
            node.raft.persisted(ticket);
        }
        if let Some(last) = ready.committed_entries.last() {
            node.raft.applied(last.index);
        }
        node.check()
    }

    fn hand_to_threads(&mut self, at: usize, mut ready: Ready) {
        let node = &mut self.nodes[at];
        let id = node.raft.id();
        let mut printed: Vec<String> = ready.messages.iter().map(print::message).collect();
        self.network.extend(std::mem::take(&mut ready.messages).into_iter().map(Envelope::peer));
        let mut work = None;
        if let Some(ticket) = ready.append.take() {
            if ready.snapshot.is_some() {
                node.installing.clone_from(&ready.snapshot);
            }
            let after = std::mem::take(&mut ready.messages_after_append);
            let responses = node.responses(&ticket, after);
            let state = ready.hard_state.unwrap_or_default();
            let request = Line {
                term: state.term,
                commit: state.commit,
                vote: state.vote,
                entries: &ready.entries,
                snapshot: ready.snapshot.as_ref(),
                ..Line::new(id, APPEND_THREAD, "MsgStorageAppend")
            };
            let request = request.print();
            printed.push(with_responses(&request, &responses));
            work = Some((request, ticket, responses));
        }
        if let Some(last) = ready.committed_entries.last() {
            let response = applied_response(id, &ready.committed_entries, last.index);
            printed.push(with_responses(&apply_request(id, &ready.committed_entries), &[response]));
        }
        self.output.print(&print::ready(&ready, &printed));
        if let Some((request, ticket, responses)) = work {
            let Ready { hard_state, entries, snapshot, .. } = &mut ready;
            let (hard_state, entries, snapshot) = (*hard_state, std::mem::take(entries), snapshot.take());
            node.appends.push_back(AppendWork { request, hard_state, entries, snapshot, ticket, responses });
        }
        if !ready.committed_entries.is_empty() {
            node.applies.push_back(ready.committed_entries);
        }
    }

    /// Makes one write of a node's append thread durable and sends its answers.
    pub fn process_append(&mut self, at: usize) -> Result<(), String> {
        let node = &mut self.nodes[at];
        let Some(work) = node.appends.pop_front() else {
            self.output.print("no append work to perform");
            return Ok(());
        };
        self.output.print("Processing:");
        self.output.print(&work.request);
        node.persist(work.hard_state, work.snapshot, &work.entries)?;
        self.output.print("Responses:");
        for response in &work.responses {
            self.output.print(&response.printed);
        }
        let own = work.responses.iter().filter(|response| response.is_local()).count();
        node.tickets.push_back((work.ticket, own));
        self.network.extend(work.responses);
        node.return_tickets();
        node.check()
    }

    /// Applies one batch of a node's apply thread and sends its answer.
    pub fn process_apply(&mut self, at: usize) -> Result<(), String> {
        let node = &mut self.nodes[at];
        let Some(entries) = node.applies.pop_front() else {
            self.output.print("no apply work to perform");
            return Ok(());
        };
        let id = node.raft.id();
        self.output.print("Processing:");
        self.output.print(&apply_request(id, &entries));
        node.apply(&entries)?;
        self.output.print("Responses:");
        if let Some(last) = entries.last() {
            let response = applied_response(id, &entries, last.index);
            self.output.print(&response.printed);
            self.network.push(response);
        }
        node.check()
    }

    /// Delivers or drops messages, all or those of one kind; returns how many there were.
    pub fn deliver(&mut self, kind: Option<&str>, recipients: &[Recipient]) -> Result<usize, String> {
        let mut count = 0;
        for recipient in recipients {
            let (chosen, rest) = std::mem::take(&mut self.network).into_iter().partition::<Vec<_>, _>(|envelope| {
                envelope.to == recipient.id
                    && !(recipient.dropped && envelope.is_local())
                    && kind.is_none_or(|kind| kind == envelope.kind)
            });
            self.network = rest;
            count += chosen.len();
            for envelope in chosen {
                if recipient.dropped {
                    self.output.print(&format!("dropped: {}", envelope.printed));
                } else {
                    self.output.print(&envelope.printed);
                    self.arrive(recipient.id, envelope.effect)?;
                }
            }
        }
        Ok(count)
    }

    fn arrive(&mut self, id: NodeId, effect: Effect) -> Result<(), String> {
        let at = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let node = at.and_then(|at| self.nodes.get_mut(at));
        let node = node.ok_or_else(|| format!("a message arrives at node {id}, which does not exist"))?;
        match effect {
            Effect::Step(message) => {
                if let Err(error) = node.raft.step(*message) {
                    self.output.print(&step_error(&error));
                }
            }
            Effect::Durable { sequence, own } => {
                if own && !node.is_member() {
                    self.output.print(PEER_NOT_FOUND);
                }
                if let Some((_, left)) = node.tickets.iter_mut().find(|(ticket, _)| ticket.sequence() == sequence) {
                    *left = left.saturating_sub(1);
                }
                node.return_tickets();
            }
            Effect::Applied(index) => node.raft.applied(index),
        }
        node.check()
    }

    /// Lets the nodes given work and talk to each other until none of them has anything to do.
    pub fn stabilize(&mut self, positions: &[usize]) -> Result<(), String> {
        for _ in 0..STABILIZE_ROUNDS_MAX {
            let mut idle = true;
            for at in positions {
                if self.nodes[*at].raft.has_ready() {
                    idle = false;
                    self.under(&format!("> {} handling Ready", at + 1), |env| env.process_ready(*at))?;
                }
            }
            for at in positions {
                let id = *at as NodeId + 1;
                if self.network.iter().any(|envelope| envelope.to == id) {
                    idle = false;
                    let recipient = [Recipient { id, dropped: false }];
                    self.under(&format!("> {id} receiving messages"), |env| env.deliver(None, &recipient).map(|_| ()))?;
                }
            }
            for at in positions {
                if !self.nodes[*at].appends.is_empty() {
                    idle = false;
                    self.under(&format!("> {} processing append thread", at + 1), |env| {
                        while !env.nodes[*at].appends.is_empty() {
                            env.process_append(*at)?;
                        }
                        Ok(())
                    })?;
                }
            }
            for at in positions {
                if !self.nodes[*at].applies.is_empty() {
                    idle = false;
                    self.under(&format!("> {} processing apply thread", at + 1), |env| {
                        while !env.nodes[*at].applies.is_empty() {
                            env.process_apply(*at)?;
                        }
                        Ok(())
                    })?;
                }
            }
            if idle {
                return Ok(());
            }
        }
        Err(format!("the nodes still find work after {STABILIZE_ROUNDS_MAX} rounds"))
    }
}

/// What a refused proposal prints.
pub const PROPOSAL_DROPPED: &str = "raft proposal dropped";
/// What an answer from a node outside the configuration prints.
const PEER_NOT_FOUND: &str = "raft: cannot step as peer not found";

/// What a message that a node refuses prints.
fn step_error(error: &StepError) -> String {
    match error {
        StepError::UnknownPeer(_) => PEER_NOT_FOUND.to_owned(),
        StepError::Dropped => PROPOSAL_DROPPED.to_owned(),
        other => format!("raft: {other}"),
    }
}
