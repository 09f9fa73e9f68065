//! The world for others: a group of nodes as hosts run it, whose clients, modules and faults come from outside. Owns what
//! such a driver may do to a world and hear from it.
//!
//! The driver asks ([`World::ask`]), sets alarms ([`World::alarm`]), lets faults strike when it wants them
//! ([`World::inflict`]), and lets one event after the other happen ([`World::step`]); then it fetches what it was told
//! ([`World::take_heard`]). All that is chance still comes from the seed: a driver that does the same things gets the same
//! world.

use bytes::Bytes;
use fastrand::Rng;
use telegraft_raft::{Index, NodeId, Role, Term};

use crate::{
    clients::{Reply, Request},
    judge::{Judge, Violation, violation},
    machine::MachineDisk,
    plan::{Fault, Planned},
    process::Ticket,
    settings::{Micros, Settings},
    talk::describe_request,
    trace::Digest,
    world::{Event, Modules, World},
};

/// What the clocks of such a world begin at: 2026-01-01T00:00:00Z, in microseconds since the Unix epoch.
pub const EPOCH: Micros = 1_767_225_600_000_000;

/// What a driver hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A reply to a client's attempt. It may be to an old one, and come twice.
    Reply {
        /// The client.
        client: usize,
        /// The attempt it was asked in.
        attempt: u64,
        /// What was said.
        reply: Reply,
    },
    /// An alarm that was set.
    Alarm {
        /// Whose.
        whose: u64,
        /// Which.
        which: u64,
    },
}

/// What becomes of requests and replies between clients and nodes, besides the network's weather.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Post {
    /// Replies lost, of a hundred.
    pub lose_percent: u8,
    /// Requests and replies that arrive twice, of a hundred.
    pub repeat_percent: u8,
}

/// One node, as seen from above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Its id.
    pub id: NodeId,
    /// Counts its processes.
    pub incarnation: u64,
    /// Whether one runs.
    pub runs: bool,
    /// The term in which it leads.
    pub leads: Option<Term>,
}

/// Method and payload of a read.
type Reading = Box<(String, Bytes)>;

/// The world's end of the clients that live outside.
#[derive(Debug)]
pub struct Outside {
    post: Post,
    rng: Rng,
    heard: Vec<Heard>,
    /// By client: its newest attempt, and what is read in it.
    reads: Vec<(u64, Option<Reading>)>,
}

impl Outside {
    /// What a ticket's attempt is to read, while it is the newest of its client.
    pub(crate) fn asked(&self, ticket: Ticket) -> Option<(String, Bytes)> {
        let (attempt, call) = self.reads.get(ticket.client)?;
        (*attempt == ticket.attempt).then(|| call.as_deref().cloned()).flatten()
    }

    pub(crate) fn copies_of_a_reply(&mut self) -> usize {
        if self.rng.u8(..100) < self.post.lose_percent { 0 } else { self.copies() }
    }

    fn copies(&mut self) -> usize {
        1 + usize::from(self.rng.u8(..100) < self.post.repeat_percent)
    }
}

impl World {
    /// A group whose nodes are about to start, without clients, module or faults. `machine` gives each node a new machine's
    /// disk.
    ///
    /// # Errors
    /// Those of `machine`.
    pub fn open(
        settings: Settings,
        machine: &dyn Fn() -> anyhow::Result<Box<dyn MachineDisk>>,
        keep_lines: bool,
    ) -> anyhow::Result<Self> {
        let outside = Outside {
            post: Post::default(),
            rng: Rng::with_seed(settings.seed ^ 0x0075_1de5),
            heard: Vec::new(),
            reads: Vec::new(),
        };
        let modules = Modules { store: &[], other: &[] };
        let mut world = World::around(settings, Vec::new(), modules, Vec::new(), machine, keep_lines)?;
        world.outside = Some(outside);
        for id in 1..=world.settings.voters {
            let at = world.rng.u64(..50_000);
            world.at(at, Event::Restart(id));
        }
        Ok(world)
    }

    /// Sends a request to a node, and counts as the client's newest attempt.
    pub fn ask(&mut self, client: usize, attempt: u64, node: NodeId, request: Request) {
        let Some(outside) = &mut self.outside else { return };
        if outside.reads.len() <= client {
            outside.reads.resize(client + 1, (0, None));
        }
        let call = if let Request::Query(_, call) = &request { Some(call.clone()) } else { None };
        outside.reads[client] = (attempt, call);
        let copies = outside.copies();
        self.trace.event(&[12, self.now, client as u64, attempt, node]);
        self.trace.line(self.now, || format!("client {client} asks n{node}: {}", describe_request(&request)));
        for _ in 0..copies {
            if let Some(delay) = self.network.send_client() {
                self.after(delay, Event::ToNode(node, client, attempt, Box::new(request.clone())));
            }
        }
    }

    /// Has the driver hear of an alarm after this long.
    pub fn alarm(&mut self, delay: Micros, whose: u64, which: u64) {
        self.after(delay.max(1), Event::Alarm(whose, which));
    }

    pub(crate) fn ring(&mut self, whose: u64, which: u64) {
        if let Some(outside) = &mut self.outside {
            outside.heard.push(Heard::Alarm { whose, which });
        }
    }

    pub(crate) fn hear(&mut self, client: usize, attempt: u64, reply: Reply) {
        self.trace.event(&[11, self.now, client as u64, attempt, reply.number()]);
        self.trace.line(self.now, || format!("client {client} hears {reply:?}"));
        if let Some(outside) = &mut self.outside {
            outside.heard.push(Heard::Reply { client, attempt, reply });
        }
    }

    /// What the driver was told since it last asked, in order.
    pub fn take_heard(&mut self) -> Vec<Heard> {
        self.outside.as_mut().map_or_else(Vec::new, |outside| std::mem::take(&mut outside.heard))
    }

    /// Lets a fault strike now; its number.
    ///
    /// # Errors
    /// A rule that this breaks.
    pub fn inflict(&mut self, fault: Fault) -> Result<usize, Violation> {
        let number = self.plan.len();
        self.plan.push(Some(Planned { at: self.now, fault: fault.clone() }));
        self.faults += 1;
        self.trace.event(&[1, self.now, number as u64]);
        self.trace.line(self.now, || format!("FAULT {number}: {fault:?}"));
        self.strike(number, fault)?;
        Ok(number)
    }

    /// What becomes of requests and replies from now on.
    pub fn set_post(&mut self, post: Post) {
        if let Some(outside) = &mut self.outside {
            outside.post = post;
        }
    }

    /// What becomes of requests and replies now.
    pub fn post(&self) -> Post {
        self.outside.as_ref().map_or_else(Post::default, |outside| outside.post)
    }

    /// All faults of the network end, and nodes that are down or paused go on.
    pub fn mend_everything(&mut self) {
        self.network.mend_all();
        self.set_post(Post::default());
        let ids: Vec<NodeId> = self.processes.keys().copied().collect();
        for id in ids {
            if let Some(process) = self.processes.get_mut(&id) {
                process.recover(self.now);
            }
            self.after(1, Event::Restart(id));
        }
    }

    /// Ends all faults and lets the world go on until the group serves, all nodes have applied everything that is
    /// committed, and their states have been compared. What the driver hears meanwhile it fetches afterwards.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn settle(&mut self) -> Result<(), Violation> {
        self.set_post(Post::default());
        self.settings.faults_for = self.now;
        self.heal();
        while !self.finished {
            self.step()?;
        }
        (self.finished, self.healed) = (false, false);
        for id in self.judge.newest_members().all() {
            self.compare_digest(id)?;
        }
        Ok(())
    }

    /// Simulated time.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// The node that leads in the highest term.
    pub fn who_leads(&self) -> Option<NodeId> {
        self.leader()
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = NodeState> + '_ {
        self.processes.values().map(|process| {
            let raft = process.running.as_ref().map(|running| running.node.raft());
            let leads = raft.filter(|raft| raft.role() == Role::Leader).map(telegraft_raft::Raft::term);
            NodeState { id: process.id, incarnation: process.incarnation, runs: raft.is_some(), leads }
        })
    }

    /// What the checkers know.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// The state digest of a node that runs, and its index.
    ///
    /// # Errors
    /// Where no node runs, or its machine cannot say.
    pub fn state_digest(&mut self) -> Result<(Index, String), Violation> {
        let mut running = self.processes.values_mut().filter_map(|process| process.running.as_mut());
        match running.next().map(|running| running.machine.state_digest()) {
            Some(Ok(digest)) => Ok(digest),
            Some(Err(fault)) => violation('P', fault.to_string()),
            None => violation('V', "no node runs"),
        }
    }

    /// The effect digest of a node that runs, and its index, where machines keep one.
    pub fn effect_digest(&self) -> Option<(Index, [u8; 32])> {
        let mut running = self.processes.values().filter_map(|process| process.running.as_ref());
        running.next().and_then(|running| running.machine.effect_digest())
    }

    /// Digest of all events so far.
    pub fn digest(&self) -> Digest {
        self.trace.digest()
    }

    /// The trace so far, where it was wanted.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::replace(&mut self.trace, crate::trace::Trace::new(false)).into_lines()
    }

    /// Added to simulated time where nodes stamp commands.
    pub(crate) fn epoch(&self) -> Micros {
        if self.outside.is_some() { EPOCH } else { 0 }
    }
}

impl Settings {
    /// Nodes as hosts run them: pre-vote, check-quorum, reads by rounds. Their clocks go as the seed says.
    pub fn of_hosts(seed: u64, hosts: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0040_57ed);
        let clock = |_| crate::settings::NodeSettings {
            pre_vote: true,
            check_quorum: true,
            clock_ppm: rng.u64(999_000..=1_001_000),
        };
        Settings {
            seed,
            machine: crate::settings::MachineKind::Wasm,
            voters: hosts,
            spares: 0,
            nodes: (0..hosts).map(clock).collect(),
            lease: false,
            inflight_messages_max: 256,
            inflight_bytes_max: 0,
            message_bytes_max: 1 << 20,
            committed_bytes_max: 16 << 20,
            step_down_on_removal: true,
            faults_for: 0,
            clients: 0,
            think: 0,
            keys: 0,
            scar: false,
            loss: false,
            rates: crate::settings::Rates::default(),
        }
    }
}
