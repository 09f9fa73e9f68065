//! Raft messages on the wire: the core's types to and from protobuf. A message from a peer is checked here for form; the
//! core checks what it claims.

use telegraft_proto::internal as pb;
use telegraft_raft::{ConfState, Entry, EntryKind, Message, MessageKind, Snapshot, SnapshotMeta};

/// For the wire; None for kinds that never leave a node.
pub fn to_wire(message: Message) -> pb::RaftMessage {
    pb::RaftMessage {
        kind: message.kind.to_wire(),
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message
            .entries
            .into_iter()
            .map(|e| pb::RaftEntry { term: e.term, index: e.index, kind: entry_kind_to_wire(e.kind), data: e.data })
            .collect(),
        commit: message.commit,
        vote: message.vote,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        snapshot: message.snapshot.map(|s| pb::RaftSnapshot {
            index: s.meta.index,
            term: s.meta.term,
            conf_state: Some(pb::ConfState {
                voters: s.meta.conf_state.voters,
                learners: s.meta.conf_state.learners,
                voters_outgoing: s.meta.conf_state.voters_outgoing,
                learners_next: s.meta.conf_state.learners_next,
                auto_leave: s.meta.conf_state.auto_leave,
            }),
            data: s.data,
        }),
    }
}

/// From the wire; None where a kind is unknown.
pub fn from_wire(message: pb::RaftMessage) -> Option<Message> {
    let kind = MessageKind::from_wire(message.kind)?;
    let entries = message
        .entries
        .into_iter()
        .map(|e| Some(Entry { term: e.term, index: e.index, kind: entry_kind_from_wire(e.kind)?, data: e.data }))
        .collect::<Option<Vec<_>>>()?;
    let snapshot = message.snapshot.map(|s| {
        let conf = s.conf_state.unwrap_or_default();
        Box::new(Snapshot {
            meta: SnapshotMeta {
                conf_state: ConfState {
                    voters: conf.voters,
                    learners: conf.learners,
                    voters_outgoing: conf.voters_outgoing,
                    learners_next: conf.learners_next,
                    auto_leave: conf.auto_leave,
                },
                index: s.index,
                term: s.term,
            },
            data: s.data,
        })
    });
    Some(Message {
        kind,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries,
        commit: message.commit,
        vote: message.vote,
        snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
    })
}

fn entry_kind_to_wire(kind: EntryKind) -> u32 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    }
}

fn entry_kind_from_wire(kind: u32) -> Option<EntryKind> {
    Some(match kind {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        2 => EntryKind::ConfChangeV2,
        _ => return None,
    })
}
