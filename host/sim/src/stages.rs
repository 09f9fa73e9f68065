//! What a process does when one of its stages is due: the turn, the log's write and sync, the machine's work; and what
//! becomes of the messages it sends.

use std::time::Duration;

use bytes::Bytes;
use telegraft_node::{Input, Write};
use telegraft_raft::{
    Message, MessageKind, NodeId, Role, Snapshot,
    defects::{self, Defect},
};

use crate::{
    clients::outcome_hash,
    judge::{Violation, violation},
    plan::Point,
    process::MachineJob,
    world::{Event, World},
};

impl World {
    pub(crate) fn turn(&mut self, node: NodeId) -> Result<(), Violation> {
        let clock = Duration::from_micros(self.now * self.settings.node(node).clock_ppm / 1_000_000);
        let Some(process) = self.processes.get_mut(&node) else { return Ok(()) };
        let Some(running) = &mut process.running else { return Ok(()) };
        let before = running.seen;
        let asked = match running.turn(clock) {
            Ok(asked) => asked,
            Err(fault) => return violation('P', format!("node {node} gave up: {fault}")),
        };
        for write in &asked.writes {
            self.judge.written(process, &write.entries)?;
        }
        let disks = &self.disks;
        self.judge.after_turn(process, |id, index, term| disks.get(&id).is_some_and(|disk| disk.holds(index, term)))?;
        let Some(running) = &mut process.running else { return Ok(()) };
        let now = running.seen;
        if now != before {
            self.trace.event(&[2, self.now, node, now.term, now.commit, now.applied, now.last_index, now.role as u64]);
            self.trace.line(self.now, || {
                format!(
                    "n{node} {:?} term {} vote {} leader {} last {} commit {} applied {}",
                    now.role, now.term, now.vote, now.leader, now.last_index, now.commit, now.applied
                )
            });
        }
        running.writes.extend(asked.writes);
        running.jobs.extend(asked.jobs);
        // The core wants a snapshot for a follower: the machine makes one.
        if process.disk.take_wanted() && !running.jobs.iter().any(|job| matches!(job, MachineJob::Snapshot { .. })) {
            running.jobs.push_back(MachineJob::Snapshot { compact_behind: u64::MAX });
        }
        for message in asked.messages {
            self.judge.sent(&message)?;
            self.send(message);
        }
        let just_leads = now.role == Role::Leader && (before.role, before.term) != (now.role, now.term);
        if just_leads && self.passes(node, Point::Leads) || self.passes(node, Point::Sent) {
            return Ok(());
        }
        self.start_log(node)?;
        self.start_machine(node);
        self.answer(node)
    }

    pub(crate) fn send(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        let mut copies = self.network.send(from, to);
        if message.kind == MessageKind::TimeoutNow && self.orders_lost > 0 {
            self.orders_lost -= 1;
            copies.clear();
        }
        let snapshot = message.kind == MessageKind::Snapshot;
        self.trace.event(&[
            3,
            self.now,
            from,
            to,
            u64::from(message.kind.to_wire()),
            message.term,
            message.index,
            copies.len() as u64,
            message.commit,
            u64::from(message.reject),
            message.entries.len() as u64,
        ]);
        self.trace.line(self.now, || {
            format!("n{from} -> n{to} {}{}", describe(&message), if copies.is_empty() { " LOST" } else { "" })
        });
        if snapshot {
            let incarnation = self.processes.get(&from).map_or(0, |process| process.incarnation);
            // Word of it may be lost as well; the core then finds out by itself.
            if self.rng.u8(..4) > 0 {
                let arrived =
                    !copies.is_empty() && self.processes.get(&to).is_some_and(|process| process.running.is_some());
                self.after(60_000, Event::SnapshotSent { node: from, incarnation, to, arrived });
            }
        }
        let mut copies = copies.into_iter().peekable();
        while let Some(delay) = copies.next() {
            let delay = if snapshot { delay * 10 } else { delay };
            if copies.peek().is_some() {
                self.after(delay, Event::Deliver(Box::new(message.clone())));
            } else {
                self.after(delay, Event::Deliver(Box::new(message)));
                break;
            }
        }
    }

    pub(crate) fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        // A link that was cut meanwhile swallows what is on it.
        if !self.network.carries(from, to) {
            return;
        }
        self.trace.event(&[4, self.now, from, to, u64::from(message.kind.to_wire()), message.term, message.index]);
        let runs = self.processes.get(&to).is_some_and(|process| process.running.is_some());
        if runs {
            self.input(to, Input::Peer(message));
        } else if self.rng.u8(..10) == 0 {
            self.input(from, Input::Unreachable(to));
        }
    }

    /// The log stage takes what waits, if it is free.
    pub(crate) fn start_log(&mut self, node: NodeId) -> Result<(), Violation> {
        let Some(process) = self.processes.get_mut(&node) else { return Ok(()) };
        let Some(running) = &mut process.running else { return Ok(()) };
        if running.writing > 0 || running.writes.is_empty() {
            return Ok(());
        }
        let count = self.rng.usize(1..=running.writes.len());
        let batch: Vec<_> = running.writes.drain(..count).collect();
        running.writing = count;
        let incarnation = process.incarnation;
        let delay = self.rng.u64(100..=process.disk_delay_max);
        match process.disk.write(&batch) {
            Ok(()) => {
                self.after(delay, Event::LogDone(node, incarnation));
                self.passes(node, Point::Written);
            }
            Err(fault) => self.halt(node, &fault.to_string()),
        }
        Ok(())
    }

    pub(crate) fn log_done(&mut self, node: NodeId) -> Result<(), Violation> {
        let Some(process) = self.processes.get_mut(&node) else { return Ok(()) };
        let injected = process.disk.will_fail();
        match process.disk.sync() {
            Ok(()) => {
                let Some(running) = &mut process.running else { return Ok(()) };
                let count = std::mem::take(&mut running.writing);
                if self.passes(node, Point::Synced) {
                    return Ok(());
                }
                self.trace.event(&[5, self.now, node, count as u64]);
                self.input(node, Input::Persisted { count });
                self.start_log(node)
            }
            Err(fault) if injected => {
                self.halt(node, &fault.to_string());
                Ok(())
            }
            Err(fault) => violation('P', format!("node {node}: {fault}")),
        }
    }

    /// A process stops by itself, for a fault of its disk, as it must.
    pub(crate) fn halt(&mut self, node: NodeId, why: &str) {
        self.trace.event(&[6, self.now, node]);
        self.trace.line(self.now, || format!("n{node} HALTS: {why}"));
        let Some(process) = self.processes.get_mut(&node) else { return };
        process.stop();
        let back = process.down_until.max(self.now + 100_000);
        self.at(back, Event::Restart(node));
    }

    /// The machine stage takes what waits, if it is free.
    pub(crate) fn start_machine(&mut self, node: NodeId) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        let Some(running) = &mut process.running else { return };
        if running.machine_busy {
            return;
        }
        let Some(job) = running.next_job() else { return };
        running.machine_busy = true;
        let incarnation = process.incarnation;
        let mut delay = self.rng.u64(50..=process.machine_delay_max);
        if matches!(job, MachineJob::Restore(_)) && self.rng.u8(..3) == 0 {
            // A large state takes longer than an election.
            delay += self.rng.u64(..1_200_000);
        }
        self.after(delay, Event::MachineDone(node, incarnation, Box::new(job)));
    }

    pub(crate) fn machine_done(&mut self, node: NodeId, job: MachineJob) -> Result<(), Violation> {
        let Some(process) = self.processes.get_mut(&node) else { return Ok(()) };
        let Some(running) = &mut process.running else { return Ok(()) };
        running.machine_busy = false;
        let defect = |fault: &dyn std::fmt::Display| Violation { checker: 'P', what: format!("node {node}: {fault}") };
        match job {
            MachineJob::Apply(entries) => {
                let applied_before = running.machine.applied_index();
                let applied = running.apply(&entries).map_err(|fault| defect(&fault))?;
                let proposals = running.machine.take_proposals();
                let effects = running.machine.effect_digest();
                self.judge.applied(node, &applied, applied_before)?;
                if let Some((index, digest)) = effects {
                    self.judge.effects(node, index, digest)?;
                }
                let last = applied.last().map_or(0, |entry| entry.index);
                let outcomes =
                    applied.iter().fold(0, |sum: u64, entry| sum.rotate_left(1) ^ outcome_hash(&entry.outcome));
                self.trace.event(&[7, self.now, node, last, outcomes]);
                if self.passes(node, Point::Applied) {
                    return Ok(());
                }
                self.input(node, Input::Applied(applied));
                self.propose(node, proposals);
            }
            MachineJob::Restore(snapshot) => {
                running.machine.restore(&snapshot).map_err(|fault| defect(&fault))?;
                process.machine_durable = process.machine_durable.max(snapshot.meta.index);
                self.trace.event(&[8, self.now, node, snapshot.meta.index]);
                self.trace.line(self.now, || format!("n{node} restored at {}", snapshot.meta.index));
                self.compare_digest(node)?;
                if self.passes(node, Point::Restored) {
                    return Ok(());
                }
                self.input(node, Input::Restored);
            }
            MachineJob::Snapshot { compact_behind } => {
                let data = running.machine.snapshot().map_err(|fault| defect(&fault))?;
                let index = running.machine.applied_index();
                let durable = if defects::active(Defect::NewestSnapshotRemoved) {
                    // What makes the log's beginning superfluous is not kept.
                    index
                } else {
                    running.machine.make_durable().map_err(|fault| defect(&fault))?
                };
                if let Some(meta) = running.node.snapshot_meta(index) {
                    self.judge.snapshot(node, &meta)?;
                    process.disk.offer(Snapshot { meta, data });
                    let through =
                        index.min(durable).min(running.node.raft().applied_index()).saturating_sub(compact_behind);
                    // Never while a write is on its way: the file is written anew.
                    if !process.disk.is_busy() && running.writing == 0 {
                        process.disk.compact(through).map_err(|what| Violation { checker: 'P', what })?;
                    }
                    self.trace.event(&[9, self.now, node, index, through]);
                    self.trace.line(self.now, || {
                        format!("n{node} has a snapshot at {index}, its log compacted through {through}")
                    });
                }
                if !defects::active(Defect::NewestSnapshotRemoved) {
                    process.machine_durable = process.machine_durable.max(durable);
                }
                self.compare_digest(node)?;
            }
            MachineJob::MakeDurable => {
                let durable = running.machine.make_durable().map_err(|fault| defect(&fault))?;
                process.machine_durable = process.machine_durable.max(durable);
                self.trace.event(&[10, self.now, node, durable]);
            }
        }
        self.start_machine(node);
        Ok(())
    }

    /// What a machine asks to be proposed; only a leader's wishes are heard. Nobody waits for it.
    fn propose(&mut self, node: NodeId, proposals: Vec<Bytes>) {
        for data in proposals {
            if let Some(responder) = self.nobody_waits(node) {
                self.input(node, Input::Write(Write { data, responder }));
            }
        }
    }

    pub(crate) fn compare_digest(&mut self, node: NodeId) -> Result<(), Violation> {
        let Some(running) = self.processes.get_mut(&node).and_then(|process| process.running.as_mut()) else {
            return Ok(());
        };
        match running.machine.state_digest() {
            Ok((index, digest)) => self.judge.digest(node, index, digest),
            Err(fault) => violation('P', format!("node {node}: {fault}")),
        }
    }
}

fn describe(message: &Message) -> String {
    let Message { kind, term, log_term, index, entries, commit, reject, .. } = message;
    let mut text = format!("{kind:?} term {term}");
    if *index > 0 || *log_term > 0 {
        text += &format!(" at {index}/{log_term}");
    }
    if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
        text += &format!(" entries {}..={}", first.index, last.index);
    }
    if *commit > 0 {
        text += &format!(" commit {commit}");
    }
    if let Some(snapshot) = &message.snapshot {
        text += &format!(" snapshot {}/{}", snapshot.meta.index, snapshot.meta.term);
    }
    if *reject { text + " REJECTED" } else { text }
}
