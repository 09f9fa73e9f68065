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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*};
    use prost::Message as _;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        (any::<u64>(), any::<u64>(), 0..3_u32, vec(any::<u8>(), 0..64)).prop_map(|(term, index, kind, data)| Entry {
            term,
            index,
            kind: entry_kind_from_wire(kind).unwrap(),
            data: data.into(),
        })
    }

    fn snapshot() -> impl Strategy<Value = Box<Snapshot>> {
        (
            any::<u64>(),
            any::<u64>(),
            vec(any::<u64>(), 0..4),
            vec(any::<u64>(), 0..4),
            any::<bool>(),
            vec(any::<u8>(), 0..64),
        )
            .prop_map(|(index, term, voters, learners, auto_leave, data)| {
                let conf_state = ConfState {
                    voters_outgoing: learners.clone(),
                    learners_next: voters.clone(),
                    voters,
                    learners,
                    auto_leave,
                };
                Box::new(Snapshot { meta: SnapshotMeta { conf_state, index, term }, data: data.into() })
            })
    }

    fn message() -> impl Strategy<Value = Message> {
        let kinds: Vec<_> = (0..64).filter_map(MessageKind::from_wire).collect();
        assert!(kinds.len() > 5, "the kinds that travel");
        let numbers =
            (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
        let rest = (
            vec(entry(), 0..4),
            proptest::option::of(snapshot()),
            any::<bool>(),
            any::<u64>(),
            vec(any::<u8>(), 0..16),
        );
        (proptest::sample::select(kinds), numbers, rest).prop_map(|(kind, numbers, rest)| {
            let (from, to, term, log_term, index, commit, vote) = numbers;
            let (entries, snapshot, reject, reject_hint, context) = rest;
            let context = Bytes::from(context);
            Message {
                kind,
                from,
                to,
                term,
                log_term,
                index,
                entries,
                commit,
                vote,
                snapshot,
                reject,
                reject_hint,
                context,
            }
        })
    }

    proptest! {
        #[test]
        fn a_message_comes_back_from_the_wire_as_it_was(message in message()) {
            let bytes = to_wire(message.clone()).encode_to_vec();
            let back = from_wire(pb::RaftMessage::decode(&*bytes).unwrap());
            prop_assert_eq!(back, Some(message));
        }

        #[test]
        fn whatever_bytes_come_from_a_peer_are_read_or_refused(bytes in vec(any::<u8>(), 0..256)) {
            if let Ok(message) = pb::RaftMessage::decode(&*bytes) {
                let _ = from_wire(message);
            }
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert_eq!(from_wire(pb::RaftMessage { kind: 4_000_000_000, ..pb::RaftMessage::default() }), None);
        let entries = vec![pb::RaftEntry { kind: 3, ..pb::RaftEntry::default() }];
        let kind = (0..64).find(|kind| MessageKind::from_wire(*kind).is_some()).unwrap();
        assert_eq!(from_wire(pb::RaftMessage { kind, entries, ..pb::RaftMessage::default() }), None);
    }
}
