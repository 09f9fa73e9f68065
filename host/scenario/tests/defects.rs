//! Bugs of the machine put back, one at a time: the checks after a scenario must find them, whatever the module is.

use bytes::Bytes;
use telegraft_raft::defects::{Defect, choose};
use telegraft_scenario::{Module, Scenario};

/// Says nothing about versions, so that only the checks can find anything.
const PUTS: &str = r#"
[chaos]
lose-replies = 0.4
duplicate-replies = 0.4
[[step]]
parallel = [{ call = "Put", request = { key = "a", value = "{{round}}AA=" }, clients = 3, times = 9 }]
"#;

#[test]
fn a_retry_applied_twice_and_a_budget_of_the_hosts_own_are_found() {
    let module = Module::new(Bytes::from_static(telegraft_modules::KV)).unwrap();
    let scenario = Scenario::from_text("puts.toml", PUTS, &module, &|_| Err("none".to_owned())).unwrap();
    for (defect, words) in [
        (Defect::RetryAppliedTwice, "a write was not applied exactly once"),
        (Defect::NondeterministicGuest, "the replicas are not equal"),
    ] {
        // On this thread, which is the one that has the bug.
        let found = |seeds: std::ops::Range<u64>| seeds.into_iter().find_map(|seed| scenario.play(seed, false).wrong);
        assert!(found(0..10).is_none(), "without {defect:?}");
        choose(Some(defect));
        let wrong = found(0..30);
        choose(None);
        let wrong = wrong.unwrap_or_else(|| panic!("{defect:?} was not found"));
        assert!(wrong.what.contains(words), "{defect:?}: {wrong:?}");
    }
}
