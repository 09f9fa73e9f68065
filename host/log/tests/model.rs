//! Random histories of writes, truncations, compactions, snapshots and restarts, against a model simple enough to be
//! believed: a map of entries and a few numbers.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use support::*;
use telegraft_log::Options;
use telegraft_node::ports::{LogReader, LogWrite, LogWriter};
use telegraft_raft::{Entry, HardState, Index, Term};

/// What happens next, in terms that fit any state of the log: numbers are taken modulo what is possible.
#[derive(Clone, Debug)]
enum Step {
    /// Writes handed over as one batch.
    Write(Vec<Change>),
    Compact(u64),
    Reopen,
}

#[derive(Clone, Debug)]
enum Change {
    /// Cut this many uncommitted entries, then append some in a term so much newer.
    Append {
        cut: u64,
        count: u64,
        term_ahead: u64,
        bytes: usize,
        sync: bool,
    },
    Commit {
        ahead: u64,
        vote: u64,
    },
    Snapshot {
        ahead: u64,
    },
    Configure {
        voters: Vec<u64>,
    },
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..6u64, 1..8u64, 0..2u64, prop_oneof![9 => 0..200usize, 1 => 5_000..40_000usize], any::<bool>())
            .prop_map(|(cut, count, term_ahead, bytes, sync)| Change::Append { cut, count, term_ahead, bytes, sync }),
        3 => (0..6u64, 1..4u64).prop_map(|(ahead, vote)| Change::Commit { ahead, vote }),
        1 => (0..9u64).prop_map(|ahead| Change::Snapshot { ahead }),
        1 => prop::collection::vec(1..9u64, 0..5).prop_map(|voters| Change::Configure { voters }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(change(), 1..4).prop_map(Step::Write),
        2 => any::<u64>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    voters: Vec<u64>,
    /// Where the configuration is from.
    configured_at: Index,
    start: (Index, Term),
    entries: BTreeMap<Index, Entry>,
}

impl Model {
    fn last(&self) -> (Index, Term) {
        self.entries.values().next_back().map_or(self.start, |entry| (entry.index, entry.term))
    }

    /// Changes the model, and says what to hand to the log.
    fn change(&mut self, change: &Change) -> LogWrite {
        let mut write = LogWrite::default();
        match change {
            Change::Append { cut, count, term_ahead, bytes, sync } => {
                let keep = self.last().0.saturating_sub(*cut).max(self.hard_state.commit);
                self.entries.split_off(&(keep + 1));
                if *term_ahead > 0 {
                    self.hard_state.term += term_ahead;
                    self.hard_state.vote = 0;
                }
                for index in keep + 1..=keep + count {
                    let entry = entry_of(index, self.hard_state.term, *bytes);
                    self.entries.insert(index, entry.clone());
                    write.entries.push(entry);
                }
                write.hard_state = Some(self.hard_state);
                write.must_sync = *sync;
            }
            Change::Commit { ahead, vote } => {
                self.hard_state.commit = (self.hard_state.commit + ahead).min(self.last().0);
                if self.hard_state.vote == 0 {
                    self.hard_state.vote = *vote;
                }
                write.hard_state = Some(self.hard_state);
            }
            Change::Snapshot { ahead } => {
                let index = self.hard_state.commit + ahead;
                if index > 0 {
                    let snapshot = snapshot(index, self.hard_state.term, voters(&[index]));
                    self.start = (index, self.hard_state.term);
                    self.entries.clear();
                    self.hard_state.commit = index;
                    self.voters = vec![index];
                    self.configured_at = index;
                    write.snapshot = Some(snapshot);
                    write.must_sync = true;
                }
            }
            Change::Configure { voters: ids } => {
                self.voters.clone_from(ids);
                write.conf_state = Some(conf(self.configured_at, ids));
            }
        }
        write
    }

    fn compact(&mut self, through: Index) {
        if let Some(entry) = self.entries.get(&through) {
            self.start = (through, entry.term);
            self.entries = self.entries.split_off(&(through + 1));
        }
    }

    fn compare(&self, reader: &impl LogReader) -> Result<(), TestCaseError> {
        let (hard_state, conf_state) = reader.initial_state().unwrap();
        prop_assert_eq!(hard_state, self.hard_state);
        prop_assert_eq!(conf_state, voters(&self.voters));
        prop_assert_eq!(reader.conf_index(), self.configured_at);
        prop_assert_eq!(reader.first_index(), self.start.0 + 1);
        prop_assert_eq!(reader.last_index(), self.last().0);
        prop_assert_eq!(reader.term(self.start.0), Ok(self.start.1));
        prop_assert!(reader.term(self.last().0 + 1).is_err());
        prop_assert!(self.start.0 == 0 || reader.term(self.start.0 - 1).is_err());
        let expected: Vec<Entry> = self.entries.values().cloned().collect();
        for entry in &expected {
            prop_assert_eq!(reader.term(entry.index), Ok(entry.term));
        }
        prop_assert_eq!(all(reader), expected.as_slice());
        // A read from the middle, limited.
        if let Some(middle) = expected.get(expected.len() / 2) {
            let some = reader.entries(middle.index, self.last().0 + 1, 300).unwrap();
            prop_assert!(!some.is_empty());
            prop_assert_eq!(&some[..], &expected[expected.len() / 2..][..some.len()]);
        }
        Ok(())
    }
}

/// Runs a history; `reopen` may give a log anew.
fn run<R: LogReader, W: LogWriter>(
    steps: &[Step],
    first: (R, W),
    mut reopen: impl FnMut((R, W)) -> (R, W),
) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let (mut reader, mut writer) = first;
    for step in steps {
        match step {
            Step::Write(changes) => {
                let writes: Vec<LogWrite> = changes.iter().map(|change| model.change(change)).collect();
                writer.write(&writes).unwrap();
            }
            Step::Compact(choice) => {
                let through = choice % (model.hard_state.commit + 1);
                model.compact(through);
                writer.compact(through).unwrap();
            }
            Step::Reopen => (reader, writer) = reopen((reader, writer)),
        }
        model.compare(&reader)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn the_log_in_memory_behaves_as_the_model(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps, telegraft_log::memory(), |log| log)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(48) })]

    /// A small cache, so that reads come from both memory and database; small memtables, so that tables are written.
    #[test]
    fn the_log_in_rocksdb_behaves_as_the_model(
        steps in prop::collection::vec(step(), 1..40),
        tail_cache_bytes in prop_oneof![Just(0), 100..4_000usize, Just(1 << 20)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let options = Options { tail_cache_bytes, ..small() };
        let open = || telegraft_log::open(&path, GROUP, options).unwrap();
        run(&steps, open(), |log| { drop(log); open() })?;
    }
}
