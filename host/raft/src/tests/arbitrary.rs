//! Messages nobody would send: no panic, no broken invariant, and no trace of what was refused.

use bytes::Bytes;
use proptest::prelude::*;

use crate::invariants;
use crate::{
    ConfState, Config, Entry, EntryKind, MemStorage, Message, MessageKind, Raft, Snapshot, SnapshotMeta, Storage,
};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..12, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 4), 1 => any::<u64>()]
}

fn kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![4 => Just(EntryKind::Normal), 1 => Just(EntryKind::ConfChange), 1 => Just(EntryKind::ConfChangeV2)]
}

fn entry() -> impl Strategy<Value = Entry> {
    (number(), number(), kind(), proptest::collection::vec(any::<u8>(), 0..12))
        .prop_map(|(term, index, kind, data)| Entry { term, index, kind, data: data.into() })
}

fn snapshot() -> impl Strategy<Value = Option<Box<Snapshot>>> {
    let ids = || proptest::collection::vec(0u64..5, 0..4);
    let one = (number(), number(), ids(), ids(), ids(), ids(), any::<bool>()).prop_map(
        |(index, term, voters, learners, voters_outgoing, learners_next, auto_leave)| {
            let conf_state = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
            Box::new(Snapshot { meta: SnapshotMeta { conf_state, index, term }, data: Bytes::new() })
        },
    );
    proptest::option::of(one)
}

prop_compose! {
    fn message()(
        kind in proptest::sample::select(&MessageKind::ALL[..]),
        from in 0u64..5,
        (term, log_term, index, commit, reject_hint) in (number(), number(), number(), number(), number()),
        (follows, entries) in (any::<bool>(), proptest::collection::vec(entry(), 0..4)),
        snapshot in snapshot(),
        reject: bool,
        context in proptest::sample::select(vec![&b""[..], b"transfer", b"\x01\0\0\0\0\0\0\0"]),
    ) -> Message {
        let mut entries: Vec<Entry> = entries;
        if follows {
            // Often enough a piece of a log, or few get past the first examination.
            for (at, entry) in entries.iter_mut().enumerate() {
                entry.index = index.saturating_add(at as u64 + 1);
                entry.term = log_term.max(1);
            }
        }
        Message {
            kind, from, to: 1, term, log_term, index, entries, commit, vote: 0, snapshot, reject, reject_hint,
            context: Bytes::from_static(context),
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Step(Box<Message>),
    Tick,
    Campaign,
    Propose,
    Ready,
    Read,
    Transfer(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => message().prop_map(|m| Event::Step(Box::new(m))),
        2 => Just(Event::Tick),
        1 => Just(Event::Campaign),
        2 => Just(Event::Propose),
        6 => Just(Event::Ready),
        1 => Just(Event::Read),
        1 => (0u64..5).prop_map(Event::Transfer),
    ]
}

/// Takes and carries out all work, as a host would.
fn carry_out(raft: &mut Raft<MemStorage>) {
    for _ in 0..50 {
        if !raft.has_ready() {
            return;
        }
        let ready = raft.ready();
        if let Some(snapshot) = ready.snapshot {
            raft.storage_mut().apply_snapshot(snapshot);
        }
        raft.storage_mut().append(&ready.entries).expect("entries follow the log");
        if let Some(hard_state) = ready.hard_state {
            raft.storage_mut().set_hard_state(hard_state);
        }
        if let Some(ticket) = ready.append {
            raft.persisted(ticket);
        }
        for entry in &ready.committed_entries {
            if let Ok(change) = crate::ConfChangeV2::decode(entry) {
                raft.apply_conf_change(&change);
            }
            raft.applied(entry.index);
        }
    }
}

fn raft(pre_vote: bool, check_quorum: bool, async_storage_writes: bool, voters: u64) -> Raft<MemStorage> {
    let conf_state = ConfState { voters: (1..=voters).collect(), ..Default::default() };
    let mut config = Config::new(1, 7);
    (config.pre_vote, config.check_quorum, config.async_storage_writes) =
        (pre_vote, check_quorum, async_storage_writes);
    (config.election_ticks, config.proposal_forwarding) = (3, true);
    Raft::new(config, MemStorage::with_conf_state(conf_state)).expect("an empty log starts")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_message_panics_or_breaks_an_invariant(
        events in proptest::collection::vec(event(), 1..60),
        flags in any::<[bool; 3]>(),
        voters in 1u64..4,
    ) {
        let mut raft = raft(flags[0], flags[1], flags[2], voters);
        let mut before = invariants::observe(&raft);
        for event in events {
            match event {
                Event::Step(message) => {
                    let (status, ready) = (raft.status(), raft.has_ready());
                    if raft.step(*message).is_err() {
                        prop_assert_eq!((raft.status(), raft.has_ready()), (status, ready), "a refused message changed something");
                    }
                }
                Event::Tick => raft.tick(),
                Event::Campaign => raft.campaign(),
                Event::Propose => drop(raft.propose(vec![Bytes::from_static(b"x")])),
                Event::Ready => carry_out(&mut raft),
                Event::Read => raft.read_index(Bytes::from_static(b"r")),
                Event::Transfer(to) => raft.transfer_leader(to),
            }
            let now = invariants::observe(&raft);
            prop_assert_eq!(invariants::check(&raft), Ok(()));
            prop_assert_eq!(invariants::check_across(1, &before, &now), Ok(()));
            prop_assert_eq!(raft.fault(), None);
            before = now;
        }
        prop_assert!(raft.storage().first_index() >= 1);
    }

    #[test]
    fn conf_changes_decode_what_was_encoded_and_never_panic(
        data in proptest::collection::vec(any::<u8>(), 0..40),
        kind in kind(),
    ) {
        let entry = Entry { term: 1, index: 1, kind, data: data.into() };
        if let Ok(change) = crate::ConfChangeV2::decode(&entry) {
            let again = Entry { kind: EntryKind::ConfChangeV2, data: change.encode(), ..entry };
            prop_assert_eq!(crate::ConfChangeV2::decode(&again), Ok(change));
        }
    }
}
