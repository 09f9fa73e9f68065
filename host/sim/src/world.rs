//! The world: one queue of events in the order of simulated time, and everything that happens when one is due. Owns time,
//! chance and the three phases: faults, healing, convergence.

use std::{collections::BTreeMap, rc::Rc};

use fastrand::Rng;
use telegraft_node::Input;
use telegraft_raft::{Message, NodeId, Role};

use crate::{
    clients::{Client, Reply, Request, Seen, activate, upload},
    disk::LogDisk,
    judge::{Judge, Violation, violation},
    machine::MachineDisk,
    network::Network,
    outside::Outside,
    plan::{Planned, Point},
    process::{MachineJob, Process},
    settings::{MachineKind, Micros, Settings, TICK},
    trace::Trace,
};

/// Events that no sound world comes near.
const EVENTS_MAX: u64 = 20_000_000;
/// Operations that each client must get done after the faults have ended.
pub(crate) const OPERATIONS_AFTER: u64 = 2;

pub(crate) enum Event {
    Tick(NodeId, u64),
    Turn(NodeId, u64),
    Deliver(Box<Message>),
    LogDone(NodeId, u64),
    MachineDone(NodeId, u64, Box<MachineJob>),
    SnapshotSent {
        node: NodeId,
        incarnation: u64,
        to: NodeId,
        arrived: bool,
    },
    ClientWakes(usize, u64),
    ToNode(NodeId, usize, u64, Box<Request>),
    ToClient(usize, u64, Box<Reply>),
    Strike(usize),
    Mend(usize),
    Restart(NodeId),
    Heal,
    Look,
    /// For clients outside: whose, and which.
    Alarm(u64, u64),
}

/// How a run went, apart from what was wrong.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Simulated time.
    pub simulated: Micros,
    /// Events.
    pub events: u64,
    /// Operations of clients that were answered.
    pub operations: u64,
    /// Operations whose outcome nobody knows.
    pub unknown: u64,
    /// Entries committed.
    pub committed: u64,
    /// Things the checkers compared.
    pub checks: u64,
    /// Faults that struck.
    pub faults: u64,
}

impl Tally {
    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Tally) {
        self.simulated += other.simulated;
        self.events += other.events;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.committed += other.committed;
        self.checks += other.checks;
        self.faults += other.faults;
    }
}

/// The modules that the operator of a world with a Wasm machine uploads.
#[derive(Clone, Copy, Debug)]
pub struct Modules {
    /// The key-value store that the clients talk to.
    pub store: &'static [u8],
    /// Another, to swap it for and back.
    pub other: &'static [u8],
}

/// A world under way.
pub struct World {
    pub(crate) settings: Settings,
    pub(crate) now: Micros,
    pub(crate) sequence: u64,
    pub(crate) queue: BTreeMap<(Micros, u64), Event>,
    pub(crate) rng: Rng,
    pub(crate) processes: BTreeMap<NodeId, Process>,
    pub(crate) disks: BTreeMap<NodeId, LogDisk>,
    pub(crate) network: Network,
    pub(crate) plan: Vec<Option<Planned>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) done_since_heal: Vec<u64>,
    pub(crate) seen: Seen,
    pub(crate) judge: Judge,
    pub(crate) trace: Trace,
    pub(crate) healed: bool,
    pub(crate) swapped: bool,
    /// Crashes that wait for a process to pass a point.
    pub(crate) armed: Vec<(Point, bool, Micros)>,
    /// Orders to campaign at once that the network loses next.
    pub(crate) orders_lost: u32,
    /// Links stay cut after the faults.
    pub(crate) scarred: bool,
    /// This node never comes back.
    pub(crate) lost: Option<NodeId>,
    pub(crate) faults: u64,
    pub(crate) finished: bool,
    pub(crate) modules: Modules,
    /// Clients that live outside; then the world has none of its own.
    pub(crate) outside: Option<Outside>,
}

impl World {
    /// A world in which all first voters are about to start. `plan`: the faults, `None` where one is left out. `modules`:
    /// what its operator installs where the machine is Wasm. `machine` gives each node a new machine's disk.
    ///
    /// # Errors
    /// Those of `machine`.
    pub fn new(
        settings: Settings,
        plan: Vec<Option<Planned>>,
        modules: Modules,
        machine: &dyn Fn() -> anyhow::Result<Box<dyn MachineDisk>>,
        keep_lines: bool,
    ) -> anyhow::Result<Self> {
        let mut clients: Vec<_> =
            (0..=settings.clients as usize).map(|number| Client::new(number, &settings)).collect();
        if settings.machine == MachineKind::Wasm {
            let mut script = upload(modules.store, 64 << 10);
            script.push(activate(modules.store));
            clients[0].operate(0, script);
        }
        let mut world = World::around(settings, plan, modules, clients, machine, keep_lines)?;
        world.begin();
        Ok(world)
    }

    /// A world in which nothing is about to happen.
    pub(crate) fn around(
        settings: Settings,
        plan: Vec<Option<Planned>>,
        modules: Modules,
        clients: Vec<Client>,
        machine: &dyn Fn() -> anyhow::Result<Box<dyn MachineDisk>>,
        keep_lines: bool,
    ) -> anyhow::Result<Self> {
        let conf_state = telegraft_raft::ConfState { voters: (1..=settings.voters).collect(), ..Default::default() };
        let mut processes = BTreeMap::new();
        for id in settings.ids() {
            processes.insert(id, Process::new(id, LogDisk::new(conf_state.clone()), machine()?));
        }
        let disks = processes.iter().map(|(id, process)| (*id, process.disk.clone())).collect();
        Ok(World {
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            rng: Rng::with_seed(settings.seed ^ 0x3041d),
            processes,
            disks,
            network: Network::new(settings.seed),
            plan,
            done_since_heal: vec![0; clients.len()],
            clients,
            seen: Seen::default(),
            judge: Judge::new(1..=settings.voters),
            trace: Trace::new(keep_lines),
            healed: false,
            swapped: false,
            armed: Vec::new(),
            orders_lost: 0,
            scarred: false,
            lost: None,
            faults: 0,
            finished: false,
            modules,
            outside: None,
            settings,
        })
    }

    fn begin(&mut self) {
        for id in 1..=self.settings.voters {
            let at = self.rng.u64(..50_000);
            self.at(at, Event::Restart(id));
        }
        for number in 0..self.clients.len() {
            self.at(100_000, Event::ClientWakes(number, 0));
        }
        for number in 0..self.plan.len() {
            if let Some(planned) = &self.plan[number] {
                self.at(planned.at, Event::Strike(number));
            }
        }
        self.at(self.settings.faults_for, Event::Heal);
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn run(&mut self) -> Result<(), Violation> {
        while !self.finished {
            self.step()?;
        }
        for id in self.judge.newest_members().all() {
            self.compare_digest(id)?;
        }
        crate::judge::after::judge(&mut self.judge, &self.seen, self.swapped)
    }

    /// Lets the next event happen.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn step(&mut self) -> Result<(), Violation> {
        let Some(((at, _), event)) = self.queue.pop_first() else {
            return violation('V', "nothing happens any more");
        };
        self.now = at;
        if self.trace.events() > EVENTS_MAX {
            return violation('V', format!("more than {EVENTS_MAX} events: something goes round in circles"));
        }
        self.happen(event)
    }

    /// What happened so far, in numbers.
    pub fn tally(&self) -> Tally {
        Tally {
            simulated: self.now,
            events: self.trace.events(),
            operations: self.seen.answered,
            unknown: self.seen.unknown,
            committed: self.judge.commit_index(),
            checks: self.judge.checks,
            faults: self.faults,
        }
    }

    pub(crate) fn at(&mut self, at: Micros, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    pub(crate) fn after(&mut self, delay: Micros, event: Event) {
        self.at(self.now + delay, event);
    }

    /// The process of a node, if it is the one that an event is for, and not paused. Else the event waits, or is void.
    fn runs(&self, node: NodeId, incarnation: u64) -> Option<bool> {
        let process = self.processes.get(&node)?;
        let same = process.running.is_some() && process.incarnation == incarnation;
        same.then_some(process.paused_until <= self.now)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Tick(node, incarnation) => match self.runs(node, incarnation) {
                None => Ok(()),
                Some(false) => self.postpone(node, Event::Tick(node, incarnation)),
                Some(true) => {
                    self.input(node, Input::Tick);
                    let period = TICK * 1_000_000 / self.settings.node(node).clock_ppm;
                    self.after(period, Event::Tick(node, incarnation));
                    Ok(())
                }
            },
            Event::Turn(node, incarnation) => match self.runs(node, incarnation) {
                None => Ok(()),
                Some(false) => self.postpone(node, Event::Turn(node, incarnation)),
                Some(true) => self.turn(node),
            },
            Event::LogDone(node, incarnation) => match self.runs(node, incarnation) {
                None => Ok(()),
                Some(false) => self.postpone(node, Event::LogDone(node, incarnation)),
                Some(true) => self.log_done(node),
            },
            Event::MachineDone(node, incarnation, job) => match self.runs(node, incarnation) {
                None => Ok(()),
                Some(false) => self.postpone(node, Event::MachineDone(node, incarnation, job)),
                Some(true) => self.machine_done(node, *job),
            },
            Event::Deliver(message) => {
                self.deliver(*message);
                Ok(())
            }
            Event::SnapshotSent { node, incarnation, to, arrived } => {
                if self.runs(node, incarnation).is_some() {
                    self.input(node, Input::SnapshotSent { to, arrived });
                }
                Ok(())
            }
            Event::ClientWakes(client, attempt) => {
                self.client_wakes(client, attempt);
                Ok(())
            }
            Event::ToNode(node, client, attempt, request) => self.request(node, client, attempt, *request),
            Event::ToClient(client, attempt, reply) => {
                self.reply(client, attempt, *reply);
                Ok(())
            }
            Event::Strike(number) => {
                let Some(planned) = self.plan[number].clone() else { return Ok(()) };
                self.faults += 1;
                self.trace.event(&[1, self.now, number as u64]);
                self.trace.line(self.now, || format!("FAULT {number}: {:?}", planned.fault));
                self.strike(number, planned.fault)
            }
            Event::Mend(number) => {
                if let Some(planned) = self.plan[number].clone() {
                    self.trace.line(self.now, || format!("END of fault {number}"));
                    self.mend(number, &planned.fault);
                }
                Ok(())
            }
            Event::Restart(node) => self.restart(node),
            Event::Heal => {
                self.heal();
                Ok(())
            }
            Event::Look => self.look(),
            Event::Alarm(whose, which) => {
                self.ring(whose, which);
                Ok(())
            }
        }
    }

    fn postpone(&mut self, node: NodeId, event: Event) -> Result<(), Violation> {
        let until = self.processes.get(&node).map_or(0, |process| process.paused_until);
        self.at(until.max(self.now + 1), event);
        Ok(())
    }

    /// Hands something to a node's process, and sees to it that it takes a turn.
    pub(crate) fn input(&mut self, node: NodeId, input: Input<crate::process::Waiter>) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        if !process.receive(input) {
            return;
        }
        let incarnation = process.incarnation;
        let due = process.running.as_mut().map(|running| std::mem::replace(&mut running.turn_due, true));
        if due == Some(false) {
            // Inputs that come close together share a turn.
            let delay = self.rng.u64(20..400);
            self.after(delay, Event::Turn(node, incarnation));
        }
    }

    /// The node that leads in the highest term.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |process: &&Process| {
            process.running.as_ref().is_some_and(|running| running.node.raft().role() == Role::Leader)
        };
        let term = |process: &&Process| process.running.as_ref().map_or(0, |running| running.node.raft().term());
        self.processes.values().filter(leads).max_by_key(term).map(|process| process.id)
    }

    pub(crate) fn operator(&mut self) -> &mut Client {
        &mut self.clients[0]
    }

    pub(crate) fn wake_operator(&mut self) {
        let attempt = self.clients[0].attempt;
        self.after(1, Event::ClientWakes(0, attempt));
    }

    pub(crate) fn chance(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Where a node's answers go, for those who do not wait.
    pub(crate) fn nobody_waits(&self, node: NodeId) -> Option<crate::process::Waiter> {
        self.processes
            .get(&node)
            .map(|process| crate::process::Waiter { ticket: None, answers: Rc::clone(&process.answers) })
    }
}
