//! `status`: every host of the cluster, and whether all is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::Args;
use comfy_table::Cell;
use futures::future::join_all;
use serde_json::{Value, json};
use telegraft_proto::v1::{HostStatus, MachineStatus, Role};

use super::{
    connect::Connection,
    failure::{Failure, Kind, status_name},
    module::info_json,
    output::{Output, grouped, number, short_digest},
};

/// A lag above this, in entries, is worth a colour; below it replication is simply under way.
const LAG_NOTABLE: u64 = 1_000;

/// `telegraft status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Hosts to ask, with commas; they name the others [default: --host]
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',')]
    hosts: Vec<String>,
    /// Also compute the digest of each host's data (reads all of it) and compare
    #[arg(long)]
    digest: bool,
}

/// What one address answered.
#[derive(Debug)]
struct Seen {
    address: String,
    answer: Result<HostStatus, String>,
}

impl Seen {
    fn machine(&self) -> Option<&MachineStatus> {
        self.answer.as_ref().ok()?.machines.first()
    }
}

/// Asks the hosts, follows their peers, and prints what they say.
pub async fn run(hosts: &[String], timeout: Duration, args: &StatusArgs, output: Output) -> Result<(), Failure> {
    let named = if args.hosts.is_empty() { hosts } else { &args.hosts };
    let mut known: BTreeMap<u64, String> = BTreeMap::new();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    let mut seen: Vec<Seen> = Vec::new();
    let mut waiting: Vec<String> = named.to_vec();
    while !waiting.is_empty() {
        waiting.retain(|address| asked.insert(address.clone()));
        for one in join_all(waiting.drain(..).map(|address| ask(address, timeout, args.digest))).await {
            if let Ok(status) = &one.answer {
                // A host known by two names (an alias, or the address it listens on) stands in the table once.
                if known.insert(status.host_id, one.address.clone()).is_some() {
                    continue;
                }
                asked.insert(status.client_address.clone());
            }
            seen.push(one);
        }
        for status in seen.iter().filter_map(|one| one.answer.as_ref().ok()) {
            for peer in status.machines.iter().flat_map(|machine| &machine.peers) {
                if !known.contains_key(&peer.host_id) && !asked.contains(&peer.client_address) {
                    waiting.push(peer.client_address.clone());
                }
            }
        }
    }
    let verdict = Verdict::of(&seen);
    if output.json {
        output.json(&as_json(&seen, &verdict))?
    } else {
        print(&seen, &verdict, args.digest, output)
    }
    match verdict.exit {
        None => Ok(()),
        Some(kind) => Err(Failure::silent(kind)),
    }
}

async fn ask(address: String, timeout: Duration, digest: bool) -> Seen {
    let answer = match Connection::to(&address, timeout).await {
        Err(why) => Err(why),
        Ok(connection) => {
            connection.status(digest).await.map_err(|status| format!("{}: {}", status_name(&status), status.message()))
        }
    };
    Seen { address, answer }
}

/// What the hosts' answers amount to.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    /// What is not as it must be, in words.
    troubles: Vec<String>,
    /// What people should know of; no trouble by itself.
    notes: Vec<String>,
    /// None where all is well.
    exit: Option<Kind>,
    /// The leader that the newest term names.
    leader: Option<u64>,
    /// Newest commit index seen.
    commit: u64,
}

impl Verdict {
    fn of(seen: &[Seen]) -> Self {
        let machines = || seen.iter().filter_map(|one| Some((one.answer.as_ref().ok()?.host_id, one.machine()?)));
        let mut verdict =
            Self { commit: machines().map(|(_, machine)| machine.commit_index).max().unwrap_or(0), ..Self::default() };
        // A leader of an older term is one that has not yet heard of its successor.
        let newest = machines().map(|(_, machine)| machine.term).max().unwrap_or(0);
        verdict.leader =
            machines().find(|(_, machine)| machine.term == newest && machine.role() == Role::Leader).map(|(id, _)| id);

        let clusters: BTreeSet<&str> =
            seen.iter().filter_map(|one| Some(one.answer.as_ref().ok()?.cluster.as_str())).collect();
        if clusters.len() > 1 {
            let names: Vec<&str> = clusters.into_iter().collect();
            verdict.troubles.push(format!("these hosts are of different clusters: {}", names.join(", ")));
        }
        for one in seen {
            if let Err(why) = &one.answer {
                verdict.troubles.push(format!("{} cannot be reached: {why}", one.address));
            }
        }
        if verdict.leader.is_none() && machines().next().is_some() {
            verdict.troubles.push("there is no leader: writes wait until a majority of the hosts is up".to_owned());
        }
        let mut digests: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for (_, machine) in machines().filter(|(_, machine)| !machine.digest.is_empty()) {
            digests.entry(machine.applied_index).or_default().insert(&machine.digest);
        }
        for (index, _) in digests.iter().filter(|(_, digests)| digests.len() > 1) {
            verdict.troubles.push(format!("the data differ between hosts at log index {index}"));
        }
        if digests.len() > 1 {
            let indexes: Vec<String> = digests.keys().map(|index| grouped(*index)).collect();
            verdict.notes.push(format!(
                "digests of different log indexes (here {}) differ in any case, and are not compared: ask again when \
                 nothing is written",
                indexes.join(", ")
            ));
        }
        let mut effects: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for (id, machine) in machines() {
            if !machine.halted.is_empty() {
                verdict.troubles.push(format!("host {id} has halted its machine: {}", machine.halted));
            } else if !machine.effect_digest.is_empty() {
                effects.entry(machine.applied_index).or_default().insert(&machine.effect_digest);
            }
        }
        for (index, _) in effects.iter().filter(|(_, effects)| effects.len() > 1) {
            verdict.troubles.push(format!("the hosts differ in what the entries up to log index {index} did"));
        }
        let engines: BTreeSet<&str> = machines().map(|(_, machine)| machine.engine.as_str()).collect();
        if engines.len() > 1 {
            let names: Vec<&str> = engines.into_iter().collect();
            verdict.notes.push(format!("the hosts' engines differ: {}", names.join("; ")));
        }
        // The machine's own, so as a rule the same on all hosts: each is said once, with the first host that has it.
        let mut alarms: BTreeSet<&str> = BTreeSet::new();
        for (id, machine) in machines() {
            let fresh = machine.alarms.iter().filter(|alarm| alarms.insert(alarm));
            verdict.notes.extend(fresh.map(|alarm| format!("host {id}: {alarm}")));
        }
        verdict.exit = if seen.iter().all(|one| one.answer.is_err()) {
            Some(Kind::Unreachable)
        } else if verdict.troubles.is_empty() {
            None
        } else {
            Some(Kind::Refused)
        };
        verdict
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Unspecified => "?",
    }
}

fn print(seen: &[Seen], verdict: &Verdict, digest: bool, output: Output) {
    let mut headings =
        vec!["host", "client address", "role", "term", "commit", "applied", "lag", "verified", "module", "state"];
    if digest {
        headings.insert(9, "digest");
    }
    let mut table = output.table(&headings);
    let mut rows: Vec<&Seen> = seen.iter().collect();
    rows.sort_by_key(|one| one.answer.as_ref().map_or(u64::MAX, |status| status.host_id));
    for one in rows {
        let mut row = row(one, verdict, output);
        if digest {
            let text = one.machine().map(|machine| short_digest(&machine.digest)).unwrap_or_default();
            row.insert(9, Cell::new(text));
        }
        table.add_row(row);
    }
    output.print_table(&table);
    if !verdict.troubles.is_empty() || !verdict.notes.is_empty() {
        output.line("");
    }
    for trouble in &verdict.troubles {
        output.line(&format!("! {trouble}"));
    }
    for note in &verdict.notes {
        output.line(&format!("note: {note}"));
    }
}

fn row(one: &Seen, verdict: &Verdict, output: Output) -> Vec<Cell> {
    let empty = || Cell::new("");
    let status = match &one.answer {
        Err(_) => {
            let mut row = vec![Cell::new("?"), Cell::new(&one.address)];
            row.extend((0..7).map(|_| empty()));
            row.push(output.bad("unreachable"));
            return row;
        }
        Ok(status) => status,
    };
    let Some(machine) = one.machine() else {
        let mut row = vec![number(status.host_id), Cell::new(&status.client_address)];
        row.extend((0..7).map(|_| empty()));
        row.push(output.bad("carries no machine"));
        return row;
    };
    let lag = verdict.commit.saturating_sub(machine.applied_index);
    let role = role_name(machine.role());
    let module = machine.module.as_ref().map_or_else(
        || "none".to_owned(),
        |module| format!("{} {} ({})", module.name, module.version, short_digest(&module.digest)),
    );
    vec![
        number(status.host_id),
        Cell::new(&status.client_address),
        if machine.role() == Role::Leader { output.good(role) } else { Cell::new(role) },
        number(machine.term),
        number(machine.commit_index),
        number(machine.applied_index),
        if lag > LAG_NOTABLE { output.bad(grouped(lag)) } else { number(lag) },
        number(machine.verified_index),
        Cell::new(module),
        if !machine.halted.is_empty() {
            output.bad("halted")
        } else if machine.leader_id == 0 {
            output.bad("no leader")
        } else {
            output.good("ok")
        },
    ]
}

fn as_json(seen: &[Seen], verdict: &Verdict) -> Value {
    let hosts: Vec<Value> = seen
        .iter()
        .map(|one| match &one.answer {
            Err(why) => json!({ "address": one.address, "reachable": false, "error": why }),
            Ok(status) => json!({
                "address": one.address, "reachable": true, "cluster": status.cluster, "host_id": status.host_id,
                "client_address": status.client_address, "version": status.version, "uptime_ms": status.uptime_ms,
                "machines": status.machines.iter().map(|machine| machine_json(machine, verdict)).collect::<Vec<_>>(),
            }),
        })
        .collect();
    json!({
        "ok": verdict.exit.is_none(), "leader": verdict.leader, "troubles": verdict.troubles, "notes": verdict.notes,
        "hosts": hosts,
    })
}

fn machine_json(machine: &MachineStatus, verdict: &Verdict) -> Value {
    let peers: Vec<Value> = machine
        .peers
        .iter()
        .map(|peer| {
            json!({
                "host_id": peer.host_id, "client_address": peer.client_address, "peer_address": peer.peer_address,
                "connected": peer.connected, "match_index": peer.match_index,
            })
        })
        .collect();
    json!({
        "machine": machine.machine, "role": role_name(machine.role()), "leader_id": machine.leader_id,
        "leader_address": machine.leader_address, "term": machine.term, "last_index": machine.last_index,
        "commit_index": machine.commit_index, "applied_index": machine.applied_index,
        "lag": verdict.commit.saturating_sub(machine.applied_index),
        "module": machine.module.as_ref().map(info_json), "digest": machine.digest, "peers": peers,
        "halted": (!machine.halted.is_empty()).then_some(&machine.halted), "effect_digest": machine.effect_digest,
        "verified_index": machine.verified_index, "engine": machine.engine, "alarms": machine.alarms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: u64, role: Role, term: u64, applied: u64) -> Seen {
        let machine = MachineStatus {
            machine: "main".into(),
            role: role.into(),
            leader_id: 1,
            term,
            commit_index: 10,
            applied_index: applied,
            ..MachineStatus::default()
        };
        let status = HostStatus {
            cluster: "c".into(),
            host_id: id,
            client_address: format!("127.0.0.1:74{id}0"),
            machines: vec![machine],
            ..HostStatus::default()
        };
        Seen { address: format!("127.0.0.1:74{id}0"), answer: Ok(status) }
    }

    fn gone(address: &str) -> Seen {
        Seen { address: address.into(), answer: Err("connection refused".into()) }
    }

    fn with_digest(mut seen: Seen, digest: &str) -> Seen {
        seen.answer.as_mut().unwrap().machines[0].digest = digest.into();
        seen
    }

    #[test]
    fn all_up_with_a_leader_is_well() {
        let verdict = Verdict::of(&[host(1, Role::Leader, 3, 10), host(2, Role::Follower, 3, 9)]);
        assert_eq!(verdict, Verdict { leader: Some(1), commit: 10, ..Verdict::default() });
    }

    #[test]
    fn a_host_that_is_gone_is_trouble_and_all_gone_is_unreachable() {
        let verdict = Verdict::of(&[host(1, Role::Leader, 3, 10), gone("b:1")]);
        assert_eq!(verdict.exit, Some(Kind::Refused));
        assert_eq!(verdict.troubles, ["b:1 cannot be reached: connection refused"]);
        assert_eq!(Verdict::of(&[gone("a:1"), gone("b:1")]).exit, Some(Kind::Unreachable));
    }

    #[test]
    fn a_leader_of_an_older_term_is_none() {
        let verdict = Verdict::of(&[host(1, Role::Leader, 3, 10), host(2, Role::Candidate, 4, 10)]);
        assert_eq!((verdict.leader, verdict.exit), (None, Some(Kind::Refused)));
        assert!(verdict.troubles[0].contains("no leader"), "{:?}", verdict.troubles);
    }

    #[test]
    fn digests_are_compared_at_equal_indices_only() {
        let same_index =
            [with_digest(host(1, Role::Leader, 3, 10), "aa"), with_digest(host(2, Role::Follower, 3, 10), "bb")];
        assert!(Verdict::of(&same_index).troubles[0].contains("differ between hosts at log index 10"));
        let other_index =
            [with_digest(host(1, Role::Leader, 3, 10), "aa"), with_digest(host(2, Role::Follower, 3, 9), "bb")];
        let verdict = Verdict::of(&other_index);
        assert!(verdict.exit.is_none() && verdict.notes[0].contains("(here 9, 10)"), "{verdict:?}");
        // Where none was asked for there is nothing to say.
        let none = Verdict::of(&[host(1, Role::Leader, 3, 10), host(2, Role::Follower, 3, 9)]);
        assert_eq!((none.exit, none.notes), (None, Vec::new()));
    }

    fn with(mut seen: Seen, change: impl FnOnce(&mut MachineStatus)) -> Seen {
        change(&mut seen.answer.as_mut().unwrap().machines[0]);
        seen
    }

    #[test]
    fn a_machine_that_has_halted_is_trouble_and_shows_in_its_row() {
        let halted = with(host(2, Role::Follower, 3, 4), |machine| machine.halted = "another engine".into());
        let verdict = Verdict::of(&[host(1, Role::Leader, 3, 10)]);
        assert_eq!(row(&halted, &verdict, Output { json: false, colour: false })[9].content(), "halted");
        let verdict = Verdict::of(&[host(1, Role::Leader, 3, 10), halted]);
        assert_eq!(verdict.troubles, ["host 2 has halted its machine: another engine"]);
        assert_eq!(verdict.exit, Some(Kind::Refused));
    }

    #[test]
    fn effects_are_compared_at_equal_indices_of_machines_that_go_on() {
        let of = |id, digest: &str, applied, halted: &str| {
            with(host(id, Role::Follower, 3, applied), |machine| {
                (machine.effect_digest, machine.halted) = (digest.into(), halted.into());
            })
        };
        let troubles = |seen: &[Seen]| Verdict::of(seen).troubles.join("\n");
        assert!(troubles(&[of(1, "aa", 9, ""), of(2, "bb", 9, "")]).contains("up to log index 9"));
        assert!(!troubles(&[of(1, "aa", 9, ""), of(2, "bb", 8, "")]).contains("differ"));
        assert!(!troubles(&[of(1, "aa", 9, ""), of(2, "bb", 9, "halted")]).contains("hosts differ"));
    }

    #[test]
    fn an_alarm_is_said_once_and_is_no_trouble() {
        let alarmed = |id, role| with(host(id, role, 3, 10), |machine| machine.alarms = vec!["reuse has ended".into()]);
        let verdict = Verdict::of(&[alarmed(1, Role::Leader), alarmed(2, Role::Follower)]);
        assert_eq!((verdict.exit, verdict.notes), (None, vec!["host 1: reuse has ended".to_owned()]));
    }

    #[test]
    fn a_row_has_a_cell_for_each_heading() {
        let output = Output { json: false, colour: false };
        let verdict = Verdict { commit: 10, ..Verdict::default() };
        let no_machine = Seen { address: "c:1".into(), answer: Ok(HostStatus::default()) };
        for one in [host(1, Role::Leader, 3, 4), gone("b:1"), no_machine] {
            assert_eq!(row(&one, &verdict, output).len(), 10);
        }
        assert_eq!(row(&host(1, Role::Leader, 3, 4), &verdict, output)[6].content(), "6");
        assert_eq!(row(&gone("b:1"), &verdict, output)[9].content(), "unreachable");
    }
}
