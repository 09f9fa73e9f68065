//! The clients of a cluster: whom they ask, when they ask again, and when they have their answer. A write carries a session,
//! so that it may be sent as often as it takes.

use bytes::Bytes;
use telegraft_node::ports::Outcome;
use telegraft_proto::internal::{Command, command::Body};
use telegraft_raft::{Index, NodeId};
use telegraft_sim::{
    clients::{Consistency, Reply, Request, outcome_hash},
    settings::Micros,
};

use crate::{
    cluster::Cluster,
    event::Host,
    failure::{Failure, code_name},
};

/// How long a client tries.
pub(crate) const ANSWER_WITHIN: Micros = 60_000_000;
/// Whose alarms are the clients'.
pub(crate) const CLIENTS: u64 = 0;
/// Bits of an alarm's number that are the attempt's.
const ATTEMPT_BITS: u32 = 40;

/// What a client wants.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// A command, in words and as it goes into the log.
    Write(String, Body),
    /// A read of whatever this host has.
    Local(Host, Box<(String, Bytes)>),
    /// A read that reflects every write answered before.
    Linearizable(Box<(String, Bytes)>),
}

impl Ask {
    fn words(&self) -> &str {
        match self {
            Ask::Write(words, _) => words,
            Ask::Local(_, call) | Ask::Linearizable(call) => &call.0,
        }
    }
}

/// What a client got.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// What the machine said.
    pub outcome: Outcome,
}

/// A write that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub client: String,
    pub request: u64,
    pub index: Index,
    /// Hash of the entry's data.
    pub data: u64,
    /// Hash of the answer.
    pub outcome: u64,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    name: String,
    requests: u64,
    attempt: u64,
    leader: NodeId,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    ask: Ask,
    command: Option<Box<Command>>,
    begun: Micros,
    tries: u32,
    /// It knows already that it must ask again, and only waits a moment.
    pausing: bool,
    /// The story says that it was told so.
    told: bool,
}

impl Client {
    pub fn new(number: usize) -> Self {
        let name = if number == 0 { "operator".to_owned() } else { format!("client-{number}") };
        Client { name, requests: 0, attempt: 0, leader: 0, current: None }
    }
}

impl Cluster {
    /// Has a client, which must be idle, ask for something.
    pub(crate) fn begin(&mut self, number: usize, ask: Ask) -> Result<(), Failure> {
        while self.clients.len() <= number {
            self.clients.push(Client::new(self.clients.len()));
        }
        let begun = self.world.now();
        let client = &mut self.clients[number];
        let command = if let Ask::Write(_, body) = &ask {
            client.requests += 1;
            let (client_id, request_id) = (client.name.clone(), client.requests);
            let body = Some(body.clone());
            Some(Box::new(Command { body, client_id, request_id, ..Command::default() }))
        } else {
            None
        };
        let words = || format!("{}: {}", self.clients[number].name, ask.words());
        self.story.tell(begun, words);
        self.clients[number].current = Some(Current { ask, command, begun, tries: 0, pausing: false, told: false });
        self.tally.calls += u64::from(number > 0);
        if number > 0 {
            self.let_chance_play();
        }
        self.send(number)
    }

    fn send(&mut self, number: usize) -> Result<(), Failure> {
        let now = self.world.now();
        let client = &mut self.clients[number];
        let Some(current) = &mut client.current else { return Ok(()) };
        if now - current.begun > ANSWER_WITHIN {
            let what = format!("{} of {}", current.ask.words(), client.name);
            let within = std::time::Duration::from_micros(ANSWER_WITHIN);
            return Err(Failure::NoAnswer { what, within });
        }
        client.attempt += 1;
        current.tries += 1;
        current.pausing = false;
        self.tally.retries += u64::from(current.tries > 1);
        let attempt = client.attempt;
        let known = client.leader;
        let (request, at) = match (&current.ask, &current.command) {
            (Ask::Local(host, call), _) => (Request::Query(Consistency::Local, call.clone()), Some(*host)),
            (Ask::Linearizable(call), _) => (Request::Query(Consistency::Linearizable, call.clone()), None),
            (Ask::Write(..), Some(command)) => (Request::Write(command.clone()), None),
            (Ask::Write(..), None) => return Ok(()),
        };
        let to_leader = known != 0 && matches!(request, Request::Write(_)) && self.rng.u8(..4) > 0;
        let node = match at {
            Some(host) => self.resolve(host),
            None if to_leader => known,
            None => self.rng.u64(1..=self.hosts),
        };
        let patience = self.rng.u64(250_000..1_200_000);
        self.world.ask(number, attempt, node, request);
        self.wake(number, attempt, patience);
        Ok(())
    }

    fn wake(&mut self, number: usize, attempt: u64, delay: Micros) {
        self.world.alarm(delay, CLIENTS, ((number as u64) << ATTEMPT_BITS) | attempt);
    }

    /// A client's alarm: no answer came, or a pause is over.
    pub(crate) fn client_wakes(&mut self, which: u64) -> Result<(), Failure> {
        let number = usize::try_from(which >> ATTEMPT_BITS).unwrap_or(usize::MAX);
        let now = self.world.now();
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        let Some(current) = client.current.as_ref().filter(|_| client.attempt == which & ((1 << ATTEMPT_BITS) - 1))
        else {
            return Ok(());
        };
        if !current.pausing {
            client.leader = 0;
            self.story.tell(now, || format!("{} hears nothing and asks again", client.name));
        }
        self.send(number)
    }

    /// A reply to a client's attempt. One to an old attempt, or a second one, changes nothing.
    pub(crate) fn client_hears(&mut self, number: usize, attempt: u64, reply: Reply) {
        let now = self.world.now();
        let Some(client) = self.clients.get_mut(number).filter(|client| client.attempt == attempt) else { return };
        let Some(current) = &mut client.current else { return };
        if current.pausing {
            return;
        }
        let pause = match reply {
            Reply::Applied { index, outcome, data } => {
                let (client, request) = (client.name.clone(), client.requests);
                let hash = outcome_hash(&outcome);
                self.acknowledged.push(Acknowledged { client, request, index, data, outcome: hash });
                return self.answered(number, index, outcome);
            }
            Reply::Read { index, outcome } => return self.answered(number, index, outcome),
            Reply::Elsewhere(leader) => {
                client.leader = leader;
                // Asked again a little later where nobody leads at the moment.
                if leader == 0 { 60_000 } else { 3_000 }
            }
            // With its session it may be sent again, whether it was applied or not.
            Reply::NotApplied | Reply::Unknown => 10_000,
        };
        current.pausing = true;
        let attempt = client.attempt;
        if pause > 3_000 && !current.told {
            current.told = true;
            self.story.tell(now, || format!("{} is told to try again later", client.name));
        }
        self.wake(number, attempt, pause);
    }

    fn answered(&mut self, number: usize, index: Index, outcome: Outcome) {
        let now = self.world.now();
        let client = &mut self.clients[number];
        let Some(current) = client.current.take() else { return };
        let said = match &outcome {
            Ok(reply) => format!("{} bytes", reply.len()),
            Err(rejection) => format!("{}: {}", code_name(rejection.code), rejection.message),
        };
        self.story.tell(now, || {
            let tries = if current.tries > 1 { format!(", asked {} times", current.tries) } else { String::new() };
            format!("{}: {} answered at index {index}{tries}: {said}", client.name, current.ask.words())
        });
        self.done.push_back((number, Answer { outcome }));
    }
}
