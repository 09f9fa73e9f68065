//! The node's promises, on three whole nodes joined by hand-moved messages, logs and machines: nothing is answered before
//! it is durable on a majority and applied, and every write gets the one answer that is true.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use telegraft_node::{
    AppliedEntry, Input, Node, NodeConfig, Ports, ReadOutcome, Responder, Write, WriteOutcome, ports::LogWrite,
};
use telegraft_raft::{
    ConfChangeKind, ConfChangeSingle, ConfChangeV2, ConfState, Config, Entry, EntryKind, HardState, Index, Message,
    MessageKind, NodeId, Raft, Role, Snapshot, SnapshotMeta, Storage, StorageError, Term,
};

/// What is durable on one node: hard state, entries, and the index of the configuration.
#[derive(Clone, Default)]
struct Disk(Rc<RefCell<Durable>>);

type Durable = (HardState, Vec<Entry>, Option<Index>);

impl Disk {
    fn write(&self, write: LogWrite) {
        let mut disk = self.0.borrow_mut();
        if let Some(first) = write.entries.first() {
            disk.1.truncate(first.index as usize - 1);
            assert_eq!(disk.1.len() as u64 + 1, first.index, "a write must not leave a gap");
            disk.1.extend(write.entries);
        }
        if let Some(hard_state) = write.hard_state {
            disk.0 = hard_state;
        }
        if let Some(conf) = write.conf_state {
            disk.2 = Some(conf.index);
        }
    }
}

impl Storage for Disk {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.0.borrow().0, ConfState { voters: vec![1, 2, 3], ..ConfState::default() }))
    }
    fn entries(&self, low: Index, high: Index, _: u64) -> Result<Vec<Entry>, StorageError> {
        let disk = self.0.borrow();
        disk.1.get(low as usize - 1..high as usize - 1).map(<[_]>::to_vec).ok_or(StorageError::Unavailable)
    }
    fn term(&self, index: Index) -> Result<Term, StorageError> {
        match index {
            0 => Ok(0),
            _ => self.0.borrow().1.get(index as usize - 1).map(|e| e.term).ok_or(StorageError::Unavailable),
        }
    }
    fn first_index(&self) -> Index {
        1
    }
    fn last_index(&self) -> Index {
        self.0.borrow().1.len() as u64
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Err(StorageError::SnapshotTemporarilyUnavailable)
    }
}

type Answers = Rc<Given>;

/// What clients were told.
#[derive(Default)]
struct Given {
    writes: RefCell<Vec<(u32, WriteOutcome)>>,
    reads: RefCell<Vec<(u32, ReadOutcome)>>,
}

struct Client(u32, Answers);

impl Responder for Client {
    fn respond(self, outcome: WriteOutcome) {
        self.1.writes.borrow_mut().push((self.0, outcome));
    }
    fn respond_read(self, outcome: ReadOutcome) {
        self.1.reads.borrow_mut().push((self.0, outcome));
    }
}

/// What a node asked for and has not got yet.
#[derive(Default)]
struct Asked {
    messages: Vec<Message>,
    writes: VecDeque<LogWrite>,
    applies: VecDeque<Vec<Entry>>,
    restores: VecDeque<Snapshot>,
}

impl Ports for Asked {
    fn send(&mut self, message: Message) {
        self.messages.push(message);
    }
    fn persist(&mut self, write: LogWrite) {
        self.writes.push_back(write);
    }
    fn apply(&mut self, entries: Vec<Entry>) {
        self.applies.push_back(entries);
    }
    fn restore(&mut self, snapshot: Snapshot) {
        self.restores.push_back(snapshot);
    }
}

/// Leases apart, nothing looks at the time.
const NOW: Duration = Duration::ZERO;

struct World {
    nodes: BTreeMap<NodeId, (Node<Disk, Client>, Asked, Disk)>,
    /// Whose log answers.
    disks_work: BTreeMap<NodeId, bool>,
    cut_off: Option<NodeId>,
    answers: Answers,
}

impl World {
    fn new(pending_writes_max: usize) -> Self {
        let node = |id: NodeId| {
            let disk = Disk::default();
            let config = Config {
                async_storage_writes: true,
                pre_vote: true,
                check_quorum: true,
                proposal_forwarding: false,
                ..Config::new(id, id)
            };
            let raft = Raft::new(config, disk.clone()).unwrap();
            let config = NodeConfig {
                pending_writes_max,
                pending_reads_max: 2,
                read_again_ticks: 5,
                lease: None,
                election_ticks: 10,
                incarnation: id,
            };
            (id, (Node::new(raft, 0, config), Asked::default(), disk))
        };
        Self {
            nodes: (1..=3).map(node).collect(),
            disks_work: (1..=3).map(|id| (id, true)).collect(),
            cut_off: None,
            answers: Answers::default(),
        }
    }

    fn give(&mut self, id: NodeId, input: Input<Client>) {
        let (node, asked, _) = self.nodes.get_mut(&id).unwrap();
        node.turn(NOW, [input], asked).unwrap();
    }

    fn write(&mut self, id: NodeId, number: u32) {
        let write = Write { data: Bytes::from(number.to_string()), responder: Client(number, self.answers.clone()) };
        self.give(id, Input::Write(write));
    }

    /// Does all that was asked until nothing is left: logs write, machines apply, messages arrive.
    fn settle(&mut self) {
        while self.settle_once() {}
    }

    /// One round of that; says whether there was anything to do.
    fn settle_once(&mut self) -> bool {
        let mut worked = false;
        for id in [1, 2, 3] {
            let (node, asked, disk) = self.nodes.get_mut(&id).unwrap();
            if self.disks_work[&id]
                && let Some(write) = asked.writes.pop_front()
            {
                disk.write(write);
                node.turn(NOW, [Input::Persisted { count: 1 }], asked).unwrap();
                worked = true;
            }
            if let Some(entries) = asked.applies.pop_front() {
                let applied = entries
                    .iter()
                    .map(|e| AppliedEntry { index: e.index, term: e.term, outcome: Ok(e.data.clone()) })
                    .collect();
                node.turn(NOW, [Input::Applied(applied)], asked).unwrap();
                worked = true;
            }
            for message in std::mem::take(&mut asked.messages) {
                worked = true;
                let lost = [message.from, message.to].iter().any(|id| self.cut_off == Some(*id));
                if !lost && self.nodes.contains_key(&message.to) {
                    self.give(message.to, Input::Peer(message));
                }
            }
        }
        worked
    }

    /// Lets time pass, for all nodes alike, until one of `candidates` leads.
    fn elect(&mut self, candidates: &[NodeId]) -> NodeId {
        for _ in 0..1_000 {
            for id in [1, 2, 3] {
                self.give(id, Input::Tick);
            }
            self.settle();
            let leads = |id: &&NodeId| self.nodes[*id].0.raft().role() == Role::Leader;
            if let Some(leader) = candidates.iter().find(leads) {
                return *leader;
            }
        }
        panic!("nobody was elected in 1,000 ticks");
    }

    fn read(&mut self, id: NodeId, number: u32) {
        self.give(id, Input::Read(Client(number, self.answers.clone())));
    }

    fn answers(&self) -> Vec<(u32, WriteOutcome)> {
        self.answers.writes.borrow().clone()
    }
}

#[test]
fn a_write_is_answered_with_what_the_machine_said() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    world.write(leader, 7);
    world.settle();
    let answers = world.answers();
    assert!(
        matches!(&answers[..], [(7, WriteOutcome::Applied { index: 2, outcome: Ok(reply) })] if reply == "7"),
        "{answers:?}"
    );
}

#[test]
fn the_leader_alone_answers_nothing() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    for id in [1, 2, 3] {
        world.disks_work.insert(id, id == leader);
    }
    world.write(leader, 7);
    world.settle();
    assert_eq!(world.answers(), []);
}

#[test]
fn two_followers_make_a_majority_while_the_leaders_own_disk_hangs() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    world.disks_work.insert(leader, false);
    world.write(leader, 7);
    world.settle();
    // Committed by the followers, but not applied here before it is durable here.
    assert_eq!(world.answers(), []);
    assert!(world.nodes.values().any(|(node, ..)| node.raft().commit_index() == 2));
    world.disks_work.insert(leader, true);
    world.settle();
    assert_eq!(world.answers().len(), 1);
}

#[test]
fn a_disk_that_hangs_everywhere_holds_every_answer_back() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    for id in [1, 2, 3] {
        world.disks_work.insert(id, false);
    }
    world.write(leader, 7);
    world.settle();
    assert_eq!(world.answers(), []);
    assert!(world.nodes.values().all(|(node, ..)| node.raft().commit_index() == 1));
}

#[test]
fn a_follower_says_who_leads() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    world.write(follower, 7);
    assert_eq!(world.answers(), [(7, WriteOutcome::NotLeader { leader })]);
}

#[test]
fn writes_beyond_the_bound_are_refused_at_once() {
    let mut world = World::new(2);
    let leader = world.elect(&[1, 2, 3]);
    for id in [1, 2, 3] {
        world.disks_work.insert(id, false);
    }
    for number in 1..=3 {
        world.write(leader, number);
    }
    assert_eq!(world.answers(), [(3, WriteOutcome::Overloaded)]);
}

#[test]
fn a_write_whose_place_another_leader_took_is_answered_as_replaced() {
    let mut world = World::new(100);
    let old = world.elect(&[1, 2, 3]);
    world.cut_off = Some(old);
    world.write(old, 7);
    world.settle();
    let others: Vec<_> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    let new = world.elect(&others);
    world.write(new, 8);
    world.settle();
    world.cut_off = None;
    for _ in 0..100 {
        world.give(new, Input::Tick);
        world.settle();
    }
    let answers = world.answers();
    assert!(answers.contains(&(7, WriteOutcome::Replaced)), "{answers:?}");
    assert!(answers.iter().any(|(number, o)| *number == 8 && matches!(o, WriteOutcome::Applied { .. })), "{answers:?}");
}

#[test]
fn writes_of_one_turn_travel_in_one_append() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    let writes: Vec<_> = (1..=10)
        .map(|n| Input::Write(Write { data: Bytes::from(n.to_string()), responder: Client(n, world.answers.clone()) }))
        .collect();
    let (node, asked, _) = world.nodes.get_mut(&leader).unwrap();
    node.turn(NOW, writes, asked).unwrap();
    assert_eq!(asked.writes.len(), 1, "one write of the log");
    assert_eq!(asked.messages.iter().filter(|m| !m.entries.is_empty()).count(), 2, "one append to each follower");
    world.settle();
    assert_eq!(world.answers().len(), 10);
}

#[test]
fn a_read_on_any_node_is_of_what_was_committed_before_it() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    world.write(leader, 7);
    world.settle();
    for id in [1, 2, 3] {
        world.read(id, id as u32);
        world.settle();
        let reads = world.answers.reads.borrow().clone();
        let (_, outcome) = reads.into_iter().find(|(number, _)| *number == id as u32).expect("the read is answered");
        assert_eq!(outcome, ReadOutcome::At { index: 2 }, "on node {id}");
        assert_eq!(world.nodes[&id].0.raft().applied_index(), 2);
    }
}

#[test]
fn a_leader_that_is_cut_off_answers_no_read() {
    let mut world = World::new(100);
    let old = world.elect(&[1, 2, 3]);
    world.cut_off = Some(old);
    world.read(old, 1);
    world.settle();
    assert_eq!(*world.answers.reads.borrow(), []);
    let others: Vec<_> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    world.elect(&others);
    for _ in 0..30 {
        world.give(old, Input::Tick);
        world.settle();
    }
    assert_eq!(*world.answers.reads.borrow(), [(1, ReadOutcome::NoLeader)], "it stepped down");
}

#[test]
fn a_read_whose_request_was_lost_is_asked_again() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    world.read(follower, 1);
    world.nodes.get_mut(&follower).unwrap().1.messages.clear();
    world.settle();
    assert_eq!(*world.answers.reads.borrow(), []);
    for _ in 0..6 {
        for id in [1, 2, 3] {
            world.give(id, Input::Tick);
        }
        world.settle();
    }
    assert_eq!(world.answers.reads.borrow().len(), 1);
}

#[test]
fn reads_beyond_the_bound_are_refused_at_once() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    world.cut_off = Some(leader);
    for number in 1..=3 {
        world.read(leader, number);
    }
    assert_eq!(*world.answers.reads.borrow(), [(3, ReadOutcome::Overloaded)]);
}

#[test]
fn a_read_without_a_leader_is_told_so() {
    let mut world = World::new(100);
    world.read(1, 1);
    assert_eq!(*world.answers.reads.borrow(), [(1, ReadOutcome::NoLeader)]);
}

#[test]
fn a_change_of_members_is_answered_once_it_is_in_force() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    let change = ConfChangeV2 {
        changes: vec![ConfChangeSingle { kind: ConfChangeKind::AddLearnerNode, node: 4 }],
        ..ConfChangeV2::default()
    };
    let responder = Client(1, world.answers.clone());
    world.give(leader, Input::ChangeMembers { change, responder });
    world.settle();
    assert!(matches!(world.answers()[..], [(1, WriteOutcome::Applied { index: 2, .. })]), "{:?}", world.answers());
    assert_eq!(world.nodes[&leader].0.raft().conf_state().learners, [4]);
    assert_eq!(world.nodes[&leader].2.0.borrow().2, Some(2), "the log has the configuration of entry 2");
    let meta = world.nodes[&leader].0.snapshot_meta(2).expect("the configuration of index 2 is known");
    assert_eq!((meta.index, meta.conf_state.learners), (2, vec![4]));
}

#[test]
fn the_leader_of_two_is_not_taken_out() {
    let mut world = World::new(100);
    let leader = world.elect(&[1, 2, 3]);
    let other = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let remove = |world: &mut World, number, node| {
        let changes = vec![ConfChangeSingle { kind: ConfChangeKind::RemoveNode, node }];
        let change = ConfChangeV2 { changes, ..ConfChangeV2::default() };
        let responder = Client(number, world.answers.clone());
        world.give(leader, Input::ChangeMembers { change, responder });
        world.settle();
    };
    remove(&mut world, 1, other);
    remove(&mut world, 2, leader);
    let answers = world.answers();
    assert!(matches!(answers[0], (1, WriteOutcome::Applied { .. })), "{answers:?}");
    assert_eq!(answers[1], (2, WriteOutcome::TransferFirst));
}

#[test]
fn a_change_that_the_log_has_already_is_not_made_again() {
    let disk = Disk::default();
    let change = ConfChangeV2 {
        changes: vec![ConfChangeSingle { kind: ConfChangeKind::AddLearnerNode, node: 4 }],
        ..ConfChangeV2::default()
    };
    let entry = Entry { term: 1, index: 1, kind: EntryKind::ConfChangeV2, data: change.encode() };
    *disk.0.borrow_mut() = (HardState { term: 1, vote: 0, commit: 1 }, vec![entry], Some(1));
    let raft = Raft::new(Config::new(1, 1), disk).unwrap();
    let config = NodeConfig {
        pending_writes_max: 1,
        pending_reads_max: 1,
        read_again_ticks: 1,
        lease: None,
        election_ticks: 10,
        incarnation: 1,
    };
    let mut node: Node<_, Client> = Node::new(raft, 1, config);
    let mut asked = Asked::default();
    node.turn(NOW, [], &mut asked).unwrap();
    assert_eq!(asked.applies.len(), 1, "the machine still gets the entry");
    assert_eq!(asked.writes.len(), 0);
    assert_eq!(node.raft().conf_state().learners, [0; 0], "what is stored is in force, whatever it says");
}

#[test]
fn a_snapshot_is_in_the_machine_before_the_log_hears_of_it() {
    let mut world = World::new(100);
    let conf_state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let meta = SnapshotMeta { conf_state, index: 10, term: 3 };
    let snapshot = Snapshot { meta: meta.clone(), data: Bytes::from_static(b"state") };
    let message =
        Message { term: 3, snapshot: Some(Box::new(snapshot.clone())), ..Message::new(MessageKind::Snapshot, 2, 1) };
    world.give(1, Input::Peer(message));
    // An append right behind it must wait as well: it builds on the snapshot.
    let entry = Entry { term: 3, index: 11, kind: EntryKind::Normal, data: Bytes::new() };
    let append =
        Message { term: 3, log_term: 3, index: 10, entries: vec![entry], ..Message::new(MessageKind::Append, 2, 1) };
    world.give(1, Input::Peer(append));
    let (node, asked, _) = world.nodes.get_mut(&1).unwrap();
    assert_eq!(asked.restores, [snapshot]);
    assert_eq!(asked.writes.len(), 0, "nothing of it is in the log yet");
    assert!(asked.messages.iter().all(|m| m.kind != MessageKind::AppendResponse), "nothing is acknowledged");
    node.turn(NOW, [Input::Restored], asked).unwrap();
    assert_eq!(asked.writes.len(), 2);
    assert_eq!((asked.writes[0].snapshot.as_ref(), asked.writes[0].must_sync), (Some(&meta), true));
    node.turn(NOW, [Input::Persisted { count: 2 }], asked).unwrap();
    assert_eq!(node.raft().applied_index(), 10);
    let acknowledged = asked.messages.iter().filter(|m| m.kind == MessageKind::AppendResponse).map(|m| m.index).max();
    assert_eq!(acknowledged, Some(11));
}
