//! The phases after the faults: everything heals, and the group must serve again within a while, every client be
//! satisfied, and all replicas be equal.

use std::collections::BTreeSet;

use telegraft_raft::NodeId;

use crate::{
    judge::{Violation, violation},
    process::StartError,
    settings::{Micros, TICK},
    world::{Event, OPERATIONS_AFTER, World},
};

/// Most that the world gives a group to serve again once the faults have ended.
const CONVERGE_WITHIN: Micros = 40_000_000;
/// How often it looks.
const LOOK_EVERY: Micros = 200_000;

impl World {
    /// Starts a node's process, if it is down and may run.
    pub(crate) fn restart(&mut self, node: NodeId) -> Result<(), Violation> {
        let Some(process) = self.processes.get_mut(&node) else { return Ok(()) };
        let lost = self.lost == Some(node);
        if process.running.is_some() || process.damaged || lost || process.down_until > self.now {
            return Ok(());
        }
        match process.start(&self.settings) {
            Ok(()) => {}
            Err(StartError::Log(error)) if process.flipped => {
                process.damaged = true;
                self.trace.line(self.now, || format!("n{node} refuses to start: {error}"));
                self.trace.event(&[13, self.now, node]);
                return Ok(());
            }
            Err(error) => return violation('P', format!("node {node} does not start: {error}")),
        }
        self.judge.started(process)?;
        let incarnation = process.incarnation;
        self.trace.event(&[14, self.now, node, incarnation]);
        self.trace.line(self.now, || format!("n{node} STARTS"));
        let phase = self.rng.u64(..TICK);
        self.after(phase, Event::Tick(node, incarnation));
        if let Some(running) = self.processes.get_mut(&node).and_then(|process| process.running.as_mut()) {
            running.turn_due = true;
        }
        self.after(1, Event::Turn(node, incarnation));
        Ok(())
    }

    /// All faults end.
    pub(crate) fn heal(&mut self) {
        self.trace.line(self.now, || "HEAL: all faults end".to_owned());
        self.healed = true;
        self.armed.clear();
        self.network.mend_all();
        self.orders_lost = 0;
        self.leave_scar();
        self.lose_one();
        let ids: Vec<NodeId> = self.processes.keys().copied().filter(|id| Some(*id) != self.lost).collect();
        for id in ids {
            let delay = self.rng.u64(1..200_000);
            let Some(process) = self.processes.get_mut(&id) else { continue };
            process.recover(self.now);
            // Who never was a member stays out.
            if process.incarnation > 0 {
                self.after(delay, Event::Restart(id));
            }
        }
        for number in 1..self.clients.len() {
            if !self.clients[number].is_busy() {
                let attempt = self.clients[number].attempt;
                self.after(LOOK_EVERY, Event::ClientWakes(number, attempt));
            }
        }
        self.after(LOOK_EVERY, Event::Look);
    }

    /// Looks whether the group serves again, every client is satisfied, and all replicas are equal.
    pub(crate) fn look(&mut self) -> Result<(), Violation> {
        self.operate_in_the_end();
        let mut missing = self.what_is_missing();
        if missing.is_none() && self.scarred {
            self.trace.line(self.now, || "what stayed cut is mended".to_owned());
            self.network.mend_all();
            self.scarred = false;
            missing = Some("links have just been mended".to_owned());
        }
        match missing {
            None => {
                self.finished = true;
                Ok(())
            }
            Some(missing) if self.now > self.settings.faults_for + CONVERGE_WITHIN => {
                violation('V', format!("{} s after the faults ended {missing}", CONVERGE_WITHIN / 1_000_000))
            }
            Some(_) => {
                self.after(LOOK_EVERY, Event::Look);
                Ok(())
            }
        }
    }

    pub(crate) fn what_is_missing(&self) -> Option<String> {
        let Some(leader) = self.leader() else { return Some("nobody leads".to_owned()) };
        if let Some(number) = (0..self.clients.len()).find(|number| self.clients[*number].is_busy()) {
            return Some(format!("client {number} waits for an answer"));
        }
        if let Some(number) = (1..self.clients.len()).find(|number| self.done_since_heal[*number] < OPERATIONS_AFTER) {
            return Some(format!("client {number} gets nothing done"));
        }
        if self.scarred {
            return None;
        }
        let members = self.judge.newest_members();
        if let Some(lost) = self.lost.filter(|lost| members.all().contains(lost)) {
            return Some(format!("node {lost}, which is lost, is still a member"));
        }
        if members.is_joint() {
            return Some("the configuration is still joint".to_owned());
        }
        let commit = self.judge.commit_index();
        for id in members.all() {
            let process = &self.processes[&id];
            let Some(running) = &process.running else {
                if process.damaged {
                    continue;
                }
                return Some(format!("node {id} does not run"));
            };
            let raft = running.node.raft();
            let applied = running.machine.applied_index();
            if (raft.last_index(), raft.commit_index(), applied) != (commit, commit, commit) {
                let (last, own) = (raft.last_index(), raft.commit_index());
                return Some(format!(
                    "node {id} has {last} entries, {own} committed, {applied} applied, of {commit}; n{leader} leads"
                ));
            }
            let voters: BTreeSet<_> = raft.conf_state().voters.into_iter().collect();
            if voters != members.voters {
                return Some(format!("node {id} has the voters {voters:?} instead of {:?}", members.voters));
            }
        }
        None
    }
}
