//! A scenario's file: TOML to steps, with all that can be found wrong before anything runs, each by its line. The format is
//! described at the head of the crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use crate::{
    cluster::HOSTS_MAX,
    event::{Chaos, Event, Host, RESTART},
    failure::code_named,
    scenario::{Action, Asking, Branch, Expect, Mistake, Scenario, Step, What},
    service::Module,
    template::{is_name, uses},
};

/// Clients of one branch, and rounds of each of them.
const MANY: u64 = 1_000;
/// Variables that are always there.
const BUILT_IN: [&str; 3] = ["client", "round", "seed"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    hosts: Option<Spanned<u64>>,
    #[serde(default)]
    reuse: bool,
    #[serde(default)]
    modules: BTreeMap<String, Spanned<String>>,
    chaos: Option<Spanned<RawChaos>>,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawChaos {
    kill: Option<f64>,
    lose_power: Option<f64>,
    pause: Option<f64>,
    partition: Option<f64>,
    bad_network: Option<f64>,
    snapshot: Option<f64>,
    transfer_leader: Option<f64>,
    lose_replies: Option<f64>,
    duplicate_replies: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    call: Option<String>,
    read: Option<String>,
    request: Option<toml::Value>,
    expect: Option<toml::Value>,
    expect_error: Option<RawRejection>,
    may_fail: Option<OneOrMore<String>>,
    save: Option<BTreeMap<String, String>>,
    consistency: Option<String>,
    host: Option<OneOrMore<RawHost>>,
    event: Option<String>,
    lasting: Option<String>,
    percent: Option<u8>,
    to: Option<RawHost>,
    module: Option<String>,
    parallel: Option<Vec<Spanned<RawStep>>>,
    steps: Option<Vec<Spanned<RawStep>>>,
    clients: Option<u64>,
    times: Option<u64>,
    after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRejection {
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawHost {
    Number(u64),
    Name(String),
}

impl RawStep {
    /// The keys that are given.
    fn keys(&self) -> Vec<&'static str> {
        let given = [
            ("call", self.call.is_some()),
            ("read", self.read.is_some()),
            ("request", self.request.is_some()),
            ("expect", self.expect.is_some()),
            ("expect_error", self.expect_error.is_some()),
            ("may_fail", self.may_fail.is_some()),
            ("save", self.save.is_some()),
            ("consistency", self.consistency.is_some()),
            ("host", self.host.is_some()),
            ("event", self.event.is_some()),
            ("lasting", self.lasting.is_some()),
            ("percent", self.percent.is_some()),
            ("to", self.to.is_some()),
            ("module", self.module.is_some()),
            ("parallel", self.parallel.is_some()),
            ("steps", self.steps.is_some()),
            ("clients", self.clients.is_some()),
            ("times", self.times.is_some()),
            ("after", self.after.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }

    /// Refuses keys that mean nothing here.
    fn only(&self, what: &str, allowed: &[&str]) -> Result<(), String> {
        match self.keys().into_iter().find(|key| !allowed.contains(key)) {
            Some(key) => Err(format!("{key} means nothing to {what}, which takes {}", allowed.join(", "))),
            None => Ok(()),
        }
    }
}

/// Events, and the keys each takes besides `event`.
const EVENTS: [(&str, &[&str]); 13] = [
    ("kill-leader", &["lasting"]),
    ("kill", &["host", "lasting"]),
    ("restart", &["host"]),
    ("lose-power", &["host", "lasting"]),
    ("pause", &["host", "lasting"]),
    ("partition", &["host", "lasting"]),
    ("bad-network", &["percent", "lasting"]),
    ("heal", &[]),
    ("snapshot", &["host"]),
    ("transfer-leader", &["to"]),
    ("lose-replies", &["percent", "lasting"]),
    ("duplicate-replies", &["percent", "lasting"]),
    ("upgrade", &["module", "expect_error"]),
];

/// The text, and what is known while it is read from top to bottom.
struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    hosts: u64,
    modules: BTreeMap<String, Module>,
    /// The module that a call is checked against: the one that is active by then.
    active: Module,
    first: Module,
    variables: BTreeSet<String>,
}

/// Reads and checks a scenario.
pub(crate) fn read(
    name: &str,
    text: &str,
    module: Module,
    bytes_of: &dyn Fn(&str) -> Result<Bytes, String>,
) -> Result<Scenario, Mistake> {
    let raw: RawFile = toml::from_str(text).map_err(|error| Mistake {
        file: name.to_owned(),
        line: error.span().map(|span| line_of(text, &span)),
        message: error.message().trim_end().to_owned(),
    })?;
    let mut reader = Reader {
        name,
        text,
        hosts: 3,
        modules: BTreeMap::new(),
        active: module.clone(),
        first: module.clone(),
        variables: BUILT_IN.iter().map(|name| (*name).to_owned()).collect(),
    };
    if let Some(hosts) = &raw.hosts {
        reader.hosts = *hosts.get_ref();
        if !(1..=HOSTS_MAX).contains(&reader.hosts) {
            return reader.wrong(&hosts.span(), format!("a cluster has 1 to {HOSTS_MAX} hosts, not {}", reader.hosts));
        }
    }
    for (alias, file) in &raw.modules {
        let made = bytes_of(file.get_ref()).and_then(|bytes| Module::new(bytes).map_err(|failure| failure.to_string()));
        match made {
            Ok(module) => reader.modules.insert(alias.clone(), module),
            Err(message) => return reader.wrong(&file.span(), format!("module {alias}: {message}")),
        };
    }
    let chaos = match &raw.chaos {
        None => Chaos::NONE,
        Some(raw) => reader.chaos(raw)?,
    };
    if raw.step.is_empty() {
        let message = "there is nothing to do: add a [[step]] with a call, a read or an event".to_owned();
        return Err(Mistake { file: name.to_owned(), line: None, message });
    }
    let steps = raw.step.iter().map(|step| reader.step(step)).collect::<Result<_, _>>()?;
    let (hosts, modules) = (reader.hosts, reader.modules);
    Ok(Scenario { name: name.to_owned(), hosts, reuse: raw.reuse, chaos, module, modules, steps })
}

/// The line, from 1, in which a span begins.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1
}

impl Reader<'_> {
    fn wrong<T>(&self, span: &Range<usize>, message: impl Into<String>) -> Result<T, Mistake> {
        let (file, line) = (self.name.to_owned(), Some(line_of(self.text, span)));
        Err(Mistake { file, line, message: message.into() })
    }

    fn chaos(&self, raw: &Spanned<RawChaos>) -> Result<Chaos, Mistake> {
        let (given, usual) = (raw.get_ref(), Chaos::default());
        let rate = |name: &str, given: Option<f64>, usual: f64| match given {
            Some(rate) if !(0.0..=1.0).contains(&rate) => {
                self.wrong(&raw.span(), format!("chaos.{name} is a probability from 0 to 1, not {rate}"))
            }
            rate => Ok(rate.unwrap_or(usual)),
        };
        Ok(Chaos {
            kill: rate("kill", given.kill, usual.kill)?,
            lose_power: rate("lose-power", given.lose_power, usual.lose_power)?,
            pause: rate("pause", given.pause, usual.pause)?,
            partition: rate("partition", given.partition, usual.partition)?,
            bad_network: rate("bad-network", given.bad_network, usual.bad_network)?,
            snapshot: rate("snapshot", given.snapshot, usual.snapshot)?,
            transfer_leader: rate("transfer-leader", given.transfer_leader, usual.transfer_leader)?,
            lose_replies: rate("lose-replies", given.lose_replies, usual.lose_replies)?,
            duplicate_replies: rate("duplicate-replies", given.duplicate_replies, usual.duplicate_replies)?,
        })
    }

    fn step(&mut self, raw: &Spanned<RawStep>) -> Result<Step, Mistake> {
        let (step, span) = (raw.get_ref(), raw.span());
        let Some(parallel) = &step.parallel else {
            let action = self.action(raw, &[])?;
            return Ok(Step { branches: vec![Branch { clients: 1, times: 1, after: None, actions: vec![action] }] });
        };
        step.only("a step that is parallel", &["parallel"]).or_else(|message| self.wrong(&span, message))?;
        let before = self.variables.clone();
        let mut after = before.clone();
        let mut upgrades = 0;
        let mut branches = Vec::new();
        for raw in parallel {
            // A branch does not see what those beside it save.
            self.variables = before.clone();
            let branch = self.branch(raw)?;
            if branch.is_single() {
                after.extend(std::mem::take(&mut self.variables));
            }
            upgrades += branch.actions.iter().filter(|action| matches!(action.what, What::Upgrade { .. })).count();
            if upgrades > 1 || upgrades == 1 && !branch.is_single() && branch_upgrades(&branch) {
                return self.wrong(&raw.span(), "only one upgrade can be under way: make another step of the next");
            }
            branches.push(branch);
        }
        if branches.is_empty() {
            return self.wrong(&span, "parallel has nothing in it: list calls, reads and events");
        }
        self.variables = after;
        Ok(Step { branches })
    }

    fn branch(&mut self, raw: &Spanned<RawStep>) -> Result<Branch, Mistake> {
        const OWN: [&str; 3] = ["clients", "times", "after"];
        let (step, span) = (raw.get_ref(), raw.span());
        let within = |what: &str, number: Option<u64>| match number.unwrap_or(1) {
            number if (1..=MANY).contains(&number) => Ok(number),
            number => self.wrong(&span, format!("{what} is a number from 1 to {MANY}, not {number}")),
        };
        let (clients, times) = (within("clients", step.clients)?, within("times", step.times)?);
        let after = step.after.as_deref().map(duration).transpose().or_else(|message| self.wrong(&span, message))?;
        let actions = match &step.steps {
            None => vec![self.action(raw, &OWN)?],
            Some(steps) => {
                step.only("a list of steps", &["steps", "clients", "times", "after"])
                    .or_else(|message| self.wrong(&span, message))?;
                steps.iter().map(|raw| self.action(raw, &[])).collect::<Result<_, _>>()?
            }
        };
        Ok(Branch { clients, times, after, actions })
    }

    /// One call, read or event. `more`: keys that are allowed besides.
    fn action(&mut self, raw: &Spanned<RawStep>, more: &[&str]) -> Result<Action, Mistake> {
        let (step, span) = (raw.get_ref(), raw.span());
        let line = line_of(self.text, &span);
        let what = match (&step.call, &step.read, &step.event) {
            (Some(method), None, None) => self.asking(step, method, false, more),
            (None, Some(method), None) => self.asking(step, method, true, more),
            (None, None, Some(event)) => self.event(step, event, more),
            _ => Err(format!(
                "a step is one of call, read, event or parallel; this one has {}",
                if step.keys().is_empty() { "nothing".to_owned() } else { step.keys().join(", ") }
            )),
        };
        match what {
            Ok(what) => Ok(Action { line, what }),
            Err(message) => self.wrong(&span, message),
        }
    }

    fn asking(&mut self, step: &RawStep, name: &str, reads: bool, more: &[&str]) -> Result<What, String> {
        let mut allowed = vec!["request", "expect", "expect_error", "may_fail", "save"];
        allowed.extend(if reads { &["read", "consistency", "host"][..] } else { &["call"] });
        allowed.extend(more);
        step.only(if reads { "a read" } else { "a call" }, &allowed)?;
        let found = [&self.active, &self.first];
        let Some((module, method)) =
            found.into_iter().find_map(|module| Some((module.label(), module.method(name)?.clone())))
        else {
            return Err(format!("no module that is active by then has a method {name:?}; {}", self.active.listing()));
        };
        if reads && !method.query {
            return Err(format!("{} of {} is no query: write call instead of read", method.name, module));
        }
        let request = json(step.request.as_ref())?.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let used = uses(&request);
        if used.is_empty() {
            method.encode(&request)?;
        }
        let reply = json(step.expect.as_ref())?;
        for name in used.into_iter().chain(reply.as_ref().map(uses).unwrap_or_default()) {
            if !self.variables.contains(&name) {
                let known: Vec<&str> = self.variables.iter().map(String::as_str).collect();
                return Err(format!("there is no variable {name:?} by then; there are {}", known.join(", ")));
            }
        }
        let expect = self.expect(step, reply)?;
        let save = step.save.clone().unwrap_or_default();
        for name in save.keys() {
            if !is_name(name) || BUILT_IN.contains(&name.as_str()) {
                return Err(format!(
                    "{name:?} cannot be a variable: use letters, digits and _, and none of {}",
                    BUILT_IN.join(", ")
                ));
            }
        }
        if !save.is_empty() && matches!(expect, Expect::Rejection { .. }) {
            return Err("a call that is to be refused has no reply to save from".to_owned());
        }
        self.variables.extend(save.keys().cloned());
        let local = match (step.consistency.as_deref(), &step.host) {
            (None | Some("linearizable"), None) => None,
            (Some("local"), None) => Some(Host::Follower),
            (None | Some("local"), Some(OneOrMore::One(host))) => Some(self.host(host)?),
            (Some("linearizable"), Some(_)) => {
                return Err(
                    "a linearizable read is the same at any host: leave host out, or make it consistency = \"local\""
                        .to_owned(),
                );
            }
            (_, Some(OneOrMore::More(_))) => return Err("a read asks one host".to_owned()),
            (Some(other), _) => return Err(format!("consistency is \"linearizable\" or \"local\", not {other:?}")),
        };
        let method = method.name.clone();
        Ok(What::Call(Box::new(Asking { method, request, local, expect, save })))
    }

    fn expect(&self, step: &RawStep, reply: Option<Value>) -> Result<Expect, String> {
        let rejection = step.expect_error.as_ref();
        match (&step.may_fail, rejection) {
            (Some(_), Some(_)) => {
                Err("expect_error says that it must fail, may_fail that it may: leave one out".to_owned())
            }
            (None, Some(_)) if reply.is_some() => {
                Err("expect is for a reply and expect_error for a refusal: leave one out".to_owned())
            }
            (None, Some(raw)) => {
                let code = raw.code.as_deref().map(code_named).transpose()?;
                Ok(Expect::Rejection { code, message: raw.message.clone() })
            }
            (Some(codes), None) => {
                let names = match codes {
                    OneOrMore::One(name) => std::slice::from_ref(name),
                    OneOrMore::More(names) => names,
                };
                Ok(Expect::ReplyOr(names.iter().map(|name| code_named(name)).collect::<Result<_, _>>()?, reply))
            }
            (None, None) => Ok(Expect::Reply(reply)),
        }
    }

    fn event(&mut self, step: &RawStep, name: &str, more: &[&str]) -> Result<What, String> {
        if name == "wait" {
            let allowed: Vec<&str> = ["event", "lasting"].iter().chain(more).copied().collect();
            step.only("wait", &allowed)?;
            let lasting = step.lasting.as_deref().ok_or("wait needs lasting, as lasting = \"200ms\"")?;
            return Ok(What::Wait(duration(lasting)?));
        }
        let Some((_, keys)) = EVENTS.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = EVENTS.iter().map(|(name, _)| *name).chain(["wait"]).collect();
            return Err(format!("there is no event {name:?}; there are {}", names.join(", ")));
        };
        let allowed: Vec<&str> = ["event"].iter().chain(*keys).chain(more).copied().collect();
        step.only(name, &allowed)?;
        let lasting = step.lasting.as_deref().map(duration).transpose()?;
        let for_a_while = lasting.unwrap_or(Duration::from_millis(500));
        let percent = match step.percent.unwrap_or(50) {
            percent if percent <= 100 => percent,
            percent => return Err(format!("percent is at most 100, not {percent}")),
        };
        let all = matches!(&step.host, Some(OneOrMore::One(RawHost::Name(name))) if name == "all");
        if all && !["kill", "restart", "lose-power", "snapshot"].contains(&name) {
            return Err(format!("{name} cannot strike all hosts"));
        }
        let hosts = match &step.host {
            None => Vec::new(),
            Some(_) if all => Vec::new(),
            Some(OneOrMore::One(host)) => vec![self.host(host)?],
            Some(OneOrMore::More(hosts)) => hosts.iter().map(|host| self.host(host)).collect::<Result<_, _>>()?,
        };
        let one = match hosts[..] {
            [] => None,
            [host] => Some(host),
            _ if name == "partition" => None,
            _ => return Err(format!("{name} takes one host; make a step for each")),
        };
        let some = if all { None } else { Some(one.unwrap_or(Host::Leader)) };
        Ok(What::Event(match name {
            "kill-leader" => Event::Kill { host: Some(Host::Leader), lasting: for_a_while, power: false },
            "kill" => Event::Kill { host: some, lasting: for_a_while, power: false },
            "restart" => Event::Kill { host: some, lasting: RESTART, power: false },
            "lose-power" => Event::Kill { host: some, lasting: for_a_while, power: true },
            "pause" => Event::Pause { host: one.unwrap_or(Host::Leader), lasting: for_a_while },
            "partition" if hosts.is_empty() => Event::Partition { hosts: vec![Host::Leader], lasting },
            "partition" => Event::Partition { hosts, lasting },
            "bad-network" => Event::BadNetwork { percent: step.percent.map_or(20, |_| percent), lasting },
            "heal" => Event::Heal,
            "snapshot" => Event::Snapshot { host: if step.host.is_none() { None } else { some } },
            "transfer-leader" => {
                let to = step.to.as_ref().map(|to| self.host(to)).transpose()?;
                Event::TransferLeader { to: to.unwrap_or(Host::Follower) }
            }
            "lose-replies" => Event::LoseReplies { percent, lasting },
            "duplicate-replies" => Event::DuplicateReplies { percent, lasting },
            _ => return self.upgrade(step),
        }))
    }

    fn upgrade(&mut self, step: &RawStep) -> Result<What, String> {
        let known: Vec<&str> = self.modules.keys().map(String::as_str).collect();
        let alias = step.module.clone().unwrap_or_default();
        let Some(module) = self.modules.get(&alias) else {
            return Err(format!(
                "upgrade needs module, one of those in [modules]{}",
                if known.is_empty() {
                    ", as v2 = \"poll-v2.wasm\"".to_owned()
                } else {
                    format!(": {}", known.join(", "))
                }
            ));
        };
        let expect = self.expect(step, None)?;
        if matches!(expect, Expect::Reply(_)) {
            self.active = module.clone();
        }
        Ok(What::Upgrade { module: alias, expect })
    }

    fn host(&self, raw: &RawHost) -> Result<Host, String> {
        match raw {
            RawHost::Number(id) if (1..=self.hosts).contains(id) => Ok(Host::Number(*id)),
            RawHost::Name(name) if name == "leader" => Ok(Host::Leader),
            RawHost::Name(name) if name == "follower" => Ok(Host::Follower),
            RawHost::Number(id) => Err(format!("there is no host {id}: they are numbered 1 to {}", self.hosts)),
            RawHost::Name(name) => {
                Err(format!("{name:?} is no host: write \"leader\", \"follower\" or a number from 1 to {}", self.hosts))
            }
        }
    }
}

fn branch_upgrades(branch: &Branch) -> bool {
    branch.actions.iter().any(|action| matches!(action.what, What::Upgrade { .. }))
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() && time <= Duration::from_secs(600) => Ok(time),
        Ok(_) => Err(format!("{text:?} is no time for a simulation: from 1us to 10m")),
        Err(error) => Err(format!("{text:?} is no time ({error}): write \"200ms\" or \"2s\"")),
    }
}

/// A request or expectation: a table, or a text of JSON.
fn json(value: Option<&toml::Value>) -> Result<Option<Value>, String> {
    match value {
        None => Ok(None),
        Some(toml::Value::String(text)) => {
            serde_json::from_str(text).map(Some).map_err(|error| format!("{text:?} is no JSON: {error}"))
        }
        Some(value) => Ok(Some(plain(value))),
    }
}

fn plain(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Float(number) => Value::from(*number),
        toml::Value::Boolean(truth) => Value::Bool(*truth),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(elements) => Value::Array(elements.iter().map(plain).collect()),
        toml::Value::Table(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect())
        }
    }
}
