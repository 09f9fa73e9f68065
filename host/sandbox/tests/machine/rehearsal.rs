//! Rehearsals that go back over changes of the module: over upgrades, rollbacks and the machine's first module.

use std::fs;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use telegraft_node::ports::Machine;
use telegraft_proto::internal::{
    Activate, Checkpoint, Command, DigestReport, Limits, Rollback, command::Body, rollback::Way,
};
use telegraft_raft::{Entry, Index};
use telegraft_sandbox::{
    Digest,
    trial::{RehearsalEvent, TrialError},
};

use crate::{
    probe::{PROBE, Probe, activation, call, command, entry, message, set, whole},
    replay::{entries, steps},
    trial::{Logged, differences, other},
};

impl Logged {
    fn roll_back(&mut self, from: &Probe, to: &Probe, way: Way) {
        let [from, digest] = [from, to].map(|probe| Digest::of(&probe.build()).0.to_vec().into());
        let outcome = self.one(Body::Rollback(Rollback { digest, from, way: way.into(), ..Rollback::default() }));
        assert!(outcome.is_ok(), "{outcome:?}");
    }

    /// A checkpoint, and what three hosts say to it: four entries.
    fn checkpoint(&mut self) {
        let index = self.rig.next();
        let digest = Bytes::copy_from_slice(&self.rig.reader.effect_digest().1);
        self.one(Body::Checkpoint(Checkpoint { voters: 3 })).unwrap();
        for host_id in 1..=3 {
            self.one(Body::DigestReport(DigestReport { index, host_id, digest: digest.clone() })).unwrap();
        }
        assert_eq!(self.rig.reader.verified_index(), index);
    }
}

/// What a rehearsal told, in its order.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// A version, and since when it was active.
    Module(&'static str, Index),
    /// At this index.
    Difference(Index),
}

impl Seen {
    fn of(event: &RehearsalEvent) -> Seen {
        match event {
            RehearsalEvent::Module(active) => {
                let version = active.record.version.clone();
                Seen::Module(version.leak(), active.record.activated_index)
            }
            RehearsalEvent::Difference(difference) => Seen::Difference(difference.index),
            RehearsalEvent::Progress { .. } => panic!("progress was filtered out"),
        }
    }
}

/// What [`noting`] notes: the data layout that it came from.
const NOTE: &str = "INSERT INTO noted VALUES(?1)";

/// A version whose `init` notes something in a table of its own.
fn noting(version: &'static str, schema: u32, note: &'static str) -> Probe {
    Probe { version, schema, init: ["CREATE TABLE IF NOT EXISTS noted(n)", note], ..PROBE }
}

#[test]
fn a_rehearsal_goes_back_over_activations_and_answers_as_the_machine_did() {
    let mut logged = Logged::probe();
    (1..=3).for_each(|k| logged.insert(k));
    let noted = "SELECT group_concat(n) FROM noted";
    logged.one(call("query", noted)).unwrap_err(); // index 6: no such table yet
    logged.one(call("context", "")).unwrap();
    logged.install_with(&noting("1.0.2", 2, NOTE), true); // 8, 9
    assert_eq!(logged.one(call("query", noted)), Ok("1".into())); // 10
    (4..=6).for_each(|k| logged.insert(k)); // 11 to 13
    logged.one(call("x", "INSERT INTO t VALUES(7, 'seven')")).unwrap(); // 14
    logged.one(call("context", "")).unwrap();
    // Uploads and refused activations between the commands, and what the hosts tell each other of their effects.
    let failing = Probe { init_text: "(unreachable)", ..noting("1.0.4", 4, NOTE) }.build();
    logged.one(whole(&failing)).unwrap();
    logged.one(activation(&failing, false)).unwrap_err();
    logged.checkpoint();
    logged.one(call("query", "SELECT count(*) FROM t")).unwrap(); // 22
    assert_eq!(logged.rig.reader.applied_index(), 22);
    let before = logged.fingerprint();

    let candidate = Probe { call_text: other().call_text, ..noting("1.1.3", 3, "INSERT INTO noted VALUES(?1 * 10)") };
    let (report, seen) = logged.rehearse_seen(&candidate, 11).unwrap();
    assert_eq!((report.commands, report.first_index, report.last_index), (11, 4, 22));
    // One row was there, and data layout 1.
    let did = &report.activation;
    assert_eq!((did.index, did.activation.from_schema, did.activation.refused.as_ref()), (3, Some(1), None));
    let expected = [
        Seen::Module("1.0.0", 2),
        Seen::Difference(6),
        Seen::Module("1.0.2", 9),
        Seen::Difference(10),
        Seen::Difference(14),
        // Where the row that was not inserted is missing.
        Seen::Difference(22),
    ];
    let order: Vec<Seen> = seen.iter().map(Seen::of).collect();
    assert_eq!(order, expected, "{seen:?}");
    let differences = differences(seen);
    assert!(message(&differences[0].before.outcome).contains("no such table"), "{differences:?}");
    assert_eq!(differences[0].after.outcome.as_deref(), Ok(&b"10"[..]));
    assert_eq!(differences[1].before.outcome.as_deref(), Ok(&b"1"[..]));
    assert_eq!(differences[1].after.outcome.as_deref(), Ok(&b"10"[..]));
    assert_eq!(differences[2].after.outcome.as_deref(), Ok(&4711_u64.to_le_bytes()[..]));
    assert_eq!(
        report.notes,
        [
            "index 9: probe 1.0.2 was activated; the candidate went on",
            "7 entries among them were left out for the candidate: uploads, refused activations and the hosts' own"
        ]
    );
    assert_eq!((report.before.version.as_str(), report.before.activated_index), ("1.0.2", 9));
    assert_eq!(logged.fingerprint(), before);
    logged.nothing_is_left();
}

#[test]
fn right_after_an_activation_there_is_something_to_rehearse() {
    let mut logged = Logged::probe();
    (1..=4).for_each(|k| logged.insert(k));
    logged.install(&other());
    let (report, seen) = logged.rehearse_seen(&Probe { version: "3.0.0", ..PROBE }, 3).unwrap();
    assert_eq!((report.commands, report.differing, report.first_index), (3, 0, 4));
    assert_eq!(seen.iter().map(Seen::of).collect::<Vec<_>>(), [Seen::Module("1.0.0", 2), Seen::Module("2.0.0", 8)]);
    assert_eq!(report.notes[0], "index 8: probe 2.0.0 was activated; the candidate went on");
}

#[test]
fn a_rehearsal_goes_back_over_a_rollback_that_discards() {
    let mut logged = Logged::probe();
    (1..=2).for_each(|k| logged.insert(k)); // 3, 4
    logged.install(&noting("1.0.2", 2, NOTE)); // 5, 6
    (3..=4).for_each(|k| logged.insert(k)); // 7, 8
    logged.roll_back(&noting("1.0.2", 2, NOTE), &PROBE, Way::KeptState); // 9
    let count = call("query", "SELECT count(*) FROM t");
    logged.one(count.clone()).unwrap(); // 10
    logged.insert(3); // 11: free again, but for whom nothing was discarded
    logged.insert(5); // 12

    // From before the activation, and from after it: there the kept state is one that the rebuilding made.
    let (report, seen) = logged.rehearse_seen(&Probe { version: "1.1.0", ..PROBE }, 7).unwrap();
    assert_eq!((report.commands, report.first_index, report.activation.index), (7, 3, 2));
    let expected = [
        Seen::Module("1.0.0", 2),
        Seen::Module("1.0.2", 6),
        Seen::Module("1.0.0", 9),
        Seen::Difference(10),
        Seen::Difference(11),
    ];
    assert_eq!(seen.iter().map(Seen::of).collect::<Vec<_>>(), expected);
    let found = differences(seen);
    let numbers = [&found[0].before, &found[0].after].map(|answer| answer.outcome.clone().unwrap()[0]);
    assert_eq!(numbers, [2, 4]);
    assert!(found[1].before.outcome.is_ok() && message(&found[1].after.outcome).contains("UNIQUE"), "{found:?}");
    assert_eq!(report.notes.len(), 3, "{:?}", report.notes);
    assert!(report.notes[1].starts_with("index 9: the machine was rolled back to probe 1.0.0"), "{:?}", report.notes);
    assert!(report.notes[1].contains("2 commands discarded"), "{:?}", report.notes);

    let alike = Probe { version: "1.1.2", ..noting("1.0.2", 2, NOTE) };
    let (report, seen) = logged.rehearse_seen(&alike, 4).unwrap();
    assert_eq!((report.commands, report.first_index, report.activation.activation.from_schema), (4, 8, Some(2)));
    let expected = [Seen::Module("1.0.2", 6), Seen::Module("1.0.0", 9), Seen::Difference(10), Seen::Difference(11)];
    assert_eq!(seen.iter().map(Seen::of).collect::<Vec<_>>(), expected);
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
    logged.nothing_is_left();
}

#[test]
fn a_candidate_that_old_states_refuse_is_rehearsed_from_where_it_can_be_activated() {
    let mut logged = Logged::probe();
    (1..=3).for_each(|k| logged.insert(k)); // 3 to 5
    logged.install(&Probe { version: "1.0.1", ..PROBE }); // 6, 7: the layout stays
    logged.insert(4); // 8
    logged.install(&noting("1.0.2", 2, NOTE)); // 9, 10
    logged.one(call("context", "")).unwrap(); // 11
    logged.insert(5); // 12
    logged.install(&noting("1.0.3", 3, NOTE)); // 13, 14
    // Knows from 2 alone, and 3.
    let candidate = Probe { schema: 4, version: "4.0.0", init: ["INSERT INTO noted VALUES(4)", ""], ..PROBE };
    let check = |logged: &Logged, wanted: u64, newest: u64| {
        let (report, seen) = logged.rehearse_seen(&candidate, wanted).unwrap();
        assert_eq!((report.commands, report.first_index, report.differing), (newest, 11, 0));
        assert_eq!((report.activation.index, report.activation.activation.from_schema), (10, Some(2)));
        assert_eq!(
            seen.iter().map(Seen::of).collect::<Vec<_>>(),
            [Seen::Module("1.0.2", 10), Seen::Module("1.0.3", 14)]
        );
        let note = &report.notes[0];
        assert!(
            note.starts_with(&format!("{wanted} commands were asked for, and the newest {newest} are replayed"))
                && note.contains("no such table"),
            "{note}"
        );
        logged.nothing_is_left();
    };
    // Though it has answered no command, the newest module is no hindrance; nor is there one where it has.
    check(&logged, 5, 2);
    logged.insert(6);
    check(&logged, 1_000, 3);

    // Where nothing but the present state takes it, that alone is told.
    let newest =
        Probe { init: ["CREATE TABLE only(a)", "INSERT INTO only SELECT ?1 FROM newest"], ..candidate.clone() };
    logged.install(&Probe { init: ["CREATE TABLE newest(n)", ""], ..noting("1.0.5", 5, "") });
    let newest = Probe { schema: 6, ..newest };
    let (report, seen) = logged.rehearse_seen(&newest, 1_000).unwrap();
    assert_eq!((report.commands, report.activation.activation.refused.as_ref()), (0, None));
    assert_eq!(report.activation.index, logged.rig.reader.applied_index());
    assert_eq!(seen.iter().map(Seen::of).collect::<Vec<_>>(), [Seen::Module("1.0.5", 17)]);
    assert!(report.notes[0].contains("no command has come since probe 1.0.5"), "{:?}", report.notes);

    // One that could not be activated now is refused, whatever older states would say.
    let (report, _) = logged.rehearse_seen(&Probe { version: "1.0.9", ..PROBE }, 1_000).unwrap();
    let refused = report.activation.activation.refused.expect("a lower layout");
    assert!(report.commands == 0 && refused.message.contains("data layout 1"), "{refused:?}");
    logged.nothing_is_left();
}

#[test]
fn commands_from_before_the_first_module_are_not_replayed() {
    let mut logged = Logged::empty();
    (1..=3).for_each(|_| _ = logged.one(call("context", "")).unwrap_err());
    let failing = Probe { init_text: "(unreachable)", ..PROBE }.build();
    logged.one(whole(&failing)).unwrap();
    logged.one(activation(&failing, false)).unwrap_err();
    logged.one(call("context", "")).unwrap_err();
    logged.install(&PROBE); // 7, 8
    assert_eq!(logged.rehearse(&other(), 9).unwrap_err(), TrialError::NoCommands { since: 8 });
    (1..=2).for_each(|k| logged.insert(k));
    for wanted in [3, 6] {
        let (report, found) = logged.rehearse(&other(), wanted).unwrap();
        assert_eq!((report.commands, report.first_index, found.len()), (2, 9, 0));
        let note = format!("{wanted} commands were asked for, and there are 2 since a module was first activated");
        assert_eq!(report.notes, [note]);
    }
}

#[test]
fn a_log_that_does_not_come_to_the_machines_own_effects_is_told() {
    let mut logged = Logged::probe();
    (1..=3).for_each(|k| logged.insert(k));
    assert!(logged.rehearse(&other(), 2).unwrap().0.notes.is_empty());
    // What stands in the log at this index is not what the machine was given.
    let index = logged.rig.next();
    let logs = entry(index, command(index, call("execute", "INSERT INTO t VALUES(4, 'logged')")));
    logged.log.append(&[logs]).expect("append");
    logged.rig.one(call("execute", "INSERT INTO t VALUES(4, 'applied')")).unwrap();
    let (report, _) = logged.rehearse(&other(), 2).unwrap();
    assert!(report.notes.len() == 1 && report.notes[0].contains("did not come to the effects"), "{:?}", report.notes);
}

#[test]
fn a_log_of_another_engine_is_no_ground_for_a_rehearsal() {
    let mut logged = Logged::empty();
    let module = PROBE.build();
    logged.one(whole(&module)).unwrap();
    let Body::Activate(activate) = activation(&module, false) else { unreachable!() };
    let foreign = Body::Activate(Activate { engine: "another 1".to_owned(), ..activate });
    logged.log.append(&[entry(2, command(2, foreign))]).expect("append");
    logged.rig.one(activation(&module, false)).unwrap();
    logged.insert(1);
    let error = logged.rehearse(&other(), 1).unwrap_err();
    assert!(matches!(&error, TrialError::Stalled { at: 2, why } if why.contains("[another 1]")), "{error}");
    assert!(error.to_string().contains("dry run"), "{error}");
    assert!(logged.dry_run(&other()).unwrap().activation.refused.is_none());
    logged.nothing_is_left();
}

#[test]
fn what_an_operator_lets_the_machine_ignore_its_copy_ignores_too() {
    let mut logged = Logged::probe();
    let word = logged.rig.dir.join("ignore-differences");
    fs::write(&word, []).unwrap();
    let index = logged.rig.next();
    logged.one(Body::Checkpoint(Checkpoint { voters: 3 })).unwrap();
    for host_id in 1..=3 {
        let digest = Bytes::from(vec![host_id as u8; 32]);
        logged.one(Body::DigestReport(DigestReport { index, host_id, digest })).unwrap();
    }
    logged.insert(1);
    assert_eq!(logged.rehearse(&other(), 1).unwrap().0.commands, 1);
    fs::remove_file(word).unwrap();
    let error = logged.rehearse(&other(), 1).unwrap_err();
    assert!(matches!(&error, TrialError::Stalled { at: 7, why } if why.contains("none has a majority")), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Whatever is in the log: activations, ways back, budgets, the end of reuse, commands that cost the transaction.
    #[test]
    fn the_side_that_goes_through_the_log_answers_as_the_machine_did(steps in steps(), wanted in 1..80u64) {
        let entries = entries(&steps);
        let mut logged = Logged::empty();
        logged.log.append(&entries).unwrap();
        let outcomes = logged.rig.machine.apply(&entries).unwrap();
        let candidate = Probe { version: "3", schema: 2, ..PROBE };
        let (report, seen) = logged.rehearse_seen(&candidate, wanted).unwrap();
        prop_assert!(!report.notes.iter().any(|note| note.contains("did not come to")), "{:?}", report.notes);
        if report.activation.activation.refused.is_some() {
            prop_assert_eq!(report.commands, 0);
            return Ok(());
        }
        let is_call = |entry: &Entry| matches!(
            Command::decode(entry.data.clone()).map(|command| command.body),
            Ok(Some(Body::Call(_)))
        );
        let replayed = entries.iter().zip(&outcomes).filter(|(entry, _)| entry.index >= report.first_index && is_call(entry));
        let (replies, rejections): (Vec<_>, Vec<_>) = replayed.map(|(_, outcome)| outcome).partition(|outcome| outcome.is_ok());
        let cost = report.cost_before;
        prop_assert_eq!((cost.replies, cost.rejections), (replies.len() as u64, rejections.len() as u64));
        prop_assert_eq!(report.commands, cost.replies + cost.rejections);
        prop_assert!(report.commands <= wanted);
        for difference in differences(seen) {
            prop_assert_eq!(&difference.before.outcome, &outcomes[difference.index as usize - 1]);
        }
    }
}

/// An activation now happens under the budgets of now; only the commands are replayed under those of their time.
#[test]
fn a_budget_that_was_raised_since_is_the_candidate_s_too() {
    let mut logged = Logged::probe();
    let limits = |sql_steps: u64| set(Limits { sql_steps, ..Limits::default() });
    logged.one(limits(60)).unwrap();
    logged.insert(1);
    logged.one(limits(1_000_000)).unwrap();
    let dear =
        "INSERT INTO noted WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n LIMIT 100) SELECT i FROM n";
    let (report, seen) = logged.rehearse_seen(&noting("1.1.0", 2, dear), 1).unwrap();
    assert_eq!((report.commands, report.differing, &report.activation.activation.refused), (1, 0, &None), "{seen:?}");
    // And a command that ran out of them does so again.
    logged.one(limits(60)).unwrap();
    logged
        .one(call(
            "query",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) SELECT count(*) FROM n",
        ))
        .unwrap_err();
    logged.one(limits(1_000_000)).unwrap();
    let (report, _) = logged.rehearse_seen(&noting("1.1.0", 2, dear), 1).unwrap();
    assert_eq!((report.commands, report.differing, report.cost_after.exhausted), (1, 0, 1));
}
