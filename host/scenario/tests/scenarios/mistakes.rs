//! Files that are no scenarios: each is refused before anything runs, by its line, with what to do.

use super::{KV, scenario_of};

/// The line that is blamed, and a part of what is said, for a text.
fn refused(text: &str, line: Option<usize>, part: &str) {
    let mistake = match scenario_of(KV, text) {
        Ok(_) => panic!("it was taken:\n{text}"),
        Err(mistake) => mistake,
    };
    assert_eq!(mistake.line, line, "{mistake}\n{text}");
    assert!(mistake.message.contains(part), "{part} is not in: {mistake}");
}

/// A step after an empty line, so that it stands in line 2.
fn step(keys: &str) -> String {
    format!("\n[[step]]\n{keys}")
}

#[test]
fn what_is_no_toml_or_no_scenario() {
    refused("", None, "nothing to do");
    refused("hosts = ", Some(1), "");
    refused("hosts = 30\n[[step]]\nevent = \"heal\"", Some(1), "1 to 9 hosts");
    refused("\n\nhost = 3", Some(3), "unknown field `host`");
    refused(&step("cal = \"Put\""), Some(3), "unknown field `cal`");
    refused("\n[chaos]\nkill = 3\n[[step]]\nevent = \"heal\"", Some(2), "chaos.kill is a probability");
    refused("[modules]\nv2 = \"gone.wasm\"\n[[step]]\nevent = \"heal\"", Some(2), "gone.wasm cannot be read");
}

#[test]
fn steps_that_mean_nothing() {
    refused(&step(""), Some(2), "one of call, read, event or parallel; this one has nothing");
    refused(&step("call = \"Put\"\nevent = \"heal\""), Some(2), "this one has call, event");
    refused(&step("call = \"Shout\""), Some(2), "kv.v1.Kv/Get  (query)");
    refused(&step("read = \"Put\""), Some(2), "write call instead");
    refused(&step("call = \"Put\"\nlasting = \"1s\""), Some(2), "lasting means nothing to a call");
    refused(&step("call = \"Put\"\nrequest = { kee = \"a\" }"), Some(2), "its fields: key, value");
    refused(&step("call = \"Put\"\nrequest = \"{\""), Some(2), "is no JSON");
    refused(&step("call = \"Put\"\nrequest = { key = \"$nobody\" }"), Some(2), "no variable \"nobody\"");
    refused(&step("call = \"Put\"\nsave = { seed = \"version\" }"), Some(2), "cannot be a variable");
    refused(&step("call = \"Put\"\nexpect_error = { code = \"OOPS\" }"), Some(2), "there are INVALID_ARGUMENT");
    refused(&step("call = \"Put\"\nexpect = {}\nexpect_error = {}"), Some(2), "leave one out");
    refused(&step("read = \"Get\"\nconsistency = \"strong\""), Some(2), "\"linearizable\" or \"local\"");
    refused(&step("read = \"Get\"\nhost = 4"), Some(2), "numbered 1 to 3");
}

#[test]
fn events_that_there_are_not() {
    refused(&step("event = \"flood\""), Some(2), "there are kill-leader");
    refused(&step("event = \"heal\"\nhost = 1"), Some(2), "host means nothing to heal");
    refused(&step("event = \"kill\"\nhost = \"boss\""), Some(2), "\"boss\" is no host");
    refused(&step("event = \"pause\"\nhost = \"all\""), Some(2), "cannot strike all");
    refused(&step("event = \"kill\"\nlasting = \"soon\""), Some(2), "is no time");
    refused(&step("event = \"wait\""), Some(2), "needs lasting");
    refused(&step("event = \"lose-replies\"\npercent = 101"), Some(2), "at most 100");
    refused(&step("event = \"upgrade\"\nmodule = \"v2\""), Some(2), "one of those in [modules]");
}

#[test]
fn parallel_branches_that_cannot_be() {
    refused(&step("parallel = []"), Some(2), "nothing in it");
    refused(&step("parallel = [\n{ call = \"Put\", clients = 0 },\n]"), Some(4), "from 1 to 1000");
    refused(&step("parallel = [\n{ steps = [\n{ call = \"Shout\" } ] },\n]"), Some(5), "no module");
    let saves = "parallel = [ { call = \"Put\", save = { v = \"version\" }, clients = 2 } ]\n\n[[step]]\ncall = \"Put\"\nrequest = { key = \"$v\" }";
    refused(&step(saves), Some(5), "no variable \"v\"");
    let two = "[modules]\nv2 = \"later.wasm\"\n[[step]]\nparallel = [\n{ event = \"upgrade\", module = \"v2\" },\n{ event = \"upgrade\", module = \"v2\" },\n]";
    refused(two, Some(6), "only one upgrade");
}
