//! Objects of the literature as models: a register with compare-and-set, and a queue. And objects that really run, to
//! record histories of.

use std::collections::VecDeque;
use std::fmt::Debug;

use telegraft_sim::linearizability::Model;
use telegraft_sim::linearizability::kv::{KvOp, KvRet, Value};

/// A register of numbers, without a value at first, as Jepsen's tests of etcd used one.
pub struct Register;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegisterOp {
    Read,
    Write(u64),
    CompareAndSet(u64, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterRet {
    Read(Option<u64>),
    Done,
    Refused,
}

impl Model for Register {
    type Op = RegisterOp;
    type Ret = RegisterRet;
    type State = Option<u64>;

    fn init(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, op: &RegisterOp, ret: Option<&RegisterRet>) -> Option<Option<u64>> {
        let mut next = *state;
        let answer = next.perform(op);
        ret.is_none_or(|ret| *ret == answer).then_some(next)
    }

    fn changes_nothing(&self, op: &RegisterOp, ret: Option<&RegisterRet>) -> bool {
        *op == RegisterOp::Read || ret == Some(&RegisterRet::Refused)
    }
}

/// An object that can be run.
pub trait Object: Default {
    type Op: Clone + Debug;
    type Ret: Clone + Debug;

    /// Serves one request.
    fn perform(&mut self, op: &Self::Op) -> Self::Ret;
}

impl Object for Option<u64> {
    type Op = RegisterOp;
    type Ret = RegisterRet;

    fn perform(&mut self, op: &RegisterOp) -> RegisterRet {
        match *op {
            RegisterOp::Read => return RegisterRet::Read(*self),
            RegisterOp::Write(value) => *self = Some(value),
            RegisterOp::CompareAndSet(from, to) if *self == Some(from) => *self = Some(to),
            RegisterOp::CompareAndSet(..) => return RegisterRet::Refused,
        }
        RegisterRet::Done
    }
}

/// A store of one key, written apart from the model of one: as the table of the real module, with or without a row.
#[derive(Default)]
pub struct Store {
    rows: Vec<(Value, u64)>,
}

impl Object for Store {
    type Op = KvOp;
    type Ret = KvRet;

    fn perform(&mut self, op: &KvOp) -> KvRet {
        let value = match op {
            KvOp::Get => return KvRet::Value(self.rows.first().cloned()),
            KvOp::Delete => return KvRet::Existed(self.rows.drain(..).count() > 0),
            KvOp::Put(value) => value,
            KvOp::CompareAndSet { expected, value } => {
                let present: Vec<&Value> = self.rows.iter().map(|(value, _)| value).collect();
                if present != expected.iter().collect::<Vec<_>>() {
                    return KvRet::Refused;
                }
                value
            }
        };
        if self.rows.is_empty() {
            self.rows.push((value.clone(), 0));
        }
        let row = &mut self.rows[0];
        *row = (value.clone(), row.1 + 1);
        KvRet::Version(row.1)
    }
}

/// A first-in, first-out queue.
pub struct Queue;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QueueOp {
    Enqueue(char),
    Dequeue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueRet {
    Enqueued,
    Dequeued(Option<char>),
}

impl Model for Queue {
    type Op = QueueOp;
    type Ret = QueueRet;
    type State = VecDeque<char>;

    fn init(&self) -> VecDeque<char> {
        VecDeque::new()
    }

    fn step(&self, state: &VecDeque<char>, op: &QueueOp, ret: Option<&QueueRet>) -> Option<VecDeque<char>> {
        let mut next = state.clone();
        let answer = match op {
            QueueOp::Enqueue(item) => {
                next.push_back(*item);
                QueueRet::Enqueued
            }
            QueueOp::Dequeue => QueueRet::Dequeued(next.pop_front()),
        };
        ret.is_none_or(|ret| *ret == answer).then_some(next)
    }
}
