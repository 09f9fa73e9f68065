//! What an event does to a cluster, and the events that chance brings.

use std::time::Duration;

use telegraft_sim::{
    outside::Post,
    plan::{Cut, Fault, Target},
};

use crate::{
    cluster::{CHANCE, Cluster, FOREVER, POST, micros},
    event::{Chaos, Event, Host},
    failure::Failure,
};

impl Cluster {
    /// Lets chance decide what comes while a call is under way.
    pub(crate) fn let_chance_play(&mut self) {
        for event in self.chaos.draw(&mut self.chance) {
            self.coming_count += 1;
            let delay = self.chance.u64(1..40_000);
            self.coming.insert(self.coming_count, event);
            self.world.alarm(delay, CHANCE, self.coming_count);
        }
    }

    pub(crate) fn mend_post(&mut self) {
        let percent = |share: f64| (share.clamp(0.0, 1.0) * 100.0).round() as u8;
        let lose_percent = percent(self.chaos.lose_replies);
        self.world.set_post(Post { lose_percent, repeat_percent: percent(self.chaos.duplicate_replies) });
    }

    /// No more chance from here on.
    pub(crate) fn calm(&mut self) {
        self.chaos = Chaos::NONE;
        self.coming.clear();
    }

    /// The id of a host.
    pub(crate) fn resolve(&mut self, host: Host) -> u64 {
        let leader = self.world.who_leads();
        match host {
            Host::Number(id) => id,
            Host::Leader => leader.unwrap_or(1),
            Host::Follower => {
                let others: Vec<u64> = (1..=self.hosts).filter(|id| Some(*id) != leader).collect();
                if others.is_empty() { 1 } else { others[self.rng.usize(..others.len())] }
            }
        }
    }

    /// Lets an event happen now.
    ///
    /// # Errors
    /// A broken rule, or a host that there is not.
    pub fn strike(&mut self, event: &Event) -> Result<(), Failure> {
        let now = self.world.now();
        *self.tally.events.entry(event.name()).or_default() += 1;
        let all = 1..=self.hosts;
        let which = |cluster: &mut Cluster, host: &Option<Host>| -> Result<Vec<u64>, Failure> {
            let ids = match host {
                Some(host) => vec![cluster.resolve(*host)],
                None => all.clone().collect(),
            };
            match ids.iter().find(|id| !all.contains(id)) {
                Some(id) => {
                    Err(Failure::BadCall(format!("there is no host {id}: they are numbered 1 to {}", cluster.hosts)))
                }
                None => Ok(ids),
            }
        };
        let told = match event {
            Event::Kill { host, lasting, power } => {
                let ids = which(self, host)?;
                for id in &ids {
                    let (target, down_for) = (Target::Node(*id), micros(*lasting));
                    let fault =
                        if *power { Fault::LosePower { target, down_for } } else { Fault::Kill { target, down_for } };
                    self.world.inflict(fault)?;
                }
                let what = if *power { "power lost" } else { "killed" };
                format!("host {}: {what}, back in {}", list(&ids), humantime::format_duration(*lasting))
            }
            Event::Pause { host, lasting } => {
                let ids = which(self, &Some(*host))?;
                for id in &ids {
                    self.world.inflict(Fault::Pause { target: Target::Node(*id), lasting: micros(*lasting) })?;
                }
                format!("host {}: stands still for {}", list(&ids), humantime::format_duration(*lasting))
            }
            Event::Partition { hosts, lasting } => {
                let mut ids = Vec::new();
                for host in hosts {
                    ids.extend(which(self, &Some(*host))?);
                }
                let bits = ids.iter().fold(0, |bits: u64, id| bits | (1 << id));
                let fault = Fault::Cut { cut: Cut::Split(bits), lasting: lasting.map_or(FOREVER, micros) };
                self.world.inflict(fault)?;
                format!("host {}: cut off from the others, {}", list(&ids), until(*lasting))
            }
            Event::BadNetwork { percent, lasting } => {
                let (loss_percent, repeat_percent) = (*percent, *percent);
                let lasting_us = lasting.map_or(FOREVER, micros);
                let fault = Fault::Weather { loss_percent, repeat_percent, delay_max: 50_000, lasting: lasting_us };
                self.world.inflict(fault)?;
                format!("the network loses and repeats {percent} % of all messages, {}", until(*lasting))
            }
            Event::Heal => {
                self.world.mend_everything();
                self.mend_post();
                "all faults end".to_owned()
            }
            Event::Snapshot { host } => {
                let ids = which(self, host)?;
                for id in &ids {
                    self.world.inflict(Fault::Snapshot { target: Target::Node(*id), compact_behind: 0 })?;
                }
                format!("host {}: a snapshot is made, the log before it dropped", list(&ids))
            }
            Event::TransferLeader { to } => {
                let ids = which(self, &Some(*to))?;
                for id in &ids {
                    self.world.inflict(Fault::Transfer { to: Target::Node(*id), lost: false })?;
                }
                format!("leadership is to go to host {}", list(&ids))
            }
            Event::LoseReplies { percent, lasting } => {
                self.world.set_post(Post { lose_percent: *percent, ..self.world.post() });
                self.end_post(*lasting);
                format!("{percent} % of all replies get lost, {}", until(*lasting))
            }
            Event::DuplicateReplies { percent, lasting } => {
                self.world.set_post(Post { repeat_percent: *percent, ..self.world.post() });
                self.end_post(*lasting);
                format!("{percent} % of all requests and replies arrive twice, {}", until(*lasting))
            }
        };
        self.story.tell(now, || format!("EVENT {}: {told}", event.name()));
        self.take_in()
    }

    fn end_post(&mut self, lasting: Option<Duration>) {
        if let Some(lasting) = lasting {
            self.world.alarm(micros(lasting), POST, 0);
        }
    }
}

fn until(lasting: Option<Duration>) -> String {
    lasting.map_or_else(|| "until healed".to_owned(), |time| format!("for {}", humantime::format_duration(time)))
}

fn list(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
