//! What stands in an entry, for the machine: its command, read once, and what kind of transaction it wants.

use prost::Message;
use telegraft_proto::internal::{Activate, Command, Rollback, command::Body, rollback::Way};
use telegraft_raft::{Entry, EntryKind};

use crate::sessions::call_hash;

/// An entry's data, read.
pub(crate) enum Decoded {
    /// Nothing for the machine.
    Nothing,
    /// Not what any host writes.
    Malformed,
    Command(Box<Command>),
}

impl Decoded {
    pub(crate) fn of(entry: &Entry) -> Decoded {
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return Decoded::Nothing;
        }
        Command::decode(entry.data.clone()).map_or(Decoded::Malformed, |command| Decoded::Command(Box::new(command)))
    }

    pub(crate) fn body(&self) -> Option<&Body> {
        match self {
            Decoded::Command(command) => command.body.as_ref(),
            _ => None,
        }
    }
}

/// What the state is kept of as it was before, which is what the last transaction committed.
pub(crate) fn begins_a_transaction(body: &Body) -> bool {
    matches!(body, Body::Activate(_) | Body::Rollback(_))
}

/// What puts a kept state back, table by table, which foreign keys would not allow.
pub(crate) fn replaces_the_data(body: &Body) -> bool {
    matches!(body, Body::Rollback(rollback) if rollback.way() == Way::KeptState)
}

/// What a request asks for, without its stamps: a retry carries others.
pub(crate) fn body_hash(body: &Body) -> [u8; 16] {
    match body {
        Body::Call(call) => call_hash(&[b"call", call.method.as_bytes(), &call.payload]),
        Body::ModuleChunk(chunk) => call_hash(&[b"chunk", &chunk.encode_to_vec()]),
        // Not by the engine: a retry may come through a host with another one.
        Body::Activate(activate) => {
            call_hash(&[b"activate", &Activate { engine: String::new(), ..activate.clone() }.encode_to_vec()])
        }
        Body::SetLimits(set) => call_hash(&[b"limits", &set.encode_to_vec()]),
        Body::Rollback(rollback) => {
            call_hash(&[b"rollback", &Rollback { engine: String::new(), ..rollback.clone() }.encode_to_vec()])
        }
        Body::EndReuse(end) => call_hash(&[b"end reuse", &end.encode_to_vec()]),
        Body::Checkpoint(checkpoint) => call_hash(&[b"checkpoint", &checkpoint.encode_to_vec()]),
        Body::DigestReport(report) => call_hash(&[b"report", &report.encode_to_vec()]),
    }
}
