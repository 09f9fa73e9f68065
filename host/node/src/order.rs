//! The order between the log and the machine. Each of the two ports keeps the order of what it was handed; this keeps the
//! order across them, by holding work back:
//!
//! - A change of the configuration is durable before the machine applies its entry, or any after it. A machine that
//!   survived a crash with an entry applied whose change the log had lost would never hear of that change again.
//! - A snapshot is in the machine, durably, before the log begins after it. A log that begins beyond its machine's state
//!   could not bring the machine forward.

use std::collections::VecDeque;

use telegraft_raft::{
    AppendTicket, Entry, Index, Message, Snapshot,
    defects::{self, Defect},
};

use crate::{
    node::Ports,
    ports::{ConfAt, LogWrite},
};

/// What may be said once a write is durable.
#[derive(Default)]
pub(crate) struct Promises {
    pub tickets: Vec<AppendTicket>,
    pub messages: Vec<Message>,
}

enum MachineWork {
    Apply(Vec<Entry>),
    Restore(Snapshot),
}

#[derive(Default)]
pub(crate) struct Order {
    /// Of all writes not yet durable, the held ones last.
    promises: VecDeque<Promises>,
    /// Writes that wait for the restoration under way.
    held_writes: VecDeque<LogWrite>,
    /// Snapshots handed to the machine and not restored yet: one may come while another is under way.
    restorations: usize,
    /// Writes ever taken in, and those of them that are durable.
    writes_taken: u64,
    writes_durable: u64,
    /// Work for the machine that waits for so many writes to be durable.
    held_work: VecDeque<(u64, MachineWork)>,
    /// What new work for the machine must wait for.
    barrier: u64,
}

impl Order {
    /// Takes in a write, with what may be said once it is durable.
    pub(crate) fn persist(&mut self, write: LogWrite, promises: Promises, ports: &mut impl Ports) {
        self.promises.push_back(promises);
        self.writes_taken += 1;
        // Class 23: the log need not wait for the machine to be restored.
        if self.restorations > 0 && !defects::active(Defect::InstallationAborted) {
            self.held_writes.push_back(write);
        } else {
            ports.persist(write);
        }
    }

    /// Promises that need no write of their own, but must not overtake those before them. Gives them back where nothing
    /// is before them.
    pub(crate) fn join_last(&mut self, promises: Promises) -> Option<Promises> {
        let Some(last) = self.promises.back_mut() else { return Some(promises) };
        last.tickets.extend(promises.tickets);
        last.messages.extend(promises.messages);
        None
    }

    /// The machine applies nothing that is handed over from now on before all writes taken in so far are durable.
    pub(crate) fn raise_barrier(&mut self) {
        self.barrier = self.writes_taken;
    }

    pub(crate) fn apply(&mut self, entries: Vec<Entry>, ports: &mut impl Ports) {
        self.hand_to_machine(MachineWork::Apply(entries), ports);
    }

    /// Begins a restoration: what is taken in for the log from now on waits for its end.
    pub(crate) fn restore(&mut self, snapshot: Snapshot, ports: &mut impl Ports) {
        self.restorations += 1;
        self.hand_to_machine(MachineWork::Restore(snapshot), ports);
    }

    /// The machine is restored from the oldest snapshot not yet reported: the log hears of that one, and of what came
    /// before the next.
    pub(crate) fn restored(&mut self, ports: &mut impl Ports) {
        self.restorations = self.restorations.saturating_sub(1);
        let next = self.held_writes.iter().skip(1).position(|write| write.snapshot.is_some());
        let free = match next.map(|at| at + 1) {
            Some(next) if !defects::active(Defect::SnapshotsOvertakeEachOther) => next,
            _ => self.held_writes.len(),
        };
        self.held_writes.drain(..free).for_each(|write| ports.persist(write));
    }

    /// The oldest write is durable: gives what may be said now, or nothing where no write is under way.
    pub(crate) fn durable(&mut self, ports: &mut impl Ports) -> Option<Promises> {
        let promises = self.promises.pop_front()?;
        self.writes_durable += 1;
        while self.held_work.front().is_some_and(|(barrier, _)| *barrier <= self.writes_durable) {
            if let Some((_, work)) = self.held_work.pop_front() {
                hand(work, ports);
            }
        }
        Some(promises)
    }

    fn hand_to_machine(&mut self, work: MachineWork, ports: &mut impl Ports) {
        if self.held_work.is_empty() && self.barrier <= self.writes_durable {
            hand(work, ports);
        } else {
            self.held_work.push_back((self.barrier, work));
        }
    }
}

fn hand(work: MachineWork, ports: &mut impl Ports) {
    match work {
        MachineWork::Apply(entries) => ports.apply(entries),
        MachineWork::Restore(snapshot) => ports.restore(snapshot),
    }
}

/// The configurations that were in force from some index on, back to the one at the applied index: a snapshot needs the
/// one at *its* index, while the core may be ahead.
pub(crate) struct Configurations {
    /// In rising order of their indexes; never empty.
    known: VecDeque<ConfAt>,
}

impl Configurations {
    pub(crate) fn new(first: ConfAt) -> Self {
        Configurations { known: VecDeque::from([first]) }
    }

    /// The index of the newest.
    pub(crate) fn newest_index(&self) -> Index {
        self.known.back().map_or(0, |conf| conf.index)
    }

    pub(crate) fn add(&mut self, conf: ConfAt) {
        self.known.push_back(conf);
    }

    /// The one in force at `index`, where it is still known.
    pub(crate) fn at(&self, index: Index) -> Option<&ConfAt> {
        // Class 13: the newest will do, wherever the machine is.
        let newest = defects::active(Defect::ConfigurationNotRolledBack);
        self.known.iter().rev().find(|conf| conf.index <= index || newest)
    }

    /// Everything up to `index` is applied.
    pub(crate) fn forget_before(&mut self, index: Index) {
        while self.known.get(1).is_some_and(|second| second.index <= index) {
            self.known.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telegraft_raft::{EntryKind, SnapshotMeta};

    /// What the ports were handed, in order.
    #[derive(Default)]
    struct Handed(Vec<String>);

    impl Ports for Handed {
        fn send(&mut self, message: Message) {
            unreachable!("nothing is sent from here: {message:?}");
        }
        fn persist(&mut self, write: LogWrite) {
            let what = if write.snapshot.is_some() { "snapshot" } else { "write" };
            self.0.push(what.to_owned());
        }
        fn apply(&mut self, entries: Vec<Entry>) {
            self.0.push(format!("apply {}", entries[0].index));
        }
        fn restore(&mut self, snapshot: Snapshot) {
            self.0.push(format!("restore {}", snapshot.meta.index));
        }
    }

    fn entries(index: Index) -> Vec<Entry> {
        vec![Entry { term: 1, index, kind: EntryKind::Normal, data: Default::default() }]
    }

    #[test]
    fn the_machine_waits_for_the_writes_before_a_barrier_and_no_others() {
        let (mut order, mut ports) = (Order::default(), Handed::default());
        order.persist(LogWrite::default(), Promises::default(), &mut ports);
        order.apply(entries(1), &mut ports);
        order.persist(LogWrite::default(), Promises::default(), &mut ports);
        order.raise_barrier();
        order.apply(entries(2), &mut ports);
        order.persist(LogWrite::default(), Promises::default(), &mut ports);
        order.apply(entries(3), &mut ports);
        assert_eq!(ports.0, ["write", "apply 1", "write", "write"]);
        assert!(order.durable(&mut ports).is_some());
        assert_eq!(ports.0.len(), 4);
        assert!(order.durable(&mut ports).is_some());
        assert_eq!(ports.0[4..], ["apply 2", "apply 3"]);
        assert!(order.durable(&mut ports).is_some() && order.durable(&mut ports).is_none());
    }

    #[test]
    fn the_log_waits_for_a_restoration() {
        let (mut order, mut ports) = (Order::default(), Handed::default());
        let meta = SnapshotMeta { index: 9, ..SnapshotMeta::default() };
        order.persist(LogWrite::default(), Promises::default(), &mut ports);
        order.raise_barrier();
        order.restore(Snapshot { meta: meta.clone(), ..Snapshot::default() }, &mut ports);
        let write = LogWrite { snapshot: Some(meta), ..LogWrite::default() };
        order.persist(write, Promises::default(), &mut ports);
        order.persist(LogWrite::default(), Promises::default(), &mut ports);
        assert_eq!(ports.0, ["write"]);
        order.durable(&mut ports);
        assert_eq!(ports.0, ["write", "restore 9"]);
        order.restored(&mut ports);
        assert_eq!(ports.0, ["write", "restore 9", "snapshot", "write"]);
    }

    #[test]
    fn the_log_hears_of_no_snapshot_before_its_own_restoration() {
        let (mut order, mut ports) = (Order::default(), Handed::default());
        for index in [5, 9] {
            let meta = SnapshotMeta { index, ..SnapshotMeta::default() };
            order.restore(Snapshot { meta: meta.clone(), ..Snapshot::default() }, &mut ports);
            let write = LogWrite { snapshot: Some(meta), ..LogWrite::default() };
            order.persist(write, Promises::default(), &mut ports);
            order.persist(LogWrite::default(), Promises::default(), &mut ports);
        }
        assert_eq!(ports.0, ["restore 5", "restore 9"]);
        order.restored(&mut ports);
        assert_eq!(ports.0[2..], ["snapshot", "write"]);
        order.restored(&mut ports);
        assert_eq!(ports.0[4..], ["snapshot", "write"]);
    }

    #[test]
    fn a_snapshot_finds_the_configuration_of_its_index() {
        let conf = |index, id| ConfAt {
            index,
            conf_state: telegraft_raft::ConfState { voters: vec![id], ..Default::default() },
        };
        let mut known = Configurations::new(conf(3, 1));
        known.add(conf(5, 2));
        known.add(conf(9, 3));
        let at = |known: &Configurations, index| known.at(index).map(|conf| conf.index);
        assert_eq!(
            [2, 3, 4, 5, 8, 9, 10].map(|i| at(&known, i)),
            [None, Some(3), Some(3), Some(5), Some(5), Some(9), Some(9)]
        );
        known.forget_before(7);
        assert_eq!([4, 5, 9].map(|i| at(&known, i)), [None, Some(5), Some(9)]);
        assert_eq!(known.newest_index(), 9);
    }
}
