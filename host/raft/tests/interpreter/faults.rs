//! What a script can make go wrong: a crash, messages that come twice or late, a snapshot that is not ready.

use telegraft_raft::Raft;

use super::datadriven::{Directive, ScriptError};
use super::environment::Environment;
use super::node::{Effect, Envelope};
use super::print;

impl Environment {
    /// `restart ID`: the node crashes and comes back from what is durable. Work of its threads that was not done is lost
    /// and with it the answers that waited for it; what was sent to other nodes stays under way.
    pub fn restart(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let [word] = self.words(directive)?;
        let at = self.position(directive, word)?;
        let node = &mut self.nodes[at];
        let id = node.raft.id();
        let mut store = node.raft.storage().clone();
        let mut config = node.config.clone();
        config.applied = store.reopen();
        node.raft = Raft::new(config, store).map_err(|error| directive.error(error.to_string()))?;
        node.appends.clear();
        node.applies.clear();
        node.tickets.clear();
        node.installing = None;
        node.observed = None;
        self.network.retain(|envelope| envelope.to != id || !envelope.is_local());
        Ok(())
    }

    /// `duplicate-msgs ID [type=KIND]`: each message under way to the node will arrive twice, its copy after all others.
    pub fn duplicate_messages(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let chosen = self.chosen(directive)?;
        let copies: Vec<Envelope> =
            self.network.iter().filter(|envelope| chosen.takes(envelope)).filter_map(copy).collect();
        self.report("copied", &copies);
        self.network.extend(copies);
        Ok(())
    }

    /// `hold-msgs ID [type=KIND]`: the messages under way to the node are delayed until `release-msgs ID`.
    pub fn hold_messages(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let chosen = self.chosen(directive)?;
        let (held, rest) = std::mem::take(&mut self.network).into_iter().partition::<Vec<_>, _>(|it| chosen.takes(it));
        self.network = rest;
        self.report("held", &held);
        self.held.extend(held);
        Ok(())
    }

    /// `release-msgs ID`: what was held for the node is under way again, behind what is under way already.
    pub fn release_messages(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let chosen = self.chosen(directive)?;
        let (released, rest) = std::mem::take(&mut self.held).into_iter().partition::<Vec<_>, _>(|it| chosen.takes(it));
        self.held = rest;
        self.report("released", &released);
        self.network.extend(released);
        Ok(())
    }

    /// `snapshot-ready ID true|false`: whether the node's state machine has a snapshot to give when it is asked.
    pub fn snapshot_ready(&mut self, directive: &Directive) -> Result<(), ScriptError> {
        let [word, ready] = self.words(directive)?;
        let at = self.position(directive, word)?;
        let ready = directive.read("true or false", ready)?;
        self.nodes[at].raft.storage_mut().set_snapshot_ready(ready);
        Ok(())
    }

    /// `configuration ID`: the membership in force at a node.
    pub fn print_configuration(&mut self, at: usize) {
        self.output.print(&print::configuration(self.nodes[at].raft.configuration()));
    }

    fn chosen(&self, directive: &Directive) -> Result<Chosen, ScriptError> {
        let mut chosen = Chosen { to: 0, kind: None };
        for argument in &directive.arguments {
            match (argument.key.as_str(), &argument.values) {
                (word, None) if chosen.to == 0 => chosen.to = self.position(directive, word)? as u64 + 1,
                ("type", Some(_)) => chosen.kind = Some(directive.message_kind(argument)?),
                _ => return Err(directive.unknown(argument)),
            }
        }
        if chosen.to == 0 { Err(directive.error("takes the node that the messages are for")) } else { Ok(chosen) }
    }

    fn report(&mut self, what: &str, envelopes: &[Envelope]) {
        for envelope in envelopes {
            self.output.print(&format!("{what}: {}", envelope.printed));
        }
        if envelopes.is_empty() {
            self.output.print("no messages");
        }
    }
}

/// Messages of other nodes to one node, all or those of one kind.
struct Chosen {
    to: u64,
    kind: Option<String>,
}

impl Chosen {
    fn takes(&self, envelope: &Envelope) -> bool {
        envelope.to == self.to
            && !envelope.is_local()
            && self.kind.as_ref().is_none_or(|kind| kind.as_str() == envelope.kind)
    }
}

fn copy(envelope: &Envelope) -> Option<Envelope> {
    match &envelope.effect {
        Effect::Step(message) => Some(Envelope::peer(message.as_ref().clone())),
        Effect::Durable { .. } | Effect::Applied(_) => None,
    }
}
