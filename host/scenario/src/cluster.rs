//! A cluster in this process: whole hosts (consensus core, node loop, Wasm machine over SQLite) in simulated time, made of
//! one seed. Owns the way from a call to its answer, the events, and what is told of it all.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use fastrand::Rng;
use serde_json::Value;
use telegraft_node::ports::Rejection;
use telegraft_proto::internal::{Activate, Call as GuestCall, command::Body};
use telegraft_sim::{
    clients::upload,
    machine::{MachineDisk, wasm::WasmDisk},
    outside::{Heard, NodeState},
    settings::{Micros, Settings},
    trace::Digest,
    world::World,
};

use crate::{
    client::{ANSWER_WITHIN, Acknowledged, Answer, Ask, CLIENTS, Client},
    event::{Chaos, Event, Host, RESTART},
    failure::Failure,
    service::{Method, Module},
    tally::{Story, Tally},
};

/// Whose alarms end faults of the post between clients and hosts.
pub(crate) const POST: u64 = 1;
/// Whose alarms are events that chance brings.
pub(crate) const CHANCE: u64 = 2;
/// Whose alarms are the callers'.
const CALLERS: u64 = 3;
/// Longer than any world lasts.
pub(crate) const FOREVER: Micros = 1 << 50;
/// Bytes of a module in one entry, as hosts cut it.
const CHUNK_BYTES: usize = 256 << 10;
/// Most hosts of a cluster.
pub(crate) const HOSTS_MAX: u64 = 9;

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Hosts, 1 to 9.
    pub hosts: u64,
    /// Whether modules are activated with `reuse`: one instance for many entries.
    pub reuse: bool,
    /// What chance brings while calls are under way.
    pub chaos: Chaos,
    /// Whether a story is wanted.
    pub story: bool,
}

impl Default for Setup {
    /// Three hosts, a fresh instance for each entry, nothing left to chance but the times that things take.
    fn default() -> Self {
        Setup { hosts: 3, reuse: false, chaos: Chaos::NONE, story: false }
    }
}

/// A call of the module's service, for [`Cluster::together`].
#[derive(Clone, Debug)]
pub struct Call {
    /// Full name of the method, or its bare name where only one is called so.
    pub method: String,
    /// The request, as protobuf's JSON.
    pub request: Value,
}

impl Call {
    /// A call.
    pub fn new(method: impl Into<String>, request: Value) -> Self {
        Call { method: method.into(), request }
    }
}

/// A cluster in one process, with a module installed. The same seed, and the same calls and events, give the same events
/// inside, to the byte.
///
/// ```
/// use serde_json::json;
/// use telegraft_scenario::{Cluster, Failure};
///
/// # fn main() -> Result<(), Failure> {
/// for seed in 0..3 {
///     let mut cluster = Cluster::new(seed, telegraft_modules::KV)?;
///     cluster.call("Put", json!({ "key": "a", "value": "b25l" }))?;
///     cluster.kill_leader()?;
///     cluster.lose_replies(50);
///     let reply = cluster.call("kv.v1.Kv/Put", json!({ "key": "a", "value": "dHdv" }))?;
///     assert_eq!(reply["version"], "2");
///     let Err(Failure::Rejected(rejection)) = cluster.call("Get", json!({ "key": "b" })) else { panic!() };
///     assert_eq!(rejection.message, "there is no key \"b\"");
///     cluster.check()?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Cluster {
    pub(crate) world: World,
    pub(crate) rng: Rng,
    pub(crate) hosts: u64,
    pub(crate) clients: Vec<Client>,
    pub(crate) done: VecDeque<(usize, Answer)>,
    pub(crate) story: Story,
    pub(crate) tally: Tally,
    pub(crate) acknowledged: Vec<Acknowledged>,
    alarms: Vec<u64>,
    reuse: bool,
    pub(crate) chaos: Chaos,
    pub(crate) chance: Rng,
    pub(crate) coming: BTreeMap<u64, Event>,
    pub(crate) coming_count: u64,
    /// Those that were active, the newest last.
    modules: Vec<Module>,
    uploaded: BTreeSet<[u8; 32]>,
    seen: Vec<NodeState>,
    leader: Option<u64>,
}

impl Cluster {
    /// Three hosts on which this component is uploaded and active.
    ///
    /// # Errors
    /// A component that a cluster would refuse, or whose `init` fails; a machine without room for temporary files.
    pub fn new(seed: u64, module: impl AsRef<[u8]>) -> Result<Self, Failure> {
        let module = Module::new(bytes::Bytes::copy_from_slice(module.as_ref()))?;
        Cluster::with(seed, &module, Setup::default())
    }

    /// As [`Cluster::new`], set up otherwise.
    ///
    /// # Errors
    /// As there.
    pub fn with(seed: u64, module: &Module, setup: Setup) -> Result<Self, Failure> {
        let unable = |error: anyhow::Error| Failure::Unable(format!("{error:#}"));
        if !(1..=HOSTS_MAX).contains(&setup.hosts) {
            return Err(Failure::Unable(format!("a cluster has 1 to {HOSTS_MAX} hosts, not {}", setup.hosts)));
        }
        let machine = || -> anyhow::Result<Box<dyn MachineDisk>> { Ok(Box::new(WasmDisk::new()?)) };
        let world = World::open(Settings::of_hosts(seed, setup.hosts), &machine, false).map_err(unable)?;
        let mut cluster = Cluster {
            world,
            rng: Rng::with_seed(seed ^ 0x00c1_0573),
            hosts: setup.hosts,
            clients: vec![Client::new(0)],
            done: VecDeque::new(),
            story: Story(setup.story.then(Vec::new)),
            tally: Tally::default(),
            acknowledged: Vec::new(),
            alarms: Vec::new(),
            reuse: setup.reuse,
            chaos: Chaos::NONE,
            chance: Rng::with_seed(seed ^ 0x0c4a_2ce5),
            coming: BTreeMap::new(),
            coming_count: 0,
            modules: vec![module.clone()],
            uploaded: BTreeSet::new(),
            seen: Vec::new(),
            leader: None,
        };
        cluster.install(module)?;
        cluster.chaos = setup.chaos.for_seed(seed);
        cluster.mend_post();
        Ok(cluster)
    }

    /// Calls a method as a gRPC client does: a write, through the log, with a session, sent again until it is answered; or,
    /// where the method is a query, a linearizable read. The request and the reply are protobuf's JSON.
    ///
    /// # Errors
    /// [`Failure::Rejected`] where the module refuses; a call that is none of the module's; a broken rule.
    pub fn call(&mut self, method: &str, request: Value) -> Result<Value, Failure> {
        let (method, ask) = self.ask_for(method, &request, None)?;
        self.begin(1, ask)?;
        let answer = self.wait_for(1)?;
        reply_of(&method, answer)
    }

    /// Reads what one host has, which may be old.
    ///
    /// # Errors
    /// As [`Cluster::call`].
    pub fn read_local(&mut self, host: Host, method: &str, request: Value) -> Result<Value, Failure> {
        let (method, ask) = self.ask_for(method, &request, Some(host))?;
        self.begin(1, ask)?;
        let answer = self.wait_for(1)?;
        reply_of(&method, answer)
    }

    /// Makes calls at the same time, each by a client of its own; their answers in the order of the calls.
    ///
    /// # Errors
    /// As [`Cluster::call`]; a rejection is one call's answer.
    pub fn together(&mut self, calls: &[Call]) -> Result<Vec<Result<Value, Rejection>>, Failure> {
        let mut methods = Vec::with_capacity(calls.len());
        for (call, client) in calls.iter().zip(1..) {
            let (method, ask) = self.ask_for(&call.method, &call.request, None)?;
            self.begin(client, ask)?;
            methods.push(method);
        }
        let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
        while answers.len() < calls.len() {
            self.step()?;
            answers.extend(self.done.drain(..));
        }
        let reply = |(answer, method): (Answer, &Method)| match reply_of(method, answer) {
            Ok(reply) => Ok(Ok(reply)),
            Err(Failure::Rejected(rejection)) => Ok(Err(rejection)),
            Err(failure) => Err(failure),
        };
        answers.into_values().zip(&methods).map(reply).collect()
    }

    /// Kills the process of the host that leads; it starts again half a second later.
    ///
    /// # Errors
    /// A broken rule.
    pub fn kill_leader(&mut self) -> Result<(), Failure> {
        let lasting = Duration::from_millis(500);
        self.strike(&Event::Kill { host: Some(Host::Leader), lasting, power: false })
    }

    /// Kills the process of a host, which starts again at once.
    ///
    /// # Errors
    /// A broken rule.
    pub fn restart(&mut self, host: Host) -> Result<(), Failure> {
        self.strike(&Event::Kill { host: Some(host), lasting: RESTART, power: false })
    }

    /// Cuts a host off from the others, until [`Cluster::heal`].
    ///
    /// # Errors
    /// A broken rule.
    pub fn partition(&mut self, host: Host) -> Result<(), Failure> {
        self.strike(&Event::Partition { hosts: vec![host], lasting: None })
    }

    /// Ends all faults: every host runs and hears the others.
    ///
    /// # Errors
    /// A broken rule.
    pub fn heal(&mut self) -> Result<(), Failure> {
        self.strike(&Event::Heal)
    }

    /// Has a host make a snapshot and drop its log up to there; `None`: all of them.
    ///
    /// # Errors
    /// A broken rule.
    pub fn snapshot(&mut self, host: Option<Host>) -> Result<(), Failure> {
        self.strike(&Event::Snapshot { host })
    }

    /// Has so many of a hundred replies get lost, until [`Cluster::heal`].
    pub fn lose_replies(&mut self, percent: u8) {
        // It touches no host, so no rule can break.
        let _ = self.strike(&Event::LoseReplies { percent, lasting: None });
    }

    /// Has so many of a hundred requests and replies arrive twice, until [`Cluster::heal`].
    pub fn duplicate_replies(&mut self, percent: u8) {
        let _ = self.strike(&Event::DuplicateReplies { percent, lasting: None });
    }

    /// Lets simulated time pass.
    ///
    /// # Errors
    /// A broken rule.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let until = self.world.now() + micros(time);
        self.alarm(time, u64::MAX);
        while self.world.now() < until {
            self.step()?;
        }
        self.alarms.clear();
        Ok(())
    }

    /// Uploads another component and switches to it, at one log index on all hosts.
    ///
    /// # Errors
    /// [`Failure::Rejected`] where the machine refuses, so that the module before stays active.
    pub fn upgrade(&mut self, module: impl AsRef<[u8]>) -> Result<(), Failure> {
        let module = Module::new(bytes::Bytes::copy_from_slice(module.as_ref()))?;
        self.install(&module)
    }

    fn install(&mut self, module: &Module) -> Result<(), Failure> {
        for (words, body) in self.installation(module) {
            self.begin(0, Ask::Write(words, body))?;
            let answer = self.wait_for(0)?;
            if let Err(rejection) = answer.outcome {
                return Err(Failure::Rejected(rejection));
            }
        }
        self.installed(module);
        Ok(())
    }

    /// The operator's commands that make a module active, in order.
    pub(crate) fn installation(&mut self, module: &Module) -> VecDeque<(String, Body)> {
        let mut bodies = VecDeque::new();
        if self.uploaded.insert(module.digest.0) {
            let parts = upload(&module.bytes, CHUNK_BYTES);
            let of = parts.len();
            let words = |part| format!("uploads {}, part {part} of {of}", module.label());
            bodies.extend(parts.into_iter().zip(1..).map(|(body, part)| (words(part), body)));
        }
        let digest = bytes::Bytes::copy_from_slice(&module.digest.0);
        let activate = Activate { digest, reuse: self.reuse, ..Activate::default() };
        bodies.push_back((format!("activates {}", module.label()), Body::Activate(activate)));
        bodies
    }

    /// The module is active from here on.
    pub(crate) fn installed(&mut self, module: &Module) {
        self.modules.push(module.clone());
    }

    /// What to ask for a call: of the newest module that has such a method.
    pub(crate) fn ask_for(&self, name: &str, request: &Value, local: Option<Host>) -> Result<(Method, Ask), Failure> {
        let Some(method) = self.modules.iter().rev().find_map(|module| module.method(name)) else {
            let listing = self.modules.last().map(Module::listing).unwrap_or_default();
            return Err(Failure::BadCall(format!("the module has no method {name:?}; {listing}")));
        };
        let payload = method.encode(request).map_err(Failure::BadCall)?;
        let ask = match local {
            Some(_) if !method.query => {
                return Err(Failure::BadCall(format!("{} is no query: it cannot be read", method.name)));
            }
            Some(host) => Ask::Local(host, Box::new((method.name.clone(), payload))),
            None if method.query => Ask::Linearizable(Box::new((method.name.clone(), payload))),
            None => {
                let call = GuestCall { method: method.name.clone(), payload };
                Ask::Write(method.name.clone(), Body::Call(call))
            }
        };
        Ok((method.clone(), ask))
    }

    fn wait_for(&mut self, client: usize) -> Result<Answer, Failure> {
        loop {
            if let Some(at) = self.done.iter().position(|(number, _)| *number == client)
                && let Some((_, answer)) = self.done.remove(at)
            {
                return Ok(answer);
            }
            self.step()?;
        }
    }

    /// Lets the next thing happen.
    pub(crate) fn step(&mut self) -> Result<(), Failure> {
        self.world.step()?;
        self.take_in()
    }

    /// Takes in what the world has to say.
    pub(crate) fn take_in(&mut self) -> Result<(), Failure> {
        self.observe();
        for heard in self.world.take_heard() {
            match heard {
                Heard::Reply { client, attempt, reply } => self.client_hears(client, attempt, reply),
                Heard::Alarm { whose: CLIENTS, which } => self.client_wakes(which)?,
                Heard::Alarm { whose: POST, .. } => {
                    self.mend_post();
                    self.story.tell(self.world.now(), || "requests and replies arrive again, once".to_owned());
                }
                Heard::Alarm { whose: CHANCE, which } => {
                    if let Some(event) = self.coming.remove(&which) {
                        self.strike(&event)?;
                    }
                }
                Heard::Alarm { which, .. } => self.alarms.push(which),
            }
        }
        Ok(())
    }

    /// Sets an alarm for [`Cluster::take_alarms`].
    pub(crate) fn alarm(&mut self, delay: Duration, token: u64) {
        self.world.alarm(micros(delay), CALLERS, token);
    }

    /// Alarms that rang.
    pub(crate) fn take_alarms(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.alarms)
    }

    /// Notes who runs and who leads.
    fn observe(&mut self) {
        let leader = self.world.who_leads();
        let now = self.world.now();
        if leader != self.leader {
            self.leader = leader;
            self.tally.leaders += u64::from(leader.is_some());
            let term = self.world.nodes().find_map(|node| node.leads.filter(|_| Some(node.id) == leader));
            self.story.tell(now, || match (leader, term) {
                (Some(host), Some(term)) => format!("HOST {host} leads in term {term}"),
                _ => "NOBODY leads".to_owned(),
            });
        }
        if self.story.0.is_none() {
            return;
        }
        let nodes: Vec<NodeState> = self.world.nodes().collect();
        for node in &nodes {
            let before = self.seen.iter().find(|before| before.id == node.id);
            let was = before.is_some_and(|before| before.runs && before.incarnation == node.incarnation);
            if node.runs && !was {
                self.story.tell(now, || format!("HOST {} starts", node.id));
            }
        }
        self.seen = nodes;
    }

    /// What happened so far, in numbers.
    pub fn tally(&self) -> Tally {
        let entries = self.world.judge().commit_index();
        Tally { simulated_us: self.world.now(), entries, ..self.tally.clone() }
    }

    /// Digest of all events so far: equal where the same happened.
    pub fn digest(&self) -> Digest {
        self.world.digest()
    }

    /// What happened so far, a line for each thing, where [`Setup::story`] asked for it.
    pub fn story(&self) -> &[String] {
        self.story.0.as_deref().unwrap_or_default()
    }

    /// Adds a line to the story.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        self.story.tell(self.world.now(), line);
    }
}

/// A reply as JSON; a rejection as a failure.
pub(crate) fn reply_of(method: &Method, answer: Answer) -> Result<Value, Failure> {
    match answer.outcome {
        Ok(reply) => method.decode(reply).map_err(Failure::BadReply),
        Err(rejection) => Err(Failure::Rejected(rejection)),
    }
}

/// Simulated time is counted in microseconds; what is longer than a client waits is no use to anybody.
pub(crate) fn micros(time: Duration) -> Micros {
    Micros::try_from(time.as_micros()).unwrap_or(FOREVER).clamp(1, 100 * ANSWER_WITHIN)
}
