//! The node's promises, on three whole nodes joined by hand-moved messages, logs and machines: nothing is answered before
//! it is durable on a majority and applied, and every write gets the one answer that is true.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use bytes::Bytes;
use telegraft_node::{AppliedEntry, Input, Node, NodeConfig, Ports, Responder, Write, WriteOutcome, ports::LogWrite};
use telegraft_raft::{
    ConfState, Config, Entry, HardState, Index, Message, NodeId, Raft, Role, Snapshot, Storage, StorageError, Term,
};

/// What is durable on one node.
#[derive(Clone, Default)]
struct Disk(Rc<RefCell<(HardState, Vec<Entry>)>>);

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

type Answers = Rc<RefCell<Vec<(u32, WriteOutcome)>>>;

struct Client(u32, Answers);

impl Responder for Client {
    fn respond(self, outcome: WriteOutcome) {
        self.1.borrow_mut().push((self.0, outcome));
    }
}

/// What a node asked for and has not got yet.
#[derive(Default)]
struct Asked {
    messages: Vec<Message>,
    writes: VecDeque<LogWrite>,
    applies: VecDeque<Vec<Entry>>,
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
}

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
            (id, (Node::new(raft, NodeConfig { pending_writes_max }), Asked::default(), disk))
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
        node.turn([input], asked).unwrap();
    }

    fn write(&mut self, id: NodeId, number: u32) {
        let write = Write { data: Bytes::from(number.to_string()), responder: Client(number, self.answers.clone()) };
        self.give(id, Input::Write(write));
    }

    /// Does all that was asked until nothing is left: logs write, machines apply, messages arrive.
    fn settle(&mut self) {
        loop {
            let mut worked = false;
            for id in [1, 2, 3] {
                let (node, asked, disk) = self.nodes.get_mut(&id).unwrap();
                if self.disks_work[&id]
                    && let Some(write) = asked.writes.pop_front()
                {
                    disk.write(write);
                    node.turn([Input::Persisted { count: 1 }], asked).unwrap();
                    worked = true;
                }
                if let Some(entries) = asked.applies.pop_front() {
                    let applied = entries
                        .iter()
                        .map(|e| AppliedEntry { index: e.index, term: e.term, outcome: Ok(e.data.clone()) })
                        .collect();
                    node.turn([Input::Applied(applied)], asked).unwrap();
                    worked = true;
                }
                for message in std::mem::take(&mut asked.messages) {
                    worked = true;
                    if self.cut_off != Some(message.from) && self.cut_off != Some(message.to) {
                        self.give(message.to, Input::Peer(message));
                    }
                }
            }
            if !worked {
                return;
            }
        }
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

    fn answers(&self) -> Vec<(u32, WriteOutcome)> {
        self.answers.borrow().clone()
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
    node.turn(writes, asked).unwrap();
    assert_eq!(asked.writes.len(), 1, "one write of the log");
    assert_eq!(asked.messages.iter().filter(|m| !m.entries.is_empty()).count(), 2, "one append to each follower");
    world.settle();
    assert_eq!(world.answers().len(), 10);
}
