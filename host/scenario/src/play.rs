//! One seed of a scenario: its steps, in a cluster of their own, one after the other; then the checks that hold for every
//! module. Owns what a branch is at, its variables, and the step's name in a failure.

use std::{collections::VecDeque, time::Duration};

use serde_json::Value;
use telegraft_node::ports::Rejection;
use telegraft_proto::internal::command::Body;
use telegraft_sim::{judge::Violation, panics::caught, settings::Micros, trace::Digest};

use crate::{
    client::{Answer, Ask},
    cluster::{Cluster, Setup, reply_of},
    failure::Failure,
    matching::find,
    scenario::{Action, Asking, Branch, Expect, Scenario, Step, What, Wrong},
    service::{Method, Module},
    tally::Tally,
    template::{Variables, fill},
};

/// How long a local read may take to be as expected.
const EVENTUALLY: Micros = 20_000_000;
/// How often it is tried.
const EVENTUALLY_EVERY: Duration = Duration::from_millis(50);

/// How one seed went.
#[derive(Clone, Debug)]
pub struct Played {
    /// The seed.
    pub seed: u64,
    /// What went wrong, if anything did.
    pub wrong: Option<Wrong>,
    /// What happened, in numbers.
    pub tally: Tally,
    /// Digest of all events: equal where the same happened.
    pub digest: Digest,
    /// What happened, in lines, where that was wanted.
    pub story: Vec<String>,
}

/// What one client of a branch is at.
struct Task<'a> {
    branch: &'a Branch,
    /// Its place in the cluster.
    client: usize,
    variables: Variables,
    round: u64,
    /// Of the branch's actions.
    next: usize,
    now: Now<'a>,
}

enum Now<'a> {
    /// It can go on.
    Ready,
    /// For an alarm.
    Waits,
    /// For an answer to a call that began then.
    Asks {
        asking: &'a Asking,
        method: Method,
        ask: Ask,
        since: Micros,
    },
    /// For the operator's commands.
    Upgrades {
        module: &'a Module,
        expect: &'a Expect,
        rest: VecDeque<(String, Body)>,
    },
    Done,
}

impl Scenario {
    /// Plays one seed. `story`: whether its lines are wanted; they change nothing else.
    pub fn play(&self, seed: u64, story: bool) -> Played {
        let setup = Setup { hosts: self.hosts, reuse: self.reuse, chaos: self.chaos, story };
        let outside = |failure: &Failure| Wrong::of(None, "installing the module", failure);
        let mut wrong = None;
        let mut cluster = None;
        let ended = caught(|| {
            match Cluster::with(seed, &self.module, setup) {
                Err(failure) => wrong = Some(outside(&failure)),
                Ok(made) => wrong = self.steps(seed, cluster.insert(made)).err(),
            };
        });
        if let Err(what) = ended {
            let broken = Failure::Broken(Violation { checker: 'P', what: format!("panic: {what}") });
            wrong = Some(Wrong::of(None, "the simulated cluster", &broken));
        }
        let Some(mut cluster) = cluster else {
            return Played { seed, wrong, tally: Tally::default(), digest: Digest(0), story: Vec::new() };
        };
        if let Some(wrong) = &wrong {
            cluster.tell(|| format!("WRONG in {}: {}", wrong.step, wrong.what));
        }
        let (tally, digest, story) = (cluster.tally(), cluster.digest(), cluster.story().to_vec());
        Played { seed, wrong, tally, digest, story }
    }

    fn steps(&self, seed: u64, cluster: &mut Cluster) -> Result<(), Wrong> {
        let mut variables = Variables::from([("seed".to_owned(), Value::from(seed))]);
        for step in &self.steps {
            self.step(cluster, step, &mut variables)?;
        }
        cluster.check().map_err(|failure| Wrong::of(None, "the check after the last step", &failure))
    }

    fn step(&self, cluster: &mut Cluster, step: &Step, variables: &mut Variables) -> Result<(), Wrong> {
        let mut tasks = Vec::new();
        for branch in &step.branches {
            for number in 1..=branch.clients {
                let mut variables = variables.clone();
                variables.insert("client".to_owned(), Value::from(number));
                let now = if let Some(after) = branch.after {
                    cluster.alarm(after, tasks.len() as u64);
                    Now::Waits
                } else {
                    Now::Ready
                };
                tasks.push(Task { branch, client: tasks.len() + 1, variables, round: 1, next: 0, now });
            }
        }
        loop {
            for (number, task) in tasks.iter_mut().enumerate() {
                while matches!(task.now, Now::Ready) {
                    self.go_on(cluster, task, number)?;
                }
            }
            if tasks.iter().all(|task| matches!(task.now, Now::Done)) {
                break;
            }
            // What breaks while several are at something is nobody's in particular.
            let one = if let [task] = &tasks[..] { task.action() } else { step.first() };
            cluster.step().map_err(|failure| wrong(one, &failure))?;
            while let Some((client, answer)) = cluster.done.pop_front() {
                let whose = |task: &&mut Task<'_>| match &task.now {
                    Now::Upgrades { .. } => client == 0,
                    _ => task.client == client,
                };
                if let Some(task) = tasks.iter_mut().find(whose) {
                    self.answered(cluster, task, answer)?;
                }
            }
            for token in cluster.take_alarms() {
                let Some(task) = usize::try_from(token).ok().and_then(|token| tasks.get_mut(token)) else { continue };
                // A read that is to be tried again, or a pause that is over.
                match std::mem::replace(&mut task.now, Now::Ready) {
                    Now::Asks { asking, method, ask, since } => {
                        cluster.begin(task.client, ask.clone()).map_err(|failure| wrong(task.action(), &failure))?;
                        task.now = Now::Asks { asking, method, ask, since };
                    }
                    Now::Waits | Now::Ready => {}
                    other => task.now = other,
                }
            }
        }
        for task in tasks.into_iter().filter(|task| task.branch.is_single()) {
            variables.extend(task.variables);
        }
        Ok(())
    }

    /// Begins the next action.
    fn go_on<'a>(&'a self, cluster: &mut Cluster, task: &mut Task<'a>, number: usize) -> Result<(), Wrong> {
        let Some(action) = task.branch.actions.get(task.next) else {
            task.round += 1;
            task.next = 0;
            if task.round > task.branch.times {
                task.now = Now::Done;
            }
            return Ok(());
        };
        task.next += 1;
        let failed = |failure: &Failure| wrong(Some(action), failure);
        match &action.what {
            What::Call(asking) => {
                task.variables.insert("round".to_owned(), Value::from(task.round));
                let request = fill(&asking.request, &task.variables).map_err(|what| failed(&Failure::BadCall(what)))?;
                let asked = cluster.ask_for(&asking.method, &request, asking.local);
                let (method, ask) = asked.map_err(|failure| failed(&failure))?;
                cluster.begin(task.client, ask.clone()).map_err(|failure| failed(&failure))?;
                task.now = Now::Asks { asking, method, ask, since: cluster.world.now() };
            }
            What::Event(event) => {
                cluster.strike(event).map_err(|failure| failed(&failure))?;
            }
            What::Wait(time) => {
                cluster.alarm(*time, number as u64);
                task.now = Now::Waits;
            }
            What::Upgrade { module, expect } => {
                let Some(module) = self.modules.get(module) else { return Ok(()) };
                let mut rest = cluster.installation(module);
                *cluster.tally.events.entry("upgrade").or_default() += 1;
                if let Some((words, body)) = rest.pop_front() {
                    cluster.begin(0, Ask::Write(words, body)).map_err(|failure| failed(&failure))?;
                    task.now = Now::Upgrades { module, expect, rest };
                }
            }
        }
        Ok(())
    }

    /// An answer for what a task is at.
    fn answered<'a>(&'a self, cluster: &mut Cluster, task: &mut Task<'a>, answer: Answer) -> Result<(), Wrong> {
        let action = task.action();
        match std::mem::replace(&mut task.now, Now::Ready) {
            Now::Asks { asking, method, ask, since } => {
                let answer = match reply_of(&method, answer) {
                    Ok(reply) => Ok(reply),
                    Err(Failure::Rejected(rejection)) => Err(rejection),
                    Err(failure) => return Err(wrong(action, &failure)),
                };
                let expect = asking.expect.filled(&task.variables);
                let expect = expect.map_err(|what| wrong(action, &Failure::BadCall(what)))?;
                if let Err(why) = expect.judge(&answer) {
                    if asking.local.is_some() && cluster.world.now() - since < EVENTUALLY {
                        cluster.alarm(EVENTUALLY_EVERY, (task.client - 1) as u64);
                        task.now = Now::Asks { asking, method, ask, since };
                        return Ok(());
                    }
                    return Err(not_as_expected(action, why));
                }
                if let Ok(reply) = &answer {
                    for (name, path) in &asking.save {
                        let Some(value) = find(path, reply) else {
                            let what = format!("{path}, to be saved as {name}, is not in the reply");
                            return Err(not_as_expected(action, (what, path.clone(), reply.to_string())));
                        };
                        task.variables.insert(name.clone(), value.clone());
                    }
                }
            }
            Now::Upgrades { module, expect, mut rest } => {
                if let (Ok(_), Some((words, body))) = (&answer.outcome, rest.pop_front()) {
                    cluster.begin(0, Ask::Write(words, body)).map_err(|failure| wrong(action, &failure))?;
                    task.now = Now::Upgrades { module, expect, rest };
                    return Ok(());
                }
                let answer: Result<Value, Rejection> = answer.outcome.map(|_| Value::from("activated"));
                expect.judge(&answer).map_err(|why| not_as_expected(action, why))?;
                if answer.is_ok() {
                    cluster.installed(module);
                }
            }
            other => task.now = other,
        }
        Ok(())
    }
}

impl<'a> Task<'a> {
    /// The action that it is at.
    fn action(&self) -> Option<&'a Action> {
        self.branch.actions.get(self.next.saturating_sub(1))
    }
}

impl Step {
    fn first(&self) -> Option<&Action> {
        self.branches.first().and_then(|branch| branch.actions.first())
    }
}

impl Expect {
    fn filled(&self, variables: &Variables) -> Result<Expect, String> {
        let filled = |value: &Option<Value>| value.as_ref().map(|value| fill(value, variables)).transpose();
        Ok(match self {
            Expect::Reply(value) => Expect::Reply(filled(value)?),
            Expect::ReplyOr(codes, value) => Expect::ReplyOr(codes.clone(), filled(value)?),
            rejection @ Expect::Rejection { .. } => rejection.clone(),
        })
    }
}

impl Action {
    /// In words, for a failure.
    fn words(&self) -> String {
        match &self.what {
            What::Call(asking) if asking.local.is_some() => format!("read {} (local)", asking.method),
            What::Call(asking) => format!("call {}", asking.method),
            What::Event(event) => format!("event {}", event.name()),
            What::Upgrade { module, .. } => format!("event upgrade to {module}"),
            What::Wait(_) => "event wait".to_owned(),
        }
    }
}

fn wrong(action: Option<&Action>, failure: &Failure) -> Wrong {
    let words = action.map_or_else(|| "a step".to_owned(), Action::words);
    Wrong::of(action.map(|action| action.line), &words, failure)
}

fn not_as_expected(action: Option<&Action>, (what, expected, actual): (String, String, String)) -> Wrong {
    Wrong {
        line: action.map(|action| action.line),
        step: action.map_or_else(|| "a step".to_owned(), Action::words),
        what,
        expected: Some(expected),
        actual: Some(actual),
        mistake: false,
    }
}
