//! A cluster in one thread, driven by one seed: cores on memory disks, a network that loses, repeats and reorders, appends
//! that finish late, crashes that lose what was not durable; and the checkers of Raft's five properties (Raft, figure 3).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::invariants::{self, Observation};
use crate::{
    AppendTicket, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2, ConfState, Config, Entry,
    EntryKind, HardState, Index, MemStorage, Message, NodeId, Raft, Role, Snapshot, SnapshotMeta, StepError, Storage,
    Term,
};

/// One write that is under way.
struct Write {
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    snapshot: Option<Snapshot>,
    ticket: Option<AppendTicket>,
    messages: Vec<Message>,
}

pub struct Node {
    pub raft: Raft<MemStorage>,
    writes: VecDeque<Write>,
    to_apply: VecDeque<Entry>,
    /// Durable with the state machine's data.
    applied: Index,
    before: Observation,
    starts: u64,
}

pub struct Options {
    pub nodes: u64,
    pub voters: Vec<NodeId>,
    pub configure: fn(&mut Config),
    pub conf_changes: bool,
    pub drop_percent: u32,
    /// Of a hundred events, how many are odd ones beyond the usual: transfers, untimely elections, reports.
    pub meddle_percent: u32,
}

pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Node>,
    pub network: Vec<Message>,
    pub rng: fastrand::Rng,
    options: Options,
    /// What any node knew committed: term and payload.
    pub committed: BTreeMap<Index, (Term, Bytes)>,
    leaders: BTreeMap<Term, NodeId>,
    pub elections: usize,
    pub snapshots_installed: usize,
    pub conf_changes_applied: usize,
    proposals: u64,
    /// By token: the highest index committed anywhere when the read was asked for.
    reads: BTreeMap<u64, Index>,
    pub reads_answered: usize,
}

impl Cluster {
    pub fn new(seed: u64, options: Options) -> Self {
        let conf_state = ConfState { voters: options.voters.clone(), ..Default::default() };
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            network: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            elections: 0,
            snapshots_installed: 0,
            conf_changes_applied: 0,
            proposals: 0,
            reads: BTreeMap::new(),
            reads_answered: 0,
            options,
        };
        for id in 1..=cluster.options.nodes {
            let storage = MemStorage::with_conf_state(conf_state.clone());
            let node = cluster.start(id, storage, 0, 0);
            cluster.nodes.insert(id, node);
        }
        cluster
    }

    fn start(&mut self, id: NodeId, storage: MemStorage, applied: Index, starts: u64) -> Node {
        let mut config = Config::new(id, self.rng.u64(..));
        config.inflight_messages_max = 4;
        config.message_bytes_max = 100;
        config.committed_bytes_per_ready_max = 200;
        (self.options.configure)(&mut config);
        config.applied = applied;
        let raft = Raft::new(config, storage).expect("a disk that was written in order starts");
        let before = invariants::observe(&raft);
        Node { raft, writes: VecDeque::new(), to_apply: VecDeque::new(), applied, before, starts }
    }

    fn pick(&mut self) -> NodeId {
        self.rng.u64(1..=self.options.nodes)
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    /// One random event.
    pub fn event(&mut self, faults: bool) {
        let id = self.pick();
        if faults && self.percent(self.options.meddle_percent) {
            self.meddle(id);
        }
        match self.rng.u32(0..100) {
            0..12 => self.nodes.get_mut(&id).unwrap().raft.tick(),
            12..22 => self.propose(id),
            22..55 => self.deliver(faults),
            55..75 => self.take_ready(id),
            75..88 => self.finish_write(id),
            88..96 => self.apply_some(id),
            96 if faults && self.percent(25) => self.crash(id),
            97 => self.compact(id),
            98 if self.options.conf_changes => self.propose_conf_change(id),
            99 if faults => self.meddle(id),
            _ => self.take_ready(id),
        }
        self.check();
    }

    fn propose(&mut self, id: NodeId) {
        self.proposals += 1;
        let data = (0..self.rng.usize(1..3)).map(|k| Bytes::from(format!("{}-{k}", self.proposals))).collect();
        let _ = self.nodes.get_mut(&id).unwrap().raft.propose(data);
    }

    fn propose_conf_change(&mut self, id: NodeId) {
        let transition = match self.rng.u32(0..3) {
            0 => ConfChangeTransition::Auto,
            1 => ConfChangeTransition::Implicit,
            _ => ConfChangeTransition::Explicit,
        };
        let single = |rng: &mut fastrand::Rng, nodes| ConfChangeSingle {
            kind: [
                ConfChangeKind::AddNode,
                ConfChangeKind::AddNode,
                ConfChangeKind::RemoveNode,
                ConfChangeKind::AddLearnerNode,
            ][rng.usize(0..4)],
            node: rng.u64(1..=nodes),
        };
        let changes = (0..self.rng.usize(1..4)).map(|_| single(&mut self.rng, self.options.nodes)).collect();
        let change = ConfChangeV2 { transition, changes, context: Bytes::new() };
        let raft = &mut self.nodes.get_mut(&id).unwrap().raft;
        let joint = raft.configuration().is_joint();
        let _ = raft.propose_conf_change(if joint { ConfChangeV2::default() } else { change });
    }

    /// What hosts and people do at odd times.
    fn meddle(&mut self, id: NodeId) {
        let other = self.pick();
        let what = self.rng.u32(0..6);
        let ok = self.rng.bool();
        let token = self.reads.len() as u64;
        let committed = self.committed.last_key_value().map_or(0, |(index, _)| *index);
        let raft = &mut self.nodes.get_mut(&id).unwrap().raft;
        match what {
            0 => raft.transfer_leader(other),
            1 => raft.campaign(),
            2 => raft.report_unreachable(other),
            3 => raft.report_snapshot(other, ok),
            4 => raft.forget_leader(),
            _ => {
                raft.read_index(Bytes::copy_from_slice(&token.to_le_bytes()));
                self.reads.insert(token, committed);
            }
        }
    }

    fn deliver(&mut self, faults: bool) {
        if self.network.is_empty() {
            return;
        }
        let at = if faults { self.rng.usize(0..self.network.len()) } else { 0 };
        let message = if faults && self.percent(10) { self.network[at].clone() } else { self.network.remove(at) };
        if faults && self.percent(self.options.drop_percent) {
            return;
        }
        let text = format!("{message:?}");
        let node = self.nodes.get_mut(&message.to).unwrap();
        match node.raft.step(message) {
            Ok(()) | Err(StepError::UnknownPeer(_) | StepError::Dropped) => {}
            Err(error) => panic!("an honest message was refused: {error}: {text}"),
        }
    }

    pub fn take_ready(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        if !node.raft.has_ready() {
            return;
        }
        let is_async = node.raft.config.async_storage_writes;
        let mut ready = node.raft.ready();
        for read in &ready.read_states {
            let token = u64::from_le_bytes(read.context[..].try_into().unwrap());
            assert!(read.index >= self.reads[&token], "a read misses what was committed before it: {read:?}");
            self.reads_answered += 1;
        }
        self.network.append(&mut ready.messages);
        node.to_apply.extend(ready.committed_entries);
        node.writes.push_back(Write {
            hard_state: ready.hard_state,
            entries: ready.entries,
            snapshot: ready.snapshot,
            ticket: ready.append,
            messages: ready.messages_after_append,
        });
        if !is_async {
            self.finish_write(id);
            self.apply_all(id);
        }
    }

    pub fn finish_write(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(write) = node.writes.pop_front() else { return };
        if write.snapshot.is_some() {
            self.snapshots_installed += 1;
        }
        if let Some(index) = make_durable(node.raft.storage_mut(), &write) {
            node.applied = index;
            node.to_apply.retain(|e| e.index > index);
        }
        self.network.extend(write.messages);
        if let Some(ticket) = write.ticket {
            node.raft.persisted(ticket);
        }
    }

    fn apply_some(&mut self, id: NodeId) {
        let count = self.rng.usize(1..4);
        self.apply(id, count);
    }

    pub fn apply_all(&mut self, id: NodeId) {
        self.apply(id, usize::MAX);
    }

    fn apply(&mut self, id: NodeId, count: usize) {
        let node = self.nodes.get_mut(&id).unwrap();
        let mut last = None;
        for _ in 0..count {
            let Some(entry) = node.to_apply.pop_front() else { break };
            assert_eq!(entry.index, node.applied + 1, "node {id} applies in order, each entry once");
            let agreed = self.committed.get(&entry.index).expect("what is applied was seen committed");
            assert_eq!((entry.term, &entry.data), (agreed.0, &agreed.1), "state machine safety at {}", entry.index);
            node.applied = entry.index;
            if entry.kind != EntryKind::Normal {
                let change = ConfChangeV2::decode(&entry).expect("a proposed change decodes");
                let conf_state = node.raft.apply_conf_change(&change);
                node.raft.storage_mut().set_conf_state(conf_state);
                self.conf_changes_applied += 1;
            }
            last = Some(entry.index);
        }
        if let Some(index) = last {
            node.raft.applied(index);
        }
    }

    /// Power is lost: of the writes under way some prefix reached the disk; the rest, and all memory, is gone.
    fn crash(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).unwrap();
        let mut storage = node.raft.storage().clone();
        let mut applied = node.applied;
        let survive = self.rng.usize(0..=node.writes.len());
        for write in node.writes.iter().take(survive) {
            applied = make_durable(&mut storage, write).unwrap_or(applied);
        }
        let node = self.start(id, storage, applied, node.starts + 1);
        self.nodes.insert(id, node);
    }

    /// The state machine makes a snapshot and the log before it goes.
    fn compact(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let (index, conf_state) = (node.applied, node.raft.conf_state());
        let storage = node.raft.storage_mut();
        if index < storage.first_index() || index > storage.last_index() {
            return;
        }
        let Ok(term) = storage.term(index) else { return };
        let meta = SnapshotMeta { conf_state, index, term };
        storage.set_snapshot(Snapshot { meta, data: Bytes::new() });
        storage.compact(index).unwrap();
    }

    pub fn check(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.nodes.get_mut(&id).unwrap();
            let now = invariants::observe(&node.raft);
            if now == node.before {
                continue;
            }
            let before = std::mem::replace(&mut node.before, now);
            if let Err(violation) = invariants::check(&node.raft).and(invariants::check_across(id, &before, &now)) {
                panic!("{violation}");
            }
            assert_eq!(node.raft.fault(), None);
            self.check_committed(id, before.commit, now.commit);
            if now.role == Role::Leader && (before.role != Role::Leader || before.term != now.term) {
                self.check_leader(id, now.term);
            }
        }
    }

    fn check_committed(&mut self, id: NodeId, from: Index, to: Index) {
        let raft = &self.nodes[&id].raft;
        for index in (from + 1).max(raft.log.first_index())..=to {
            let entry = raft.log.slice(index, index + 1, u64::MAX).unwrap().remove(0);
            let agreed = self.committed.entry(index).or_insert((entry.term, entry.data.clone()));
            assert_eq!(*agreed, (entry.term, entry.data), "nodes agree on what is committed at {index}");
        }
    }

    fn check_leader(&mut self, id: NodeId, term: Term) {
        self.elections += 1;
        let other = *self.leaders.entry(term).or_insert(id);
        assert_eq!(other, id, "election safety in term {term}");
        let log = &self.nodes[&id].raft.log;
        for (index, (term, _)) in self.committed.range(log.first_index()..) {
            assert_eq!(log.term(*index), Ok(*term), "leader completeness: {id} lacks the entry at {index}");
        }
    }

    /// Log matching, pairwise: below an index where two logs agree on the term they are equal.
    pub fn check_log_matching(&self) {
        for (a, one) in &self.nodes {
            for (b, two) in self.nodes.range(a + 1..) {
                let (one, two) = (&one.raft.log, &two.raft.log);
                let low = one.first_index().max(two.first_index());
                let high = one.last_index().min(two.last_index());
                let Some(top) = (low..=high).rev().find(|i| one.term(*i) == two.term(*i)) else { continue };
                let (left, right) = (one.slice(low, top + 1, u64::MAX), two.slice(low, top + 1, u64::MAX));
                assert_eq!(left, right, "log matching of {a} and {b} up to {top}");
            }
        }
    }

    /// A round in which everything works: all ready work is done, all messages arrive, a tick passes.
    pub fn calm_round(&mut self) {
        for _ in 0..4 {
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.take_ready(id);
                while !self.nodes[&id].writes.is_empty() {
                    self.finish_write(id);
                }
                self.apply_all(id);
                self.check();
            }
            while !self.network.is_empty() {
                self.deliver(false);
                self.check();
            }
        }
        self.nodes.values_mut().for_each(|node| node.raft.tick());
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.nodes.iter().filter(|(_, node)| node.raft.role() == Role::Leader);
        leaders.max_by_key(|(_, node)| node.raft.term()).map(|(id, _)| *id)
    }

    /// After the faults end: a new proposal is committed and applied by every member.
    pub fn converge(&mut self) {
        let mut target = None;
        for _ in 0..400 {
            self.calm_round();
            let Some(leader) = self.leader() else { continue };
            let raft = &mut self.nodes.get_mut(&leader).unwrap().raft;
            if target.is_none() {
                target = raft.propose(vec![Bytes::from_static(b"after the faults")]).ok();
            }
            let Some(index) = target else { continue };
            let members = self.nodes[&leader].raft.configuration().members();
            if members.iter().all(|id| self.nodes[id].raft.applied_index() >= index) {
                self.check_log_matching();
                return;
            }
            // A proposal may be lost with its leader.
            if self.nodes[&leader].raft.last_index() < index {
                target = None;
            }
        }
        let states: Vec<_> = self.nodes.values().map(|node| node.raft.status()).collect();
        panic!("the cluster does not serve again: {states:#?}");
    }
}

/// Writes to the disk; returns the index of the snapshot that was installed.
fn make_durable(storage: &mut MemStorage, write: &Write) -> Option<Index> {
    let mut installed = None;
    if let Some(snapshot) = &write.snapshot {
        storage.apply_snapshot(snapshot.clone());
        installed = Some(snapshot.meta.index);
    }
    storage.append(&write.entries).expect("entries follow the log");
    if let Some(hard_state) = write.hard_state {
        storage.set_hard_state(hard_state);
    }
    installed
}
