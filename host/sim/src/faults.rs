//! What a fault, or an operator's deed, does to the world, and how it ends.

use std::collections::BTreeSet;

use telegraft_node::Input;
use telegraft_raft::{ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2, NodeId};

use crate::{
    clients::{activate, upload},
    disk::IoError,
    judge::Violation,
    network::Weather,
    plan::{Change, Cut, Fault, Leave, Point, Target},
    process::{DISK_DELAY, MACHINE_DELAY, MachineJob},
    settings::{MachineKind, Micros},
    world::{Event, World},
};

/// How long a lost node is missed before the operator removes it.
const REMOVED_AFTER: Micros = 2_000_000;

impl World {
    pub(crate) fn strike(&mut self, number: usize, fault: Fault) -> Result<(), Violation> {
        match fault {
            Fault::Kill { target, down_for } => {
                let node = self.resolve(target);
                self.take_down(node, down_for, false);
            }
            Fault::LosePower { target, down_for } => {
                let node = self.resolve(target);
                self.take_down(node, down_for, true);
            }
            Fault::LoseAllPower { down_for } => {
                let all: Vec<NodeId> = self.processes.keys().copied().collect();
                all.into_iter().for_each(|node| self.take_down(node, down_for, true));
            }
            Fault::CrashAt { point, power, down_for } => self.armed.push((point, power, down_for)),
            Fault::Pause { target, lasting } => {
                let until = self.now + lasting;
                let node = self.resolve(target);
                if let Some(process) = self.processes.get_mut(&node) {
                    process.paused_until = process.paused_until.max(until);
                }
            }
            Fault::Cut { cut, lasting } => {
                let links = self.links(&cut);
                self.network.cut(number, links);
                self.after(lasting, Event::Mend(number));
            }
            Fault::Weather { loss_percent, repeat_percent, delay_max, lasting } => {
                self.network.turn_bad(number, Weather { loss_percent, repeat_percent, delay_max });
                self.after(lasting, Event::Mend(number));
            }
            Fault::SlowDisk { target, delay_max, lasting } => {
                let node = self.resolve(target);
                if let Some(process) = self.processes.get_mut(&node) {
                    process.disk_delay_max = delay_max;
                    process.slow_until = process.slow_until.max(self.now + lasting);
                }
                self.after(lasting, Event::Mend(number));
            }
            Fault::SlowMachine { target, delay_max, lasting } => {
                let node = self.resolve(target);
                if let Some(process) = self.processes.get_mut(&node) {
                    process.machine_delay_max = delay_max;
                    process.slow_until = process.slow_until.max(self.now + lasting);
                }
                self.after(lasting, Event::Mend(number));
            }
            Fault::FailDisk { target, down_for } => {
                let node = self.resolve(target);
                if let Some(process) = self.processes.get_mut(&node).filter(|process| process.running.is_some()) {
                    process.disk.fail_next(IoError::Failed);
                    process.down_until = process.down_until.max(self.now + down_for);
                }
            }
            Fault::FillDisk { target, lasting } => {
                let node = self.resolve(target);
                if let Some(process) = self.processes.get_mut(&node).filter(|process| process.running.is_some()) {
                    process.disk.set_full(true);
                    process.full_until = process.full_until.max(self.now + lasting);
                    process.down_until = process.down_until.max(self.now + lasting);
                }
                self.after(lasting, Event::Mend(number));
            }
            Fault::FlipBit { target } => self.flip_bit(target),
            Fault::ChangeMembers(change) => return self.change_members(change),
            Fault::Transfer { to, lost } => {
                self.orders_lost += u32::from(lost);
                let to = self.resolve(to);
                let leader = self.leader();
                let anyone =
                    self.processes.values().find(|process| process.running.is_some()).map(|process| process.id);
                let asked = if self.chance().bool() { leader } else { anyone };
                if let Some(asked) = asked.or(leader) {
                    self.input(asked, Input::TransferLeader(to));
                }
            }
            Fault::Snapshot { target, compact_behind } => self.job(target, MachineJob::Snapshot { compact_behind }),
            Fault::MakeDurable { target } => self.job(target, MachineJob::MakeDurable),
            Fault::SwapModule => self.swap_module(),
        }
        Ok(())
    }

    pub(crate) fn mend(&mut self, number: usize, fault: &Fault) {
        match fault {
            Fault::Cut { .. } | Fault::Weather { .. } => self.network.mend(number),
            Fault::SlowDisk { .. } | Fault::SlowMachine { .. } => {
                for process in self.processes.values_mut().filter(|process| process.slow_until <= self.now) {
                    process.disk_delay_max = DISK_DELAY;
                    process.machine_delay_max = MACHINE_DELAY;
                }
            }
            Fault::FillDisk { .. } => {
                for process in self.processes.values_mut().filter(|process| process.full_until <= self.now) {
                    process.disk.set_full(false);
                }
            }
            _ => {}
        }
    }

    fn resolve(&mut self, target: Target) -> NodeId {
        let leader = self.leader();
        match target {
            Target::Node(id) => id,
            Target::Leader => leader.unwrap_or(1),
            Target::Follower(which) => {
                let others: Vec<NodeId> =
                    self.judge.newest_members().all().into_iter().filter(|id| Some(*id) != leader).collect();
                let at = usize::try_from(which % others.len().max(1) as u64).unwrap_or(0);
                others.get(at).copied().unwrap_or(1)
            }
        }
    }

    /// A process passes a point: whether it crashes there.
    pub(crate) fn passes(&mut self, node: NodeId, point: Point) -> bool {
        let Some(at) = self.armed.iter().position(|(armed, ..)| *armed == point) else { return false };
        let (_, power, down_for) = self.armed.swap_remove(at);
        self.trace.event(&[15, self.now, node, point as u64]);
        self.trace.line(self.now, || format!("n{node} CRASHES at {point:?}"));
        self.take_down(node, down_for, power);
        true
    }

    fn take_down(&mut self, node: NodeId, down_for: Micros, power: bool) {
        let until = self.now + down_for;
        let mut rng = self.chance().fork();
        let Some(process) = self.processes.get_mut(&node).filter(|process| process.incarnation > 0) else { return };
        process.stop();
        if power {
            process.disk.lose_power(&mut rng);
            process.machine_disk.lose_power(&mut rng);
        }
        process.paused_until = 0;
        process.down_until = process.down_until.max(until);
        let until = process.down_until;
        self.at(until, Event::Restart(node));
    }

    fn links(&mut self, cut: &Cut) -> BTreeSet<(NodeId, NodeId)> {
        let ids: Vec<NodeId> = self.processes.keys().copied().collect();
        let pairs = |keep: &dyn Fn(NodeId, NodeId) -> bool| {
            let all = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
            all.filter(|(from, to)| keep(*from, *to)).collect()
        };
        match *cut {
            Cut::Isolate(target) => {
                let one = self.resolve(target);
                pairs(&|from, to| from == one || to == one)
            }
            Cut::Split(bits) => pairs(&|from, to| (bits >> from) & 1 != (bits >> to) & 1),
            Cut::OneWay(target, inbound) => {
                let one = self.resolve(target);
                pairs(&|from, to| if inbound { to == one } else { from == one })
            }
            Cut::Bridge(target) => {
                let bridge = self.resolve(target);
                pairs(&|from, to| from != bridge && to != bridge && from % 2 != to % 2)
            }
            Cut::Newcomers => {
                let leader = self.leader();
                let joined = self.settings.voters;
                let apart = |id: NodeId| id > joined || Some(id) == leader;
                pairs(&|from, to| apart(from) != apart(to))
            }
            Cut::Link(target, to) => {
                let one = self.resolve(target);
                pairs(&|from, other| from == one && other == to)
            }
        }
    }

    /// Flips a bit on one disk, as long as the group can do without that node.
    fn flip_bit(&mut self, target: Target) {
        let node = self.resolve(target);
        let members = self.judge.newest_members();
        let sound = |id: NodeId| id != node && !self.processes[&id].flipped;
        let spared = members.is_quorum(sound) && members.voters.len() >= 3 && !members.is_joint();
        let mut rng = self.chance().fork();
        let Some(process) = self.processes.get_mut(&node).filter(|process| spared && process.incarnation > 0) else {
            return;
        };
        if process.disk.flip_bit(&mut rng) {
            process.flipped = true;
            // It is found when the process starts again.
            self.take_down(node, 100_000, false);
        }
    }

    /// A cut that a group with pre-vote and check-quorum must live with: one node that does not hear, or is not heard, or two
    /// that do not see each other.
    pub(crate) fn leave_scar(&mut self) {
        if !self.settings.scar || self.settings.voters < 3 {
            return;
        }
        let target = if self.chance().bool() { Target::Leader } else { Target::Follower(self.settings.seed) };
        let cut = match self.chance().u8(..3) {
            0 => Cut::OneWay(target, true),
            1 => Cut::OneWay(target, false),
            _ => Cut::Bridge(target),
        };
        // In a group of more than three a bridge may leave no majority with any leader.
        let cut =
            if self.settings.voters > 3 && matches!(cut, Cut::Bridge(_)) { Cut::OneWay(target, true) } else { cut };
        self.trace.line(self.now, || format!("what stays cut: {cut:?}"));
        let links = self.links(&cut);
        self.network.cut(usize::MAX, links);
        self.scarred = true;
    }

    /// A node that is not needed never comes back; the operator is to remove it.
    pub(crate) fn lose_one(&mut self) {
        let members = self.judge.newest_members().clone();
        if !self.settings.loss || self.scarred || members.voters.len() < 3 || members.is_joint() {
            return;
        }
        let node = self.resolve(Target::Follower(self.settings.seed));
        let others = |id: NodeId| id != node && !self.processes[&id].flipped;
        if !members.all().contains(&node) || !members.is_quorum(others) {
            return;
        }
        self.trace.line(self.now, || format!("n{node} is lost for good"));
        self.take_down(node, 0, true);
        self.lost = Some(node);
    }

    fn job(&mut self, target: Target, job: MachineJob) {
        let node = self.resolve(target);
        if let Some(running) = self.processes.get_mut(&node).and_then(|process| process.running.as_mut()) {
            running.jobs.push_back(job);
            self.start_machine(node);
        }
    }

    /// Another module for a moment, then the first again.
    fn swap_module(&mut self) {
        if self.settings.machine != MachineKind::Wasm || self.swapped {
            return;
        }
        self.swapped = true;
        let mut there = upload(self.modules.other, 64 << 10);
        there.push(activate(self.modules.other));
        let busy = self.operator().is_busy();
        self.operator().operate(0, there);
        let back = activate(self.modules.store);
        self.operator().operate(300_000, vec![back]);
        if !busy {
            self.wake_operator();
        }
    }

    fn change_members(&mut self, change: Change) -> Result<(), Violation> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(running) = self.processes.get(&leader).and_then(|process| process.running.as_ref()) else {
            return Ok(());
        };
        let now = running.node.raft().conf_state();
        let outside = self.processes.keys().copied().find(|id| {
            let lists = [&now.voters, &now.learners, &now.voters_outgoing, &now.learners_next];
            !lists.iter().any(|list| list.contains(id)) && !self.processes[id].flipped
        });
        let single = |kind, node| ConfChangeSingle { kind, node };
        let one = |kind, node| ConfChangeV2 { changes: vec![single(kind, node)], ..ConfChangeV2::default() };
        use ConfChangeKind::{AddLearnerNode, AddNode, RemoveNode};
        // Who has a damaged log cannot be spared any more.
        let shrinks = matches!(change, Change::Remove(_) | Change::Demote(_) | Change::Replace(..));
        if shrinks && (now.voters.len() < 2 || self.processes.values().any(|process| process.flipped)) {
            return Ok(());
        }
        let voter = |world: &mut World, target| Some(world.resolve(target)).filter(|id| now.voters.contains(id));
        let (change, joins) = match change {
            Change::AddLearner => match outside {
                Some(id) => (one(AddLearnerNode, id), Some(id)),
                None => return Ok(()),
            },
            Change::AddVoter => match outside {
                Some(id) => (one(AddNode, id), Some(id)),
                None => return Ok(()),
            },
            Change::Promote => match now.learners.first() {
                Some(id) => (one(AddNode, *id), None),
                None => return Ok(()),
            },
            Change::Remove(target) => match voter(self, target) {
                Some(id) => (one(RemoveNode, id), None),
                None => return Ok(()),
            },
            Change::Demote(target) => match voter(self, target) {
                Some(id) => (one(AddLearnerNode, id), None),
                None => return Ok(()),
            },
            Change::Replace(target, leave) => match (voter(self, target), outside) {
                (Some(gone), Some(new)) => {
                    let transition = match leave {
                        Leave::Auto => ConfChangeTransition::Auto,
                        Leave::Implicit => ConfChangeTransition::Implicit,
                        Leave::Explicit => ConfChangeTransition::Explicit,
                    };
                    let changes = vec![single(AddNode, new), single(RemoveNode, gone)];
                    (ConfChangeV2 { transition, changes, ..ConfChangeV2::default() }, Some(new))
                }
                _ => return Ok(()),
            },
            Change::Leave => (ConfChangeV2::default(), None),
        };
        self.propose_change(leader, change);
        match joins {
            Some(id) => self.restart(id),
            None => Ok(()),
        }
    }

    fn propose_change(&mut self, leader: NodeId, change: ConfChangeV2) {
        if let Some(responder) = self.nobody_waits(leader) {
            self.input(leader, Input::ChangeMembers { change, responder });
        }
    }

    /// The operator finishes what no node does by itself: leaves a joint configuration that is to be left explicitly, and
    /// relieves a leader that was removed and, as set, goes on leading.
    pub(crate) fn operate_in_the_end(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(running) = &self.processes[&leader].running else { return };
        let conf = running.node.raft().conf_state();
        if !conf.voters_outgoing.is_empty() && !conf.auto_leave {
            self.propose_change(leader, ConfChangeV2::default());
        }
        if let Some(lost) = self.lost.filter(|lost| conf.voters.contains(lost) || conf.learners.contains(lost)) {
            // What the lost node lacks is compacted away first: the leader waits for it with a snapshot.
            self.job(Target::Leader, MachineJob::Snapshot { compact_behind: 0 });
            if self.now > self.settings.faults_for + REMOVED_AFTER {
                let gone = ConfChangeSingle { kind: ConfChangeKind::RemoveNode, node: lost };
                self.propose_change(leader, ConfChangeV2 { changes: vec![gone], ..ConfChangeV2::default() });
            }
        }
        let stays = !self.settings.step_down_on_removal && !conf.voters.contains(&leader);
        if stays && conf.voters_outgoing.is_empty() {
            let at = self.chance().usize(..conf.voters.len());
            self.input(leader, Input::TransferLeader(conf.voters[at]));
        }
    }
}
