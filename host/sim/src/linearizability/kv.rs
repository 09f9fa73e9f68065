//! The key-value module of the tests as a sequential object: one key, its value and its version.
//!
//! As `kv.v1.Kv` has it: the first write of an absent key makes version 1 and each later one adds one, so that a deleted
//! key starts over; a delete tells whether there was a key; a compare-and-set is refused where the present value, or its
//! absence, is not the expected one, and then changes nothing.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::sync::Arc;

use super::{History, Model, Operation, Outcome, Verdict, check_by_key};

/// A value's bytes: shared, for a search holds many states.
pub type Value = Arc<[u8]>;

/// What a client asks of a key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum KvOp {
    /// The value and its version.
    Get,
    /// Writes a value, whatever was there.
    Put(Value),
    /// Removes the key.
    Delete,
    /// Writes a value where the present one, or its absence, is the expected one.
    CompareAndSet {
        /// The value that must be present; without one, the key must be absent.
        expected: Option<Value>,
        /// The value to write.
        value: Value,
    },
}

impl KvOp {
    /// A [`KvOp::Put`] of these bytes.
    pub fn put(value: impl AsRef<[u8]>) -> Self {
        KvOp::Put(value.as_ref().into())
    }

    /// A [`KvOp::CompareAndSet`] of these bytes.
    pub fn compare_and_set(expected: Option<&[u8]>, value: impl AsRef<[u8]>) -> Self {
        KvOp::CompareAndSet { expected: expected.map(Value::from), value: value.as_ref().into() }
    }
}

/// What a client sees.
#[derive(Clone, PartialEq, Eq)]
pub enum KvRet {
    /// To a get: the value and its version, or that there is no such key.
    Value(Option<(Value, u64)>),
    /// To a put or a compare-and-set: the version written.
    Version(u64),
    /// To a delete: whether there was such a key.
    Existed(bool),
    /// To a compare-and-set: another value is present than the expected one, or one where none was expected, or none.
    Refused,
}

impl KvRet {
    /// A [`KvRet::Value`] of these bytes at that version.
    pub fn value(value: impl AsRef<[u8]>, version: u64) -> Self {
        KvRet::Value(Some((value.as_ref().into(), version)))
    }
}

/// The model of one key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kv;

impl Model for Kv {
    type Op = KvOp;
    type Ret = KvRet;
    type State = Option<(Value, u64)>;

    fn init(&self) -> Self::State {
        None
    }

    fn step(&self, state: &Self::State, op: &KvOp, ret: Option<&KvRet>) -> Option<Self::State> {
        match (op, ret) {
            (KvOp::Get, None) => Some(state.clone()),
            (KvOp::Get, Some(KvRet::Value(seen))) => (seen == state).then(|| state.clone()),
            (KvOp::Put(value), None | Some(KvRet::Version(_))) => write(state, value, ret),
            (KvOp::Delete, None) => Some(None),
            (KvOp::Delete, Some(KvRet::Existed(existed))) => (*existed == state.is_some()).then_some(None),
            (KvOp::CompareAndSet { expected, value }, None | Some(KvRet::Version(_) | KvRet::Refused)) => {
                let holds = state.as_ref().map(|(value, _)| value) == expected.as_ref();
                match ret {
                    Some(KvRet::Refused) => (!holds).then(|| state.clone()),
                    None if !holds => Some(state.clone()),
                    _ if holds => write(state, value, ret),
                    _ => None,
                }
            }
            // An answer that the method does not give.
            (KvOp::Get | KvOp::Put(_) | KvOp::Delete | KvOp::CompareAndSet { .. }, Some(_)) => None,
        }
    }

    fn changes_nothing(&self, op: &KvOp, ret: Option<&KvRet>) -> bool {
        matches!((op, ret), (KvOp::Get, _) | (_, Some(KvRet::Refused | KvRet::Existed(false))))
    }

    /// A write leads to higher versions and away from a value or from absence; a delete leads to absence, and from there
    /// to any version.
    fn may_help(&self, state: &Self::State, unknown: &KvOp, open: &KvOp, ret: &KvRet) -> bool {
        let version = state.as_ref().map_or(0, |(_, version)| *version);
        let is_delete = *unknown == KvOp::Delete;
        let towards = |wanted: u64| is_delete || wanted > version;
        match (open, ret) {
            (KvOp::Get, KvRet::Value(seen)) => towards(seen.as_ref().map_or(0, |(_, version)| *version)),
            (KvOp::Put(_) | KvOp::CompareAndSet { .. }, KvRet::Version(written)) => towards(written.saturating_sub(1)),
            // Here and below: where a key is already present, or the value is already another, `open` needs no help.
            (KvOp::Delete, KvRet::Existed(existed)) => *existed == state.is_none(),
            (KvOp::CompareAndSet { expected, .. }, KvRet::Refused) => {
                state.as_ref().map(|(value, _)| value) == expected.as_ref()
            }
            _ => false,
        }
    }

    /// Values that no get answered with and no compare-and-set expects can be told from no other such value: all get one
    /// name, and unknown writes of them then ask for the same. (Versions stay: where they have a gap, such a write is
    /// needed.) The other values get short names.
    fn simplify(&self, mut operations: Vec<Operation<KvOp, KvRet>>) -> Vec<Operation<KvOp, KvRet>> {
        let mut names: HashMap<Value, Value> = HashMap::new();
        for Operation { op, outcome, .. } in &operations {
            let spoken_of = match (op, outcome) {
                (_, Outcome::NoEffect) => None,
                (KvOp::CompareAndSet { expected, .. }, _) => expected.as_ref(),
                (_, Outcome::Returned { ret: KvRet::Value(Some((value, _))), .. }) => Some(value),
                _ => None,
            };
            if let Some(value) = spoken_of {
                let name = names.len() as u64 + 1;
                names.entry(value.clone()).or_insert_with(|| Value::from(name.to_le_bytes()));
            }
        }
        let unspoken = Value::from(0_u64.to_le_bytes());
        let rename = |value: &mut Value| *value = names.get(value).unwrap_or(&unspoken).clone();
        for Operation { op, outcome, .. } in &mut operations {
            match op {
                KvOp::Put(value) => rename(value),
                KvOp::CompareAndSet { expected, value } => {
                    expected.iter_mut().for_each(rename);
                    rename(value);
                }
                KvOp::Get | KvOp::Delete => {}
            }
            if let Outcome::Returned { ret: KvRet::Value(Some((value, _))), .. } = outcome {
                rename(value);
            }
        }
        operations
    }

    fn describe_state(&self, state: &Self::State) -> String {
        match state {
            None => "no key".to_owned(),
            Some((value, version)) => format!("{} at version {version}", Shown(value)),
        }
    }
}

/// The state after a write that answers with `ret`, if that is its version.
fn write(state: &Option<(Value, u64)>, value: &Value, ret: Option<&KvRet>) -> Option<Option<(Value, u64)>> {
    let version = state.as_ref().map_or(0, |(_, version)| *version) + 1;
    match ret {
        Some(KvRet::Version(told)) if *told != version => None,
        _ => Some(Some((value.clone(), version))),
    }
}

/// Judges a history of operations on many keys, each with at most [`super::STEPS_MAX`] steps.
pub fn check<K: Ord + Clone>(history: &History<(K, KvOp), KvRet>) -> Verdict<K> {
    check_by_key(history, |(key, op)| (key, op), &Kv)
}

impl Debug for KvOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvOp::Get => write!(f, "get"),
            KvOp::Put(value) => write!(f, "put {}", Shown(value)),
            KvOp::Delete => write!(f, "delete"),
            KvOp::CompareAndSet { expected: None, value } => write!(f, "set {} if absent", Shown(value)),
            KvOp::CompareAndSet { expected: Some(expected), value } => {
                write!(f, "set {} if {}", Shown(value), Shown(expected))
            }
        }
    }
}

impl Debug for KvRet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvRet::Value(None) => write!(f, "no key"),
            KvRet::Value(Some((value, version))) => write!(f, "{} at version {version}", Shown(value)),
            KvRet::Version(version) => write!(f, "version {version}"),
            KvRet::Existed(true) => write!(f, "existed"),
            KvRet::Existed(false) => write!(f, "no key"),
            KvRet::Refused => write!(f, "refused"),
        }
    }
}

/// A value for a person: short, as text where it is one.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BYTES_SHOWN_MAX: usize = 16;
        match std::str::from_utf8(self.0) {
            Ok(text) if text.len() <= BYTES_SHOWN_MAX => return write!(f, "{text:?}"),
            _ => write!(f, "0x")?,
        }
        for byte in self.0.iter().take(BYTES_SHOWN_MAX / 2) {
            write!(f, "{byte:02x}")?;
        }
        if self.0.len() > BYTES_SHOWN_MAX / 2 {
            write!(f, ".. ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}
