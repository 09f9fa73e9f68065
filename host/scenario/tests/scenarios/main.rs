//! Scenarios as wholes: what must pass passes, what is wrong is found and named by its line, and a seed played again is the
//! same to the last event.

mod fixture;
mod mistakes;

use bytes::Bytes;
use fixture::{LATER, REMEMBERS, STUCK};
use serde_json::json;
use telegraft_modules::{CHAT, KV, POLL};
use telegraft_scenario::{Call, Cluster, Event, Failed, Failure, Host, Mistake, Module, NotPassed, Report, Scenario};

/// A scenario of the key-value module, with other modules beside it.
fn scenario_of(module: &[u8], text: &str) -> Result<Scenario, Mistake> {
    let module = Module::new(Bytes::copy_from_slice(module)).unwrap();
    Scenario::from_text("test.toml", text, &module, &|file| match file {
        "chat.wasm" => Ok(Bytes::from_static(CHAT)),
        "later.wasm" => Ok(LATER.build().into()),
        "stuck.wasm" => Ok(STUCK.build().into()),
        other => Err(format!("{other} cannot be read")),
    })
}

fn kv(text: &str) -> Scenario {
    scenario_of(KV, text).unwrap()
}

fn passes(scenario: &Scenario, seeds: u64) -> Report {
    match scenario.run(0..seeds) {
        Ok(report) => report,
        Err(NotPassed::Mistake(mistake)) => panic!("{mistake}"),
        Err(NotPassed::Failed(failed)) => panic!("{failed}\n{}", failed.played.story.join("\n")),
    }
}

fn fails(scenario: &Scenario, seeds: u64) -> Failed {
    match scenario.run(0..seeds) {
        Ok(_) => panic!("all {seeds} seeds passed"),
        Err(NotPassed::Mistake(mistake)) => panic!("{mistake}"),
        Err(NotPassed::Failed(failed)) => *failed,
    }
}

const PUTS: &str = r#"
[[step]]
parallel = [
  { call = "Put", request = { key = "a", value = "eA==" }, clients = 4, times = 5 },
  { event = "kill-leader", after = "40ms" },
  { event = "pause", host = "follower", lasting = "300ms" },
]

[[step]]
call = "Put"
request = { key = "a", value = "eQ==" }
# One for each: a retry that was applied again would count.
expect = { version = 21 }
"#;

#[test]
fn lost_and_repeated_replies_apply_nothing_twice() {
    let text = format!(
        "[[step]]\nevent = \"lose-replies\"\npercent = 40\n[[step]]\nevent = \"duplicate-replies\"\npercent = 40\n{PUTS}"
    );
    let report = passes(&kv(&text), 15);
    // The trouble was there: writes were sent again, and reached the log again.
    assert!(report.tally.retries > 50 && report.tally.duplicates > 20, "{:?}", report.tally);
    assert_eq!(report.tally.events["kill-leader"], 15);
}

#[test]
fn the_chats_scenario_passes() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-chat/scenarios/chat.toml");
    let scenario = Scenario::from_file(file, &Module::new(CHAT).unwrap()).unwrap_or_else(|mistake| panic!("{mistake}"));
    let report = passes(&scenario, 40);
    eprintln!("{:.1} seeds a second; {:?}", report.seeds_per_second(), report.tally);
    let events = &report.tally.events;
    for name in ["kill-leader", "restart", "partition", "snapshot", "lose-power", "pause", "transfer-leader"] {
        assert!(events.get(name).is_some_and(|count| *count > 0), "{name}: {events:?}");
    }
}

#[test]
fn the_polls_scenario_passes() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/modules/poll/scenarios/poll.toml");
    let scenario = Scenario::from_file(file, &Module::new(POLL).unwrap()).unwrap_or_else(|mistake| panic!("{mistake}"));
    let report = passes(&scenario, 30);
    eprintln!("{:.1} seeds a second; {:?}", report.seeds_per_second(), report.tally);
}

#[test]
fn a_wrong_expectation_fails_at_its_line_with_both_sides() {
    let failed = fails(&kv(&PUTS.replace("version = 21", "version = 20")), 5);
    assert_eq!((failed.wrong.line, failed.played.seed), (Some(9), 0));
    assert_eq!(failed.wrong.expected.as_deref(), Some(r#"{"version":20}"#));
    assert_eq!(failed.wrong.actual.as_deref(), Some(r#"{"version":"21"}"#));
    let told = failed.to_string();
    assert!(told.starts_with("test.toml:9: call kv.v1.Kv/Put: reply.version is \"21\", expected is 20"), "{told}");
    assert!(
        failed.played.story.iter().any(|line| line.contains("EVENT kill-leader: host")),
        "{:?}",
        failed.played.story
    );
}

#[test]
fn the_lowest_seed_that_fails_is_told() {
    let text = "[[step]]\ncall = \"Put\"\nrequest = { key = \"{{seed}}\", value = \"\" }\n\
                [[step]]\ncall = \"Get\"\nrequest = { key = \"3\" }\nexpect_error = { code = \"NOT_FOUND\" }";
    let failed = fails(&kv(text), 20);
    assert_eq!((failed.played.seed, failed.before.passed >= 3), (3, true));
    assert_eq!(failed.wrong.line, Some(4));
}

#[test]
fn a_seed_played_again_is_the_same_to_the_last_event() {
    let scenario = kv(&format!("[chaos]\n{PUTS}"));
    let (mut digests, mut stories) = (Vec::new(), Vec::new());
    for seed in [3, 4, 3] {
        let played = scenario.play(seed, true);
        assert!(played.wrong.is_none(), "{:?}", played.wrong);
        digests.push(played.digest);
        stories.push(played.story);
    }
    assert_eq!((digests[0], &stories[0]), (digests[2], &stories[2]));
    assert_ne!(digests[0], digests[1]);
    // A story changes nothing.
    assert_eq!(scenario.play(3, false).digest, digests[0]);
}

#[test]
fn state_in_memory_is_found() {
    // A restart is all it takes: that host's new instance counts from the beginning.
    let text = |reuse| {
        let put = "[[step]]\ncall = \"Put\"\nrequest = { key = \"a\" }";
        let wait = "[[step]]\nevent = \"wait\"\nlasting = \"1s\"";
        format!("reuse = {reuse}\n{put}\n{wait}\n[[step]]\nevent = \"restart\"\nhost = \"follower\"\n{wait}\n{put}")
    };
    let module = REMEMBERS.build();
    let failed = fails(&scenario_of(&module, &text(true)).unwrap(), 3);
    // By the replicas' answers, or by the audit of reuse, whichever comes first.
    assert!(failed.wrong.what.contains("in memory between"), "{failed}");
    // With a fresh instance for each entry there is nothing to be found.
    passes(&scenario_of(&module, &text(false)).unwrap(), 3);
}

#[test]
fn an_upgrade_in_the_middle_of_calls() {
    let text = r#"
[modules]
later = "later.wasm"
chat = "chat.wasm"
[chaos]
[[step]]
call = "Put"
request = { key = "a", value = "eA==" }
expect = { version = 1 }
[[step]]
parallel = [
  { call = "Put", request = { key = "a", value = "eA==" }, clients = 3, times = 6 },
  { event = "upgrade", module = "later", after = "20ms" },
  { event = "kill-leader", after = "50ms" },
]
[[step]]
call = "Put"
request = { key = "a", value = "eA==" }
expect = { version = 99 }
[[step]]
event = "upgrade"
module = "chat"
[[step]]
call = "CreateUser"
request = { name = "ada" }
[[step]]
call = "Put"
request = { key = "a", value = "eA==" }
expect_error = { code = "UNIMPLEMENTED" }
"#;
    let report = passes(&kv(text), 12);
    assert_eq!(report.tally.events["upgrade"], 24);
}

#[test]
fn an_upgrade_that_fails_leaves_the_module_before() {
    let text = r#"
[modules]
stuck = "stuck.wasm"
[[step]]
call = "Put"
request = { key = "a", value = "eA==" }
[[step]]
event = "upgrade"
module = "stuck"
expect_error = { code = "FAILED_PRECONDITION", message = "cannot be taken over" }
[[step]]
call = "Put"
request = { key = "a", value = "eA==" }
expect = { version = 2 }
"#;
    passes(&kv(text), 3);
    let failed = fails(
        &kv(&text.replace("expect_error = { code = \"FAILED_PRECONDITION\", message = \"cannot be taken over\" }", "")),
        3,
    );
    assert_eq!(failed.wrong.line, Some(7), "{failed}");
}

#[test]
fn without_a_majority_nobody_answers_and_that_is_said() {
    let text = "[[step]]\nevent = \"kill\"\nhost = 1\nlasting = \"10m\"\n[[step]]\nevent = \"kill\"\nhost = 2\nlasting = \"10m\"\n\
                [[step]]\ncall = \"Put\"\nrequest = { key = \"a\" }";
    let failed = fails(&kv(text), 1);
    assert_eq!(failed.wrong.line, Some(9));
    assert!(failed.wrong.what.contains("no host answered") && failed.wrong.what.contains("majority"), "{failed}");
}

#[test]
fn a_cut_off_host_shows_the_past_and_catches_up() {
    let mut cluster = Cluster::new(11, KV).unwrap();
    cluster.call("Put", json!({ "key": "a", "value": "eA==" })).unwrap();
    cluster.run_for(std::time::Duration::from_secs(1)).unwrap();
    cluster.strike(&Event::TransferLeader { to: Host::Number(2) }).unwrap();
    cluster.run_for(std::time::Duration::from_secs(1)).unwrap();
    cluster.partition(Host::Number(1)).unwrap();
    assert_eq!(cluster.call("Put", json!({ "key": "a", "value": "eQ==" })).unwrap()["version"], "2");
    assert_eq!(cluster.call("Get", json!({ "key": "a" })).unwrap()["version"], "2");
    let old = cluster.read_local(Host::Number(1), "Get", json!({ "key": "a" })).unwrap();
    assert_eq!(old["version"], "1");
    // The log is gone by the time it comes back: it gets the snapshot.
    cluster.snapshot(None).unwrap();
    cluster.heal().unwrap();
    cluster.check().unwrap();
    let new = cluster.read_local(Host::Number(1), "Get", json!({ "key": "a" })).unwrap();
    assert_eq!(new["version"], "2");
    cluster.check().unwrap();
}

#[test]
fn calls_together_each_get_their_own_answer() {
    let mut cluster = Cluster::new(5, KV).unwrap();
    let put = |key: &str| Call::new("CompareAndSet", json!({ "key": key, "value": "eA==" }));
    let answers = cluster.together(&[put("a"), put("a"), put("b")]).unwrap();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2, "{answers:?}");
    assert!(answers[2].is_ok());
    let Err(Failure::BadCall(what)) = cluster.call("Shout", json!({})) else { panic!("it was called") };
    assert!(what.contains("kv.v1.Kv/Get  (query)"), "{what}");
    let Err(Failure::BadCall(what)) = cluster.call("Put", json!({ "kee": "a" })) else { panic!("it was called") };
    assert!(what.contains("its fields: key, value"), "{what}");
    cluster.check().unwrap();
}
