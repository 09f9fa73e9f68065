//! Single decisions, each by name.

use bytes::Bytes;

use crate::{
    AppendTicket, ConfChangeKind, ConfChangeV2, ConfState, Config, Entry, EntryKind, Error, HardState, Index,
    MemStorage, Message, MessageKind, ProgressState, ProposeError, Raft, ReadState, Ready, Role, Snapshot,
    SnapshotMeta, StepError, Storage, StorageError, Term,
};

fn entry(term: Term, index: Index) -> Entry {
    Entry { term, index, kind: EntryKind::Normal, data: Bytes::new() }
}

fn storage(voters: u64, terms: &[Term]) -> MemStorage {
    let mut storage = MemStorage::with_conf_state(ConfState { voters: (1..=voters).collect(), ..Default::default() });
    let entries: Vec<Entry> = terms.iter().zip(1..).map(|(term, index)| entry(*term, index)).collect();
    storage.append(&entries).unwrap();
    let term = terms.last().copied().unwrap_or(0);
    storage.set_hard_state(HardState { term, vote: 0, commit: 0 });
    storage
}

fn config() -> Config {
    let mut config = Config::new(1, 3);
    (config.pre_vote, config.check_quorum) = (false, false);
    config
}

fn core(voters: u64, terms: &[Term]) -> Raft<MemStorage> {
    Raft::new(config(), storage(voters, terms)).unwrap()
}

fn from(peer: u64, kind: MessageKind, term: Term) -> Message {
    Message { term, ..Message::new(kind, peer, 1) }
}

fn persist(raft: &mut Raft<MemStorage>, ready: &Ready) {
    raft.storage_mut().append(&ready.entries).unwrap();
    if let Some(hard_state) = ready.hard_state {
        raft.storage_mut().set_hard_state(hard_state);
    }
}

/// Takes all work, persists and acknowledges it, and returns every message to a peer.
fn settle(raft: &mut Raft<MemStorage>) -> Vec<Message> {
    let mut messages = Vec::new();
    while raft.has_ready() {
        let ready = raft.ready();
        persist(raft, &ready);
        messages.extend(ready.messages);
        messages.extend(ready.messages_after_append);
        if let Some(ticket) = ready.append {
            raft.persisted(ticket);
        }
        if let Some(last) = ready.committed_entries.last() {
            raft.applied(last.index);
        }
    }
    messages
}

/// A leader of three in its first term after those of the log.
fn leader(terms: &[Term]) -> Raft<MemStorage> {
    let mut raft = core(3, terms);
    raft.campaign();
    settle(&mut raft);
    let term = raft.term();
    raft.step(from(2, MessageKind::VoteResponse, term)).unwrap();
    assert_eq!(raft.role(), Role::Leader);
    settle(&mut raft);
    raft
}

fn acknowledge(raft: &mut Raft<MemStorage>, peer: u64, index: Index) {
    let term = raft.term();
    raft.step(Message { index, ..from(peer, MessageKind::AppendResponse, term) }).unwrap();
}

#[test]
fn a_leader_commits_only_its_own_term_by_counting() {
    let mut raft = leader(&[1, 2]);
    acknowledge(&mut raft, 2, 2);
    assert_eq!(raft.commit_index(), 0, "a quorum holds entry 2, but it is of an earlier term");
    acknowledge(&mut raft, 2, 3);
    assert_eq!(raft.commit_index(), 3);
}

#[test]
fn a_leader_counts_itself_only_once_its_entry_is_durable() {
    let mut raft = core(1, &[]);
    raft.campaign();
    let ready = raft.ready();
    assert_eq!(raft.role(), Role::Candidate, "the own vote is not durable yet");
    persist(&mut raft, &ready);
    raft.persisted(ready.append.unwrap());
    assert_eq!(raft.role(), Role::Leader);
    let ready = raft.ready();
    assert_eq!((ready.entries.len(), raft.commit_index()), (1, 0));
    assert!(ready.must_sync);
    persist(&mut raft, &ready);
    raft.persisted(ready.append.unwrap());
    assert_eq!(raft.commit_index(), 1);
}

#[test]
fn work_is_handed_out_once_while_earlier_appends_are_under_way() {
    let mut raft = leader(&[]);
    let first = raft.propose(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]).unwrap();
    let one = raft.ready();
    assert_eq!(one.entries.iter().map(|e| e.index).collect::<Vec<_>>(), [first, first + 1]);
    assert!(one.messages.iter().filter(|m| m.to == 3).count() <= 1, "one append a peer for the whole proposal");
    raft.propose(vec![Bytes::from_static(b"c")]).unwrap();
    let two = raft.ready();
    assert_eq!(two.entries.iter().map(|e| e.index).collect::<Vec<_>>(), [first + 2]);
    assert!(!raft.has_ready());
    persist(&mut raft, &one);
    persist(&mut raft, &two);
    raft.persisted(one.append.unwrap());
    raft.persisted(two.append.unwrap());
    acknowledge(&mut raft, 2, first + 2);
    assert_eq!(raft.commit_index(), first + 2);
}

#[test]
fn committed_entries_wait_until_they_are_durable_here() {
    let mut raft = core(3, &[]);
    let append = Message { entries: vec![entry(1, 1)], commit: 1, ..from(2, MessageKind::Append, 1) };
    raft.step(append).unwrap();
    let ready = raft.ready();
    assert_eq!(raft.commit_index(), 1);
    assert!(ready.committed_entries.is_empty());
    assert_eq!(ready.messages_after_append.len(), 1, "the acknowledgement waits for the append");
    persist(&mut raft, &ready);
    raft.persisted(ready.append.unwrap());
    assert_eq!(raft.ready().committed_entries.len(), 1);
}

/// An append is confirmed after its entry was overwritten, and then written again with the same index and term.
#[test]
fn a_late_receipt_does_not_confirm_an_entry_that_was_overwritten_and_came_back() {
    let mut raft = core(3, &[]);
    let append = |term, entry_term: Term| Message {
        entries: vec![entry(entry_term, 1)],
        ..from(if term == 2 { 3 } else { 2 }, MessageKind::Append, term)
    };
    raft.step(append(1, 1)).unwrap();
    let first: AppendTicket = raft.ready().append.unwrap();
    raft.step(append(2, 2)).unwrap();
    let second = raft.ready();
    raft.step(append(3, 1)).unwrap();
    let third = raft.ready();
    assert_eq!(third.entries, [entry(1, 1)]);
    raft.persisted(first);
    assert_eq!(raft.log.unstable.offset(), 1, "the first writing of (1, 1) says nothing about the second");
    raft.persisted(second.append.unwrap());
    assert_eq!(raft.log.unstable.offset(), 1);
    persist(&mut raft, &third);
    raft.persisted(third.append.unwrap());
    assert_eq!(raft.log.unstable.offset(), 2);
}

#[test]
fn a_follower_commits_no_further_than_what_it_knows_to_match() {
    let mut raft = core(3, &[1, 1, 1]);
    raft.step(Message { index: 1, log_term: 1, commit: 3, ..from(2, MessageKind::Append, 2) }).unwrap();
    assert_eq!(raft.commit_index(), 1, "what follows entry 1 here may not be what the leader holds there");
}

#[test]
fn a_vote_is_given_once_a_term_and_repeated_to_the_same_candidate() {
    let mut raft = core(3, &[1]);
    let request = |peer| Message { index: 1, log_term: 1, ..from(peer, MessageKind::Vote, 2) };
    let verdict = |raft: &mut Raft<MemStorage>, peer| {
        raft.step(request(peer)).unwrap();
        settle(raft).pop().map(|m| (m.to, m.reject))
    };
    assert_eq!(verdict(&mut raft, 2), Some((2, false)));
    assert_eq!(verdict(&mut raft, 3), Some((3, true)));
    assert_eq!(verdict(&mut raft, 2), Some((2, false)));
}

#[test]
fn a_vote_is_refused_to_a_log_that_is_behind() {
    let mut raft = core(3, &[1, 2]);
    for (index, log_term, reject) in [(9, 1, true), (1, 2, true), (2, 2, false)] {
        let term = raft.term() + 1;
        raft.step(Message { index, log_term, ..from(2, MessageKind::Vote, term) }).unwrap();
        assert_eq!(settle(&mut raft).pop().unwrap().reject, reject, "({index}, {log_term})");
    }
}

#[test]
fn a_node_does_not_campaign_before_it_applied_a_configuration_change() {
    let mut log = storage(3, &[1]);
    let change = ConfChangeV2::single(ConfChangeKind::RemoveNode, 3);
    log.append(&[Entry { kind: EntryKind::ConfChangeV2, data: change.encode(), ..entry(1, 2) }]).unwrap();
    log.set_hard_state(HardState { term: 1, vote: 0, commit: 2 });
    let mut raft = Raft::new(config(), log).unwrap();
    raft.campaign();
    assert_eq!(raft.role(), Role::Follower);
    raft.apply_conf_change(&change);
    raft.applied(2);
    raft.campaign();
    assert_eq!(raft.role(), Role::Candidate);
}

#[test]
fn a_second_configuration_change_is_refused_until_the_first_is_applied() {
    let mut raft = leader(&[]);
    acknowledge(&mut raft, 2, 1);
    settle(&mut raft);
    let learner = |id| ConfChangeV2::single(ConfChangeKind::AddLearnerNode, id);
    assert_eq!(raft.propose_conf_change(ConfChangeV2::default()), Err(ProposeError::ConfChangeNotJoint));
    let at = raft.propose_conf_change(learner(4)).unwrap();
    assert_eq!(raft.propose_conf_change(learner(5)), Err(ProposeError::ConfChangePending));
    assert_eq!(raft.last_index(), at + 1, "an empty entry stands in its place");
    let all = ConfChangeV2 {
        changes: (1..=3).flat_map(|id| ConfChangeV2::single(ConfChangeKind::RemoveNode, id).changes).collect(),
        ..Default::default()
    };
    acknowledge(&mut raft, 2, at + 1);
    raft.apply_conf_change(&learner(4));
    settle(&mut raft);
    assert!(matches!(raft.propose_conf_change(all), Err(ProposeError::ConfChangeInvalid(_))));
}

#[test]
fn too_much_uncommitted_is_refused_until_it_is_applied() {
    let mut raft = leader(&[]);
    raft.config.uncommitted_bytes_max = 10;
    let data = || vec![Bytes::from_static(b"12345678")];
    let index = raft.propose(data()).unwrap();
    assert_eq!(raft.propose(data()), Err(ProposeError::TooManyUncommitted));
    assert_eq!(raft.last_index(), index);
    settle(&mut raft);
    acknowledge(&mut raft, 2, index);
    settle(&mut raft);
    assert!(raft.propose(data()).is_ok());
}

#[test]
fn a_read_waits_for_the_first_commit_of_the_term_and_for_a_quorum() {
    let mut raft = leader(&[1]);
    raft.read_index(Bytes::from_static(b"r"));
    assert!(!settle(&mut raft).iter().any(|m| m.kind == MessageKind::Heartbeat), "the commit index is not known yet");
    acknowledge(&mut raft, 2, 2);
    let ready = raft.ready();
    let heartbeat = ready.messages.iter().find(|m| m.kind == MessageKind::Heartbeat && m.to == 3).cloned().unwrap();
    assert!(ready.read_states.is_empty());
    let answer = from(3, MessageKind::HeartbeatResponse, raft.term());
    raft.step(Message { context: Bytes::from_static(b"forged"), ..answer.clone() }).unwrap();
    assert!(raft.ready().read_states.is_empty());
    raft.step(Message { context: heartbeat.context, ..answer }).unwrap();
    assert_eq!(raft.ready().read_states, [ReadState { index: 2, context: Bytes::from_static(b"r") }]);
}

#[test]
fn a_transfer_is_given_up_after_an_election_timeout() {
    let mut raft = leader(&[]);
    raft.transfer_leader(3);
    assert_eq!(raft.propose(vec![Bytes::new()]), Err(ProposeError::Transferring));
    (0..raft.config.election_ticks).for_each(|_| raft.tick());
    assert!(raft.propose(vec![Bytes::new()]).is_ok());
}

#[test]
fn a_diverged_follower_is_found_in_one_step_a_term() {
    let mut raft = leader(&[1, 1, 1, 1, 4, 4, 4]);
    // The follower's log: 1 1 2 2 2 2 2 2 2; the leader probed with (7, 4) and the answer names its last of term <= 4.
    let term = raft.term();
    let answer = from(3, MessageKind::AppendResponse, term);
    raft.step(Message { reject: true, index: 7, reject_hint: 7, log_term: 2, ..answer.clone() }).unwrap();
    let probe = settle(&mut raft).into_iter().find(|m| m.to == 3).unwrap();
    assert_eq!((probe.index, probe.log_term), (4, 1), "none of this log's entries of term 4 can match");
    raft.step(Message { reject: true, index: 4, reject_hint: 2, log_term: 1, ..answer }).unwrap();
    assert_eq!(settle(&mut raft).into_iter().find(|m| m.to == 3).unwrap().index, 2);
}

#[test]
fn a_silent_member_gets_no_snapshot_and_a_heard_one_does() {
    let mut raft = leader(&[1, 1, 1]);
    acknowledge(&mut raft, 2, 4);
    settle(&mut raft);
    let meta = SnapshotMeta { conf_state: raft.conf_state(), index: 4, term: raft.term() };
    raft.storage_mut().set_snapshot(Snapshot { meta, data: Bytes::new() });
    raft.storage_mut().compact(4).unwrap();
    raft.report_unreachable(3);
    assert!(!raft.try_append(3, true));
    let answer = from(3, MessageKind::AppendResponse, raft.term());
    raft.step(Message { reject: true, index: 3, ..answer }).unwrap();
    assert_eq!(raft.status().progress[&3].state, ProgressState::Snapshot);
    raft.report_snapshot(3, false);
    assert_eq!(raft.status().progress[&3].state, ProgressState::Probe);
}

#[test]
fn impossible_claims_are_refused() {
    let mut raft = core(3, &[1]);
    let mut refused = |m: Message| {
        let before = raft.status();
        let error = raft.step(m).unwrap_err();
        assert_eq!(raft.status(), before, "{error}");
        error
    };
    let append = from(2, MessageKind::Append, 5);
    assert_eq!(refused(Message { to: 2, ..append.clone() }), StepError::WrongReceiver(2));
    assert_eq!(refused(Message { from: 0, ..append.clone() }), StepError::BadSender(0));
    assert_eq!(refused(Message { term: 0, ..append.clone() }), StepError::BadTerm);
    assert_eq!(refused(Message { log_term: 6, ..append.clone() }), StepError::BadTerm);
    assert_eq!(refused(Message { entries: vec![entry(1, 2)], ..append.clone() }), StepError::BadEntries);
    assert_eq!(refused(Message { entries: vec![entry(6, 1)], ..append }), StepError::BadEntries);
    assert_eq!(refused(Message { commit: 2, ..from(2, MessageKind::Heartbeat, 5) }), StepError::BeyondLog(2));
    assert_eq!(refused(from(2, MessageKind::Snapshot, 5)), StepError::BadSnapshot);
    assert_eq!(refused(from(9, MessageKind::VoteResponse, 5)), StepError::UnknownPeer(9));
    raft.step(from(2, MessageKind::Heartbeat, 1)).unwrap();
    assert_eq!(raft.step(from(3, MessageKind::Heartbeat, 1)), Err(StepError::TwoLeaders(3)));
}

#[test]
fn a_log_without_its_committed_entries_does_not_start() {
    let mut log = storage(3, &[1, 1]);
    log.set_hard_state(HardState { term: 1, vote: 0, commit: 3 });
    assert_eq!(Raft::new(config(), log).err(), Some(Error::CommittedEntriesLost { commit: 3, last_index: 2 }));
    let applied =
        |applied| Raft::new(Config { applied, ..config() }, storage(3, &[1, 1])).map(|raft| raft.commit_index());
    assert_eq!(applied(2), Ok(2), "what was applied was committed, though the stored commit index lags");
    assert_eq!(applied(3), Err(Error::AppliedOutOfRange { applied: 3, low: 0, high: 2 }));
}

/// A disk whose entries cannot be read.
struct Broken(MemStorage);

impl Storage for Broken {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.0.initial_state()
    }
    fn entries(&self, _: Index, _: Index, _: u64) -> Result<Vec<Entry>, StorageError> {
        Err(StorageError::Other("input/output error".into()))
    }
    fn term(&self, index: Index) -> Result<Term, StorageError> {
        self.0.term(index)
    }
    fn first_index(&self) -> Index {
        self.0.first_index()
    }
    fn last_index(&self) -> Index {
        self.0.last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.0.snapshot()
    }
}

#[test]
fn a_log_that_cannot_be_read_stops_the_node() {
    let mut log = storage(3, &[1, 1]);
    log.set_hard_state(HardState { term: 1, vote: 0, commit: 2 });
    let mut raft = Raft::new(config(), Broken(log)).unwrap();
    assert!(raft.ready().committed_entries.is_empty());
    assert_eq!(raft.fault(), Some(&StorageError::Other("input/output error".into())));
    assert_eq!(raft.step(from(2, MessageKind::Heartbeat, 1)), Err(StepError::Stopped));
    assert_eq!(raft.propose(vec![Bytes::new()]), Err(ProposeError::Stopped));
    assert!(!raft.has_ready());
}

#[test]
fn public_types_can_be_sent_to_another_thread() {
    fn sendable<T: Send>() {}
    sendable::<Raft<MemStorage>>();
    sendable::<Ready>();
    sendable::<AppendTicket>();
}
