//! The commands of an interaction script.
//!
//! Nodes have ids from 1 in the order in which they were added. Settings that a script does not name: an election
//! timeout of 3 ticks, a heartbeat each tick, no size limits, and every optional behaviour off.
//!
//! Some commands exist only here: `read-index ID CONTEXT` asks for a linearizable read, `report-snapshot ID PEER ok|failed`
//! tells a leader how sending a snapshot ended, `configuration ID` prints the membership in force at a node, and
//! `send-message from= to= type= term= log-term= index= commit= reject= hint=` puts a message on the network that no node
//! sent: a late copy, or what another implementation would send. Those of `faults.rs` come on top, and the settings
//! `max-size-per-msg=`, `inflight-bytes=`, `max-uncommitted-size=` and `proposal-forwarding=` of `add-nodes`.

use bytes::Bytes;
use telegraft_raft::{
    ConfChange, ConfChangeTransition, ConfChangeV2, Config, Message, MessageKind, NodeId, ProposeError, ReadOnly, Role,
    Snapshot, Storage,
};

use super::Machine;
use super::confchange::read_changes;
use super::datadriven::{Argument, Directive, ScriptError};
use super::environment::{Environment, PROPOSAL_DROPPED, Recipient};
use super::node::Envelope;
use super::print;

impl Machine for Environment {
    fn run(&mut self, directive: &Directive) -> Result<String, ScriptError> {
        match directive.command.as_str() {
            "add-nodes" => self.add_nodes(directive),
            "campaign" => self.on_node(directive, |env, at| env.nodes[at].raft.campaign()),
            "compact" => self.compact(directive),
            "configuration" => self.on_node(directive, Self::print_configuration),
            "deliver-msgs" => self.deliver_messages(directive),
            "duplicate-msgs" => self.duplicate_messages(directive),
            "forget-leader" => self.on_node(directive, |env, at| env.nodes[at].raft.forget_leader()),
            "hold-msgs" => self.hold_messages(directive),
            "log-level" => self.log_level(directive),
            "process-append-thread" => self.on_each(directive, "processing append thread", Self::process_append),
            "process-apply-thread" => self.on_each(directive, "processing apply thread", Self::process_apply),
            "process-ready" => self.on_each(directive, "handling Ready", Self::process_ready),
            "propose" => self.propose(directive),
            "propose-conf-change" => self.propose_conf_change(directive),
            "raft-log" => self.on_node(directive, Self::print_log),
            "raft-state" => self.raft_state(directive),
            "read-index" => self.read_index(directive),
            "release-msgs" => self.release_messages(directive),
            "report-snapshot" => self.report_snapshot(directive),
            "report-unreachable" => {
                let (at, peer) = self.two_ids(directive)?;
                self.nodes[at].raft.report_unreachable(peer);
                Ok(())
            }
            "restart" => self.restart(directive),
            "send-message" => self.send_message(directive),
            "send-snapshot" => self.send_snapshot(directive),
            "set-randomized-election-timeout" => self.set_election_timeout(directive),
            "snapshot-ready" => self.snapshot_ready(directive),
            "stabilize" => self.run_stabilize(directive),
            "status" => self.on_node(directive, Self::print_status),
            "tick-election" => self.on_node(directive, |env, at| env.tick(at, env.nodes[at].election_ticks)),
            "tick-heartbeat" => self.on_node(directive, |env, at| env.tick(at, env.nodes[at].heartbeat_ticks)),
            "transfer-leadership" => self.transfer_leadership(directive),
            _ => Err(directive.error("unknown command")),
        }?;
        Ok(self.output.take())
    }
}

impl Directive {
    /// The printed name of a kind of message that an argument holds.
    ///
    /// # Errors
    ///
    /// It names no kind.
    pub fn message_kind(&self, argument: &Argument) -> Result<String, ScriptError> {
        let name = self.only::<String>(argument)?;
        let local = ["MsgStorageAppendResp", "MsgStorageApplyResp"];
        let mut known = MessageKind::ALL.iter().map(|kind| print::message_kind(*kind)).chain(local);
        if known.any(|known| known == name) {
            Ok(name)
        } else {
            Err(self.error(format!("unknown kind of message {name:?}")))
        }
    }
}

impl Environment {
    /// Position of the node whose id a word names.
    pub fn position(&self, directive: &Directive, word: &str) -> Result<usize, ScriptError> {
        let id: NodeId = directive.read("node", word)?;
        let at = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        at.filter(|at| *at < self.nodes.len())
            .ok_or_else(|| directive.error(format!("node {id} does not exist; there are {} nodes", self.nodes.len())))
    }

    /// The positional arguments, where the command takes exactly `N` and nothing else.
    pub fn words<'a, const N: usize>(&self, directive: &'a Directive) -> Result<[&'a str; N], ScriptError> {
        if let Some(argument) = directive.keyed().next() {
            return Err(directive.unknown(argument));
        }
        let words: Vec<&str> = directive.positional().map(|argument| argument.key.as_str()).collect();
        let count = words.len();
        words.try_into().map_err(|_| directive.error(format!("takes {N} arguments, got {count}")))
    }

    /// A command whose one argument is a node.
    fn on_node(&mut self, directive: &Directive, work: impl FnOnce(&mut Self, usize)) -> Result<(), ScriptError> {
        let [word] = self.words(directive)?;
        let at = self.position(directive, word)?;
        work(self, at);
        Ok(())
    }

    /// A command that takes any number of nodes.
    fn on_each(
        &mut self,
        directive: &Directive,
        heading: &str,
        work: fn(&mut Self, usize) -> Result<(), String>,
    ) -> Result<(), ScriptError> {
        if let Some(argument) = directive.keyed().next() {
            return Err(directive.unknown(argument));
        }
        let positions = self.positions(directive)?;
        self.each(&positions, heading, work).map_err(|reason| directive.error(reason))
    }

    fn positions(&self, directive: &Directive) -> Result<Vec<usize>, ScriptError> {
        directive.positional().map(|argument| self.position(directive, &argument.key)).collect()
    }

    /// A command about a node (that exists) and a member (that need not).
    fn two_ids(&self, directive: &Directive) -> Result<(usize, NodeId), ScriptError> {
        let [node, member] = self.words(directive)?;
        Ok((self.position(directive, node)?, directive.read("node", member)?))
    }

    fn tick(&mut self, at: usize, ticks: u32) {
        for _ in 0..ticks {
            self.nodes[at].raft.tick();
        }
    }

    fn add_nodes(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let words: Vec<&Argument> = directive.positional().collect();
        let [count] = words[..] else { return Err(directive.error("takes the number of nodes")) };
        let count: u32 = directive.read("number of nodes", &count.key)?;
        let mut config = Config::new(1, 1);
        config.election_ticks = 3;
        config.heartbeat_ticks = 1;
        config.pre_vote = false;
        config.check_quorum = false;
        config.message_bytes_max = u64::MAX;
        config.inflight_messages_max = i32::MAX as usize;
        config.inflight_bytes_max = 0;
        config.uncommitted_bytes_max = u64::MAX;
        config.committed_bytes_per_ready_max = u64::MAX;
        config.async_storage_writes = false;
        config.step_down_on_removal = false;
        config.proposal_forwarding = true;
        config.answer_stale_leaders = false;
        let mut snapshot = Snapshot::default();
        let mut empty = true;
        for argument in directive.keyed() {
            match argument.key.as_str() {
                "voters" => snapshot.meta.conf_state.voters = directive.all(argument)?,
                "learners" => snapshot.meta.conf_state.learners = directive.all(argument)?,
                "index" => snapshot.meta.index = directive.only(argument)?,
                "content" => snapshot.data = Bytes::from(directive.only::<String>(argument)?),
                "inflight" => config.inflight_messages_max = directive.only(argument)?,
                "inflight-bytes" => config.inflight_bytes_max = directive.only(argument)?,
                "max-size-per-msg" => config.message_bytes_max = directive.only(argument)?,
                "max-uncommitted-size" => config.uncommitted_bytes_max = directive.only(argument)?,
                "proposal-forwarding" => config.proposal_forwarding = directive.only(argument)?,
                "async-storage-writes" => config.async_storage_writes = directive.only(argument)?,
                "prevote" => config.pre_vote = directive.only(argument)?,
                "checkquorum" => config.check_quorum = directive.only(argument)?,
                "step-down-on-removal" => config.step_down_on_removal = directive.only(argument)?,
                "max-committed-size-per-ready" => config.committed_bytes_per_ready_max = directive.only(argument)?,
                "disable-conf-change-validation" => {
                    config.conf_change_validation = !directive.only::<bool>(argument)?
                }
                "read-only" => {
                    config.read_only = match directive.only::<String>(argument)?.as_str() {
                        "safe" => ReadOnly::Safe,
                        "lease-based" => ReadOnly::LeaseBased,
                        other => {
                            return Err(directive.error(format!("read-only={other} is neither safe nor lease-based")));
                        }
                    }
                }
                _ => return Err(directive.unknown(argument)),
            }
            empty &= !matches!(argument.key.as_str(), "voters" | "learners" | "index" | "content");
        }
        if !empty {
            if snapshot.meta.index <= 1 {
                return Err(directive.error("index= must be at least 2: a node with members starts from a snapshot"));
            }
            snapshot.meta.term = 1;
            config.applied = snapshot.meta.index;
        }
        for _ in 0..count {
            self.add_node(config.clone(), snapshot.clone()).map_err(|reason| directive.error(reason))?;
        }
        Ok(())
    }

    fn answer_proposal<T>(&mut self, result: Result<T, ProposeError>) {
        match result {
            // Handed on to the leader, or replaced by an empty entry: not refused.
            Ok(_) | Err(ProposeError::Forwarded) => {}
            Err(error) if error.left_an_empty_entry() => {}
            Err(_) => self.output.error(PROPOSAL_DROPPED),
        }
    }

    fn propose(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let [node, data] = &directive.arguments[..] else {
            return Err(directive.error("takes a node and the data to propose"));
        };
        let at = self.position(directive, &node.raw)?;
        let result = self.nodes[at].raft.propose(vec![Bytes::from(data.raw.clone())]);
        self.answer_proposal(result);
        Ok(())
    }

    fn propose_conf_change(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let words: Vec<&Argument> = directive.positional().collect();
        let [node] = words[..] else { return Err(directive.error("takes one node")) };
        let at = self.position(directive, &node.key)?;
        let mut v1 = false;
        let mut transition = ConfChangeTransition::Auto;
        for argument in directive.keyed() {
            match argument.key.as_str() {
                "v1" => v1 = directive.only(argument)?,
                "transition" => {
                    transition = match directive.only::<String>(argument)?.as_str() {
                        "auto" => ConfChangeTransition::Auto,
                        "implicit" => ConfChangeTransition::Implicit,
                        "explicit" => ConfChangeTransition::Explicit,
                        other => return Err(directive.error(format!("unknown transition {other:?}"))),
                    }
                }
                _ => return Err(directive.unknown(argument)),
            }
        }
        let changes = read_changes(directive)?;
        let change = match (v1, &changes[..], transition) {
            (false, ..) => ConfChange::V2(ConfChangeV2 { transition, changes, context: Bytes::new() }),
            (true, [only], ConfChangeTransition::Auto) => ConfChange::V1 { change: *only, context: Bytes::new() },
            (true, ..) => return Err(directive.error("v1=true takes exactly one change and no transition")),
        };
        let result = self.nodes[at].raft.propose_conf_change(change);
        self.answer_proposal(result);
        Ok(())
    }

    fn deliver_messages(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let mut kind: Option<String> = None;
        let mut recipients: Vec<Recipient> = Vec::new();
        for argument in &directive.arguments {
            match (argument.key.as_str(), &argument.values) {
                (word, None) => {
                    let id = self.position(directive, word)? as NodeId + 1;
                    recipients.push(Recipient { id, dropped: false });
                }
                ("drop", Some(_)) => {
                    for id in directive.all::<NodeId>(argument)? {
                        recipients.push(Recipient { id, dropped: true });
                    }
                }
                ("type", Some(_)) => {
                    kind = Some(directive.message_kind(argument)?);
                }
                _ => return Err(directive.unknown(argument)),
            }
        }
        for (at, recipient) in recipients.iter().enumerate() {
            if recipients[..at].iter().any(|other| other.id == recipient.id) {
                return Err(directive.error(format!("node {} is named twice", recipient.id)));
            }
        }
        let count = self.deliver(kind.as_deref(), &recipients).map_err(|reason| directive.error(reason))?;
        if count == 0 {
            self.output.print("no messages");
        }
        Ok(())
    }

    fn set_level(&mut self, directive: &Directive, word: &str) -> Result<(), ScriptError> {
        let levels = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"];
        let word = word.to_uppercase();
        if !levels.contains(&word.as_str()) {
            return Err(directive.error(format!("unknown log level {word:?}; levels are {}", levels.join(", "))));
        }
        // The core writes no log: only the level that turns all output off makes a difference.
        self.output.quiet = word == "NONE";
        Ok(())
    }

    fn log_level(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let [word] = self.words(directive)?;
        self.set_level(directive, word)
    }

    fn run_stabilize(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let before = self.output.quiet;
        for argument in directive.keyed() {
            match argument.key.as_str() {
                "log-level" => self.set_level(directive, &directive.only::<String>(argument)?)?,
                _ => return Err(directive.unknown(argument)),
            }
        }
        let mut positions = self.positions(directive)?;
        if positions.is_empty() {
            positions = (0..self.nodes.len()).collect();
        }
        let result = self.stabilize(&positions);
        self.output.quiet = before;
        result.map_err(|reason| directive.error(reason))
    }

    fn print_log(&mut self, at: usize) {
        let store = self.nodes[at].raft.storage();
        let lines = if store.log().is_empty() {
            format!("log is empty: first index={}, last index={}", store.first_index(), store.last_index())
        } else {
            print::entries(store.log())
        };
        self.output.print(&lines);
    }

    fn compact(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let [node, index] = self.words(directive)?;
        let at = self.position(directive, node)?;
        let index = directive.read("index", index)?;
        match self.nodes[at].raft.storage_mut().compact(index) {
            Ok(()) => self.print_log(at),
            Err(error) => return Err(directive.error(format!("index {index}: {error}"))),
        }
        Ok(())
    }

    fn raft_state(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let [] = self.words(directive)?;
        for node in &self.nodes {
            let raft = &node.raft;
            let state = raft.conf_state();
            let voter = state.voters.contains(&raft.id()) || state.voters_outgoing.contains(&raft.id());
            let voter = if voter { "Voter" } else { "Non-Voter" };
            let role = print::role(raft.role());
            self.output.print(&format!("{}: {role} ({voter}) Term:{} Lead:{}", raft.id(), raft.term(), raft.leader()));
        }
        Ok(())
    }

    fn print_status(&mut self, at: usize) {
        let raft = &self.nodes[at].raft;
        if raft.role() != Role::Leader {
            return;
        }
        for (id, progress) in &raft.status().progress {
            self.output.print(&format!("{id}: {}", print::progress(progress)));
        }
    }

    fn send_snapshot(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let (at, to) = self.two_ids(directive)?;
        let raft = &self.nodes[at].raft;
        let mut message = Message::new(MessageKind::Snapshot, raft.id(), to);
        message.term = raft.term();
        message.snapshot = Some(Box::new(raft.storage().state()));
        self.output.print(&print::message(&message));
        self.network.push(Envelope::peer(message));
        Ok(())
    }

    fn send_message(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let mut message = Message::new(MessageKind::Heartbeat, 0, 0);
        let mut named = false;
        for argument in &directive.arguments {
            match argument.key.as_str() {
                "from" => message.from = directive.only(argument)?,
                "to" => message.to = self.position(directive, &directive.only::<String>(argument)?)? as NodeId + 1,
                "type" => {
                    let name = directive.only::<String>(argument)?;
                    let kind = MessageKind::ALL.into_iter().find(|kind| print::message_kind(*kind) == name);
                    message.kind = kind.ok_or_else(|| directive.error(format!("unknown kind of message {name:?}")))?;
                    named = true;
                }
                "term" => message.term = directive.only(argument)?,
                "log-term" => message.log_term = directive.only(argument)?,
                "index" => message.index = directive.only(argument)?,
                "commit" => message.commit = directive.only(argument)?,
                "reject" => message.reject = directive.only(argument)?,
                "hint" => message.reject_hint = directive.only(argument)?,
                _ => return Err(directive.unknown(argument)),
            }
        }
        if message.from == 0 || message.to == 0 || !named {
            return Err(directive.error("takes from=, to= and type="));
        }
        self.output.print(&print::message(&message));
        self.network.push(Envelope::peer(message));
        Ok(())
    }

    fn set_election_timeout(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let words: Vec<&Argument> = directive.positional().collect();
        let [node] = words[..] else { return Err(directive.error("takes one node")) };
        let at = self.position(directive, &node.key)?;
        let mut timeout = None;
        for argument in directive.keyed() {
            match argument.key.as_str() {
                "timeout" => timeout = Some(directive.only::<u32>(argument)?),
                _ => return Err(directive.unknown(argument)),
            }
        }
        let timeout = timeout.filter(|ticks| *ticks > 0);
        let ticks = timeout.ok_or_else(|| directive.error("takes timeout= with a number of ticks above 0"))?;
        self.nodes[at].raft.set_randomized_election_timeout(ticks);
        Ok(())
    }

    fn transfer_leadership(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let (mut from, mut to) = (None, None);
        for argument in &directive.arguments {
            match argument.key.as_str() {
                "from" => from = Some(self.position(directive, &directive.only::<String>(argument)?)?),
                "to" => to = Some(directive.only::<NodeId>(argument)?),
                _ => return Err(directive.unknown(argument)),
            }
        }
        let (Some(from), Some(to)) = (from, to) else { return Err(directive.error("takes from= and to=")) };
        self.nodes[from].raft.transfer_leader(to);
        Ok(())
    }

    fn read_index(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let [node, context] = self.words(directive)?;
        let at = self.position(directive, node)?;
        self.nodes[at].raft.read_index(Bytes::from(context.to_owned()));
        Ok(())
    }

    fn report_snapshot(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let [node, member, result] = self.words(directive)?;
        let at = self.position(directive, node)?;
        let member = directive.read("node", member)?;
        let ok = match result {
            "ok" => true,
            "failed" => false,
            other => return Err(directive.error(format!("{other:?} is neither ok nor failed"))),
        };
        self.nodes[at].raft.report_snapshot(member, ok);
        Ok(())
    }
}
