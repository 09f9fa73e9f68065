//! Clients and nodes talking: requests that arrive, answers that go back, and what a client does next.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use telegraft_node::{Input, ReadOutcome, Write, WriteOutcome};
use telegraft_raft::NodeId;

use crate::{
    clients::{Consistency, Reply, Request, Step, get_call},
    judge::{Violation, violation},
    outside::Outside,
    process::{Ticket, Told, data_hash},
    settings::MachineKind,
    world::{Event, OPERATIONS_AFTER, World},
};

impl World {
    /// Passes on what a node's process has answered.
    pub(crate) fn answer(&mut self, node: NodeId) -> Result<(), Violation> {
        let Some(process) = self.processes.get(&node) else { return Ok(()) };
        let told: Vec<(Ticket, Told)> = process.answers.borrow_mut().drain(..).collect();
        for (ticket, told) in told {
            let reply = match told {
                Told::Write(WriteOutcome::Applied { index, outcome }) => {
                    Reply::Applied { index, outcome, data: ticket.data }
                }
                Told::Write(WriteOutcome::NotLeader { leader }) => Reply::Elsewhere(leader),
                Told::Write(
                    WriteOutcome::Replaced
                    | WriteOutcome::Overloaded
                    | WriteOutcome::ChangeRefused(_)
                    | WriteOutcome::TransferFirst,
                ) => Reply::NotApplied,
                Told::Write(WriteOutcome::Unknown) => Reply::Unknown,
                Told::Read(ReadOutcome::At { index }) => match self.read_now(node, ticket, index)? {
                    Some(reply) => reply,
                    None => continue,
                },
                Told::Read(ReadOutcome::NoLeader | ReadOutcome::Overloaded) => Reply::Elsewhere(0),
            };
            self.tell(ticket.client, ticket.attempt, reply);
        }
        Ok(())
    }

    pub(crate) fn read_now(&mut self, node: NodeId, ticket: Ticket, at_least: u64) -> Result<Option<Reply>, Violation> {
        let reply = match &self.outside {
            Some(outside) => match outside.asked(ticket) {
                Some((method, payload)) => self.query(node, &method, &payload)?,
                None => return Ok(None),
            },
            None => {
                let Some(Some(key)) = self.clients.get(ticket.client).map(|client| client.reads(ticket.attempt)) else {
                    return Ok(None);
                };
                let (method, payload) = get_call(key);
                self.query(node, method, &payload)?
            }
        };
        if let Some(Reply::Read { index, .. }) = &reply
            && *index < at_least
        {
            return violation('X', format!("node {node} let a read of index {at_least} go on at {index}"));
        }
        Ok(reply)
    }

    pub(crate) fn query(&mut self, node: NodeId, method: &str, payload: &[u8]) -> Result<Option<Reply>, Violation> {
        let running = self.processes.get_mut(&node).and_then(|process| process.running.as_mut());
        let Some(running) = running else { return Ok(None) };
        match running.machine.query(method, payload) {
            Ok((index, outcome)) => Ok(Some(Reply::Read { index, outcome })),
            Err(fault) => violation('P', format!("node {node}: {fault}")),
        }
    }

    pub(crate) fn tell(&mut self, client: usize, attempt: u64, reply: Reply) {
        for _ in 0..self.outside.as_mut().map_or(1, Outside::copies_of_a_reply) {
            if let Some(delay) = self.network.send_client() {
                self.after(delay, Event::ToClient(client, attempt, Box::new(reply.clone())));
            }
        }
    }

    /// A client's request arrives at a node.
    pub(crate) fn request(
        &mut self,
        node: NodeId,
        client: usize,
        attempt: u64,
        request: Request,
    ) -> Result<(), Violation> {
        let Some(process) = self.processes.get(&node) else { return Ok(()) };
        if process.running.is_none() {
            // The connection is refused.
            self.tell(client, attempt, Reply::Elsewhere(0));
            return Ok(());
        }
        let ticket = Ticket { client, attempt, data: 0 };
        match request {
            Request::Write(mut command) => {
                command.time_us = self.epoch() + self.now * self.settings.node(node).clock_ppm / 1_000_000;
                command.entropy_high = self.rng.u64(..);
                command.entropy_low = self.rng.u64(..);
                let data = Bytes::from(command.encode_to_vec());
                let ticket = Ticket { data: data_hash(&data), ..ticket };
                let responder = process.waiter(Some(ticket));
                self.input(node, Input::Write(Write { data, responder }));
            }
            Request::Read(Consistency::Linearizable, _) => {
                let responder = process.waiter(Some(ticket));
                self.input(node, Input::Read(responder));
            }
            Request::Read(asked, key) if process.paused_until <= self.now => {
                let (method, payload) = get_call(key);
                self.read_here(node, ticket, asked, (method, &payload))?;
            }
            Request::Query(Consistency::Linearizable, _) => {
                let responder = process.waiter(Some(ticket));
                self.input(node, Input::Read(responder));
            }
            Request::Query(asked, call) if process.paused_until <= self.now => {
                self.read_here(node, ticket, asked, (&call.0, &call.1))?;
            }
            Request::Read(..) | Request::Query(..) => {}
        }
        Ok(())
    }

    /// A read of what this node has, as it is.
    fn read_here(
        &mut self,
        node: NodeId,
        ticket: Ticket,
        asked: Consistency,
        (method, payload): (&str, &[u8]),
    ) -> Result<(), Violation> {
        let Some(reply) = self.query(node, method, payload)? else { return Ok(()) };
        let early =
            matches!((&reply, asked), (Reply::Read { index, .. }, Consistency::AtLeast(least)) if *index < least);
        self.tell(ticket.client, ticket.attempt, if early { Reply::Elsewhere(0) } else { reply });
        Ok(())
    }

    pub(crate) fn client_wakes(&mut self, number: usize, attempt: u64) {
        let nodes = self.client_sees();
        let ready = self.settings.machine == MachineKind::Plain || self.seen.operated > 0 && !self.bootstrapping();
        let rest = !ready || self.healed && self.done_since_heal[number] >= OPERATIONS_AFTER;
        let Some(client) = self.clients.get_mut(number).filter(|client| client.attempt == attempt) else { return };
        let step = client.wake(self.now, &nodes, rest, &mut self.seen);
        match step {
            // Until there is a module there is nothing to ask for.
            Step::Done if number > 0 && !ready => self.client_steps(number, Step::Pause(50_000)),
            step => self.client_steps(number, step),
        }
    }

    pub(crate) fn bootstrapping(&self) -> bool {
        self.seen.operated < self.bootstrap_steps()
    }

    pub(crate) fn bootstrap_steps(&self) -> usize {
        self.modules.store.len().div_ceil(64 << 10) + 1
    }

    pub(crate) fn reply(&mut self, number: usize, attempt: u64, reply: Reply) {
        if self.outside.is_some() {
            return self.hear(number, attempt, reply);
        }
        let nodes = self.client_sees();
        let served = self.seen.served;
        let Some(client) = self.clients.get_mut(number).filter(|client| client.attempt == attempt) else { return };
        self.trace.event(&[11, self.now, number as u64, attempt, reply.number()]);
        self.trace.line(self.now, || format!("client {number} hears {reply:?}"));
        if let Some(step) = client.reply(self.now, &nodes, reply, &mut self.seen) {
            if self.healed {
                self.done_since_heal[number] += self.seen.served - served;
            }
            self.client_steps(number, step);
        }
    }

    pub(crate) fn client_steps(&mut self, number: usize, step: Step) {
        let attempt = self.clients[number].attempt;
        match step {
            Step::Send(node, request, patience) => {
                self.trace.event(&[12, self.now, number as u64, attempt, node]);
                self.trace.line(self.now, || format!("client {number} asks n{node}: {}", describe_request(&request)));
                if let Some(delay) = self.network.send_client() {
                    self.after(delay, Event::ToNode(node, number, attempt, Box::new(request)));
                }
                self.after(patience, Event::ClientWakes(number, attempt));
            }
            Step::Pause(pause) => self.after(pause, Event::ClientWakes(number, attempt)),
            Step::Done => {}
        }
    }

    /// The nodes that clients know of: all that are or were members.
    pub(crate) fn client_sees(&self) -> Vec<NodeId> {
        let mut nodes: BTreeSet<NodeId> = self.judge.newest_members().all();
        nodes.extend(1..=self.settings.voters);
        nodes.into_iter().collect()
    }
}

pub(crate) fn describe_request(request: &Request) -> String {
    match request {
        Request::Write(command) => {
            let session =
                if command.client_id.is_empty() { String::new() } else { format!(" (request {})", command.request_id) };
            match &command.body {
                Some(telegraft_proto::internal::command::Body::Call(call)) => format!("{}{session}", call.method),
                Some(telegraft_proto::internal::command::Body::ModuleChunk(chunk)) => {
                    format!("module bytes from {}", chunk.offset)
                }
                _ => "activate".to_owned(),
            }
        }
        Request::Read(consistency, key) => format!("read k{key} {consistency:?}"),
        Request::Query(consistency, call) => format!("{} {consistency:?}", call.0),
    }
}
