//! Many seeds of faults; after each the cluster must serve again.

use super::cluster::{Cluster, Options};
use crate::Config;

/// Runs each seed: faults, then calm. Says which seed failed, and what the seeds amounted to.
fn run(name: &str, seeds: std::ops::Range<u64>, events: usize, options: fn() -> Options) -> [usize; 5] {
    let mut totals = [0; 5];
    for seed in seeds {
        let result = std::panic::catch_unwind(|| {
            let mut cluster = Cluster::new(seed, options());
            for event in 0..events {
                cluster.event(true);
                if event % 500 == 0 {
                    cluster.check_log_matching();
                }
            }
            cluster.converge();
            let snapshots = cluster.snapshots_installed;
            let (reads, changes) = (cluster.reads_answered, cluster.conf_changes_applied);
            [cluster.elections, cluster.committed.len(), snapshots, reads, changes]
        });
        match result {
            Ok(counts) => totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count),
            Err(panic) => {
                eprintln!("{name}: seed {seed} failed");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{name}: elections, committed, snapshots, reads, conf changes = {totals:?}");
    totals
}

fn options(nodes: u64, configure: fn(&mut Config)) -> Options {
    Options {
        nodes,
        voters: (1..=nodes).collect(),
        configure,
        conf_changes: false,
        drop_percent: 15,
        meddle_percent: 0,
    }
}

#[test]
fn three_nodes_with_writes_under_way_survive_faults() {
    let [elections, committed, snapshots, ..] = run("async", 0..150, 4000, || options(3, |_| ()));
    assert!(elections > 300 && committed > 3000 && snapshots > 10, "the faults leave something to test");
}

#[test]
fn five_nodes_without_prevote_and_leases_survive_faults() {
    run("disruptive", 1000..1080, 5000, || {
        options(5, |config| (config.pre_vote, config.check_quorum) = (false, false))
    });
}

#[test]
fn synchronous_writes_survive_faults() {
    run("sync", 2000..2100, 4000, || options(3, |config| config.async_storage_writes = false));
}

#[test]
fn configuration_changes_survive_faults() {
    let [.., changes] = run("membership", 3000..3150, 6000, || {
        let mut options = options(5, |_| ());
        options.voters = vec![1, 2, 3];
        options.conf_changes = true;
        options
    });
    assert!(changes > 300, "the faults leave something to test");
}

#[test]
fn leaders_that_change_all_the_time_lose_nothing() {
    let [elections, .., reads, _] = run("churn", 5000..5300, 4000, || {
        let mut options = options(5, |config| (config.pre_vote, config.check_quorum) = (false, false));
        (options.drop_percent, options.meddle_percent) = (25, 4);
        options
    });
    assert!(elections > 1500 && reads > 100, "the faults leave something to test");
}

#[test]
fn a_tiny_window_never_gets_stuck() {
    run("window", 4000..4080, 4000, || options(3, |config| config.inflight_messages_max = 1));
}
