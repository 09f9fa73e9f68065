//! The clients: what they ask for, whom they ask, when they give up, and what they remember for the checkers. One of them
//! is the operator, who uploads and activates modules.

use std::collections::VecDeque;

use bytes::Bytes;
use fastrand::Rng;
use prost::Message as _;
use telegraft_node::ports::{Code, Outcome};
use telegraft_proto::{
    internal::{Activate, Call as GuestCall, Command, ModuleChunk, command::Body},
    kv,
};
use telegraft_raft::{Index, NodeId};

use crate::{
    linearizability::{
        Call, History,
        kv::{KvOp, KvRet},
    },
    settings::{Micros, Settings},
    trace::hash,
};

/// How a read is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// By what the node has.
    Local,
    /// By what the node has once it has this index.
    AtLeast(Index),
    /// By what all have.
    Linearizable,
}

/// What a client sends to a node.
#[derive(Clone, Debug)]
pub enum Request {
    /// A command, not stamped yet.
    Write(Box<Command>),
    /// A read of a key.
    Read(Consistency, u64),
    /// A read by method and payload, of a client outside.
    Query(Consistency, Box<(String, Bytes)>),
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Applied at this index; `data` is the hash of what was proposed.
    Applied {
        /// Index of the entry.
        index: Index,
        /// The machine's answer.
        outcome: Outcome,
        /// Hash of the data that was proposed.
        data: u64,
    },
    /// Read at this index.
    Read {
        /// Index the machine had applied.
        index: Index,
        /// The machine's answer.
        outcome: Outcome,
    },
    /// Nothing was proposed or read here; who leads, where known.
    Elsewhere(NodeId),
    /// It was not applied and will not be.
    NotApplied,
    /// Nobody here knows.
    Unknown,
}

impl Reply {
    /// A number that tells it from others, for the digest of events.
    pub fn number(&self) -> u64 {
        match self {
            Reply::Applied { index, outcome, .. } => index ^ outcome_hash(outcome),
            Reply::Read { index, outcome } => (index << 1) ^ outcome_hash(outcome),
            Reply::Elsewhere(leader) => *leader,
            Reply::NotApplied => 100,
            Reply::Unknown => 101,
        }
    }
}

/// A number for an outcome.
pub fn outcome_hash(outcome: &Outcome) -> u64 {
    match outcome {
        Ok(reply) => hash(reply) | 1,
        Err(rejection) => hash(rejection.to_string().as_bytes()) & !1,
    }
}

/// A read that did not ask for linearizability, to be held against the state at its index.
#[derive(Clone, Debug)]
pub struct PlainRead {
    /// Index it was read at.
    pub index: Index,
    /// Key.
    pub key: u64,
    /// What was seen.
    pub seen: KvRet,
    /// What the client had asked for.
    pub asked: Consistency,
}

/// A write that a client was told is applied.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Index of its entry.
    pub index: Index,
    /// Hash of its data.
    pub data: u64,
}

enum Work {
    Kv { key: u64, op: KvOp, read: Option<Consistency>, call: Option<Call> },
    Operator,
}

struct Current {
    work: Work,
    command: Option<Box<Command>>,
    give_up_at: Micros,
    /// An attempt may have been applied.
    in_doubt: bool,
}

/// One client.
pub struct Client {
    number: usize,
    rng: Rng,
    think: Micros,
    keys: u64,
    /// Counts everything that makes earlier timers and replies void.
    pub attempt: u64,
    current: Option<Current>,
    requests: u64,
    values: u64,
    /// Last value seen, by key.
    known: Vec<Option<Bytes>>,
    newest_index: Index,
    leader: Option<NodeId>,
    script: VecDeque<(Micros, Body)>,
    operator: bool,
}

/// What a client does next.
pub enum Step {
    /// Sends this, to this node, and waits so long.
    Send(NodeId, Request, Micros),
    /// Does nothing for so long.
    Pause(Micros),
    /// Does nothing any more.
    Done,
}

/// What all clients have seen.
#[derive(Default)]
pub struct Seen {
    /// Writes and linearizable reads.
    pub history: History<(u64, KvOp), KvRet>,
    /// The other reads.
    pub plain_reads: Vec<PlainRead>,
    /// Writes that were acknowledged.
    pub acknowledged: Vec<Acknowledged>,
    /// Operations that were answered.
    pub answered: u64,
    /// Those of them that only a group that serves can answer: writes, and linearizable reads.
    pub served: u64,
    /// Operations whose outcome no client knows.
    pub unknown: u64,
    /// Answers that no machine should give.
    pub absurd: Option<String>,
    /// Steps of the operator that are done.
    pub operated: usize,
}

/// Name of a key in the store.
pub fn key_name(key: u64) -> String {
    format!("k{key}")
}

impl Client {
    /// Client `number` of a world; number 0 is the operator.
    pub fn new(number: usize, settings: &Settings) -> Self {
        Client {
            number,
            rng: Rng::with_seed(settings.seed ^ ((number as u64 + 1) << 40) ^ 0xc11e47),
            think: settings.think,
            keys: settings.keys,
            attempt: 0,
            current: None,
            requests: 0,
            values: 0,
            known: vec![None; settings.keys as usize],
            newest_index: 0,
            leader: None,
            script: VecDeque::new(),
            operator: number == 0,
        }
    }

    /// Whether it waits for an answer, or the operator has more to do.
    pub fn is_busy(&self) -> bool {
        self.current.is_some() || !self.script.is_empty()
    }

    /// Gives the operator something to do, so long after what is before it.
    pub fn operate(&mut self, after: Micros, bodies: Vec<Body>) {
        let mut pause = after;
        for body in bodies {
            self.script.push_back((pause, body));
            pause = 0;
        }
    }

    /// The timer ran out: begins something, or tries again.
    pub fn wake(&mut self, now: Micros, nodes: &[NodeId], rest: bool, seen: &mut Seen) -> Step {
        self.attempt += 1;
        match self.current.take() {
            Some(current) => {
                self.leader = None;
                self.again(now, nodes, Current { in_doubt: true, ..current }, seen)
            }
            None if self.operator => match self.script.pop_front() {
                Some((0, body)) => {
                    let command = Box::new(self.command(body, true));
                    let work = Work::Operator;
                    let current = Current { work, command: Some(command), give_up_at: Micros::MAX, in_doubt: false };
                    self.send(nodes, current)
                }
                Some((pause, body)) => {
                    self.script.push_front((0, body));
                    Step::Pause(pause)
                }
                None => Step::Done,
            },
            None if rest => Step::Done,
            None => self.begin(now, nodes, seen),
        }
    }

    fn begin(&mut self, now: Micros, nodes: &[NodeId], seen: &mut Seen) -> Step {
        let key = self.rng.u64(..self.keys);
        let op = match self.rng.u8(..10) {
            0..4 => KvOp::Get,
            4..7 => KvOp::put(self.value()),
            7..9 => {
                let expected = self.known.get(key as usize).cloned().flatten();
                KvOp::compare_and_set(expected.as_deref(), self.value())
            }
            _ => KvOp::Delete,
        };
        let read = (op == KvOp::Get).then(|| match self.rng.u8(..10) {
            0 | 1 => Consistency::Local,
            2 => Consistency::AtLeast(self.newest_index),
            _ => Consistency::Linearizable,
        });
        // A read that asks for less is judged by its index alone.
        let judged = !matches!(read, Some(Consistency::Local | Consistency::AtLeast(_)));
        let call = judged.then(|| seen.history.call(self.number as u64, (key, op.clone()), now));
        let command = read.is_none().then(|| {
            let session = self.rng.u8(..4) > 0;
            Box::new(self.command(Body::Call(guest_call(key, &op)), session))
        });
        let give_up_at = now + self.rng.u64(500_000..4_000_000);
        self.send(nodes, Current { work: Work::Kv { key, op, read, call }, command, give_up_at, in_doubt: false })
    }

    fn value(&mut self) -> [u8; 12] {
        self.values += 1;
        let mut value = [0; 12];
        value[..4].copy_from_slice(&(self.number as u32).to_be_bytes());
        value[4..].copy_from_slice(&self.values.to_be_bytes());
        value
    }

    fn command(&mut self, body: Body, session: bool) -> Command {
        let mut command = Command { body: Some(body), ..Command::default() };
        if session {
            self.requests += 1;
            command.client_id = format!("client-{}", self.number);
            command.request_id = self.requests;
        }
        command
    }

    fn send(&mut self, nodes: &[NodeId], current: Current) -> Step {
        let request = match (&current.work, &current.command) {
            (Work::Kv { key, read: Some(consistency), .. }, _) => Request::Read(*consistency, *key),
            (_, Some(command)) => Request::Write(command.clone()),
            _ => return Step::Done,
        };
        let anywhere = matches!(request, Request::Read(..)) || self.rng.u8(..4) == 0;
        let to = match self.leader.filter(|leader| !anywhere && nodes.contains(leader)) {
            Some(leader) => leader,
            None => nodes[self.rng.usize(..nodes.len())],
        };
        self.current = Some(current);
        Step::Send(to, request, self.rng.u64(250_000..1_200_000))
    }

    fn again(&mut self, now: Micros, nodes: &[NodeId], current: Current, seen: &mut Seen) -> Step {
        let has_session = current.command.as_ref().is_none_or(|command| !command.client_id.is_empty());
        let safe = has_session || !current.in_doubt;
        if safe && now < current.give_up_at {
            return self.send(nodes, current);
        }
        if let Work::Kv { call: Some(call), read, .. } = current.work {
            if read.is_some() || !current.in_doubt {
                seen.history.no_effect(call);
            } else {
                // Left without an answer: it may have been applied, or yet be.
                seen.unknown += 1;
            }
        }
        self.pause()
    }

    fn pause(&mut self) -> Step {
        Step::Pause(self.rng.u64(1_000..=self.think))
    }

    /// A reply to the attempt under way.
    pub fn reply(&mut self, now: Micros, nodes: &[NodeId], reply: Reply, seen: &mut Seen) -> Option<Step> {
        let mut current = self.current.take()?;
        self.attempt += 1;
        let (index, outcome) = match reply {
            Reply::Applied { index, outcome, data } => {
                seen.acknowledged.push(Acknowledged { index, data });
                (index, outcome)
            }
            Reply::Read { index, outcome } => (index, outcome),
            Reply::Elsewhere(leader) => {
                self.leader = (leader != 0).then_some(leader);
                // Asked again a little later: nobody may lead at the moment.
                let pause = if leader == 0 { 100_000 } else { 5_000 };
                if now + pause < current.give_up_at {
                    self.current = Some(current);
                    return Some(Step::Pause(pause));
                }
                return Some(self.again(now + pause, nodes, current, seen));
            }
            Reply::NotApplied => return Some(self.again(now, nodes, current, seen)),
            Reply::Unknown => {
                current.in_doubt = true;
                return Some(self.again(now, nodes, current, seen));
            }
        };
        seen.answered += 1;
        self.newest_index = self.newest_index.max(index);
        match current.work {
            Work::Operator => {
                seen.operated += 1;
                Some(Step::Pause(1_000))
            }
            Work::Kv { key, op, read, call } => {
                match answer(&op, &outcome, call.is_none()) {
                    Answer::Ret(ret) => {
                        if let KvRet::Value(value) = &ret {
                            self.known[key as usize] = value.as_ref().map(|(v, _)| Bytes::copy_from_slice(v.as_ref()));
                        }
                        seen.served += u64::from(call.is_some());
                        match (call, read) {
                            (Some(call), _) => seen.history.returned(call, ret, now),
                            (None, Some(asked)) => seen.plain_reads.push(PlainRead { index, key, seen: ret, asked }),
                            (None, None) => {}
                        }
                    }
                    // Another module was active: certainly without effect.
                    Answer::NoEffect => {
                        if let Some(call) = call {
                            seen.history.no_effect(call);
                        }
                    }
                    Answer::Absurd => seen.absurd = Some(format!("{op:?} was answered with {outcome:?}")),
                }
                Some(self.pause())
            }
        }
    }

    /// The key that attempt `attempt` reads, if it is the one under way.
    pub fn reads(&self, attempt: u64) -> Option<u64> {
        match &self.current.as_ref().filter(|_| self.attempt == attempt)?.work {
            Work::Kv { key, read: Some(_), .. } => Some(*key),
            _ => None,
        }
    }
}

enum Answer {
    Ret(KvRet),
    NoEffect,
    Absurd,
}

fn answer(op: &KvOp, outcome: &Outcome, of_the_past: bool) -> Answer {
    let reply = match outcome {
        Ok(reply) => reply.clone(),
        Err(rejection) => {
            return match (op, rejection.code) {
                (_, Code::Unimplemented) => Answer::NoEffect,
                // A replica that lags may not have come to the module yet.
                (KvOp::Get, Code::FailedPrecondition) if of_the_past => Answer::NoEffect,
                (KvOp::Get, Code::NotFound) => Answer::Ret(KvRet::Value(None)),
                (KvOp::CompareAndSet { .. }, Code::FailedPrecondition) => Answer::Ret(KvRet::Refused),
                _ => Answer::Absurd,
            };
        }
    };
    let ret = match op {
        KvOp::Get => kv::GetReply::decode(reply).map(|r| KvRet::value(&r.value, r.version)),
        KvOp::Put(_) | KvOp::CompareAndSet { .. } => kv::PutReply::decode(reply).map(|r| KvRet::Version(r.version)),
        KvOp::Delete => kv::DeleteReply::decode(reply).map(|r| KvRet::Existed(r.existed)),
    };
    ret.map_or(Answer::Absurd, Answer::Ret)
}

/// What a read of a key gave, as the client sees it; `None` where that says nothing about the key.
pub fn seen_in(outcome: &Outcome) -> Option<KvRet> {
    match answer(&KvOp::Get, outcome, true) {
        Answer::Ret(ret) => Some(ret),
        Answer::NoEffect | Answer::Absurd => None,
    }
}

/// Method and payload of a read of a key.
pub fn get_call(key: u64) -> (&'static str, Vec<u8>) {
    ("kv.v1.Kv/Get", kv::GetRequest { key: key_name(key) }.encode_to_vec())
}

fn guest_call(key: u64, op: &KvOp) -> GuestCall {
    let key = key_name(key);
    let bytes = |value: &[u8]| Bytes::copy_from_slice(value);
    let (method, payload) = match op {
        KvOp::Get => ("Get", kv::GetRequest { key }.encode_to_vec()),
        KvOp::Put(value) => ("Put", kv::PutRequest { key, value: bytes(value.as_ref()) }.encode_to_vec()),
        KvOp::Delete => ("Delete", kv::DeleteRequest { key }.encode_to_vec()),
        KvOp::CompareAndSet { expected, value } => {
            let expected = expected.as_ref().map(|expected| bytes(expected.as_ref()));
            ("CompareAndSet", kv::CompareAndSetRequest { key, expected, value: bytes(value.as_ref()) }.encode_to_vec())
        }
    };
    GuestCall { method: format!("kv.v1.Kv/{method}"), payload: payload.into() }
}

/// Commands that upload a module, in parts of at most `part` bytes.
pub fn upload(module: &[u8], part: usize) -> Vec<Body> {
    let digest = Bytes::copy_from_slice(&telegraft_sandbox::Digest::of(module).0);
    let chunk = |(number, data): (usize, &[u8])| {
        Body::ModuleChunk(ModuleChunk {
            digest: digest.clone(),
            size: module.len() as u64,
            offset: (number * part) as u64,
            data: Bytes::copy_from_slice(data),
            ..ModuleChunk::default()
        })
    };
    module.chunks(part).enumerate().map(chunk).collect()
}

/// The command that activates a module.
pub fn activate(module: &[u8]) -> Body {
    let digest = Bytes::copy_from_slice(&telegraft_sandbox::Digest::of(module).0);
    Body::Activate(Activate { digest, ..Activate::default() })
}
