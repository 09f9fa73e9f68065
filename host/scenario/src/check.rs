//! What must hold when everything has calmed down, whatever the module is: the replicas are equal, and every write that was
//! answered was applied once. Owns the check that needs the whole log: it is applied to a new machine, each request once.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use telegraft_proto::internal::{Command, command::Body};
use telegraft_raft::{Entry, EntryKind, Index};
use telegraft_sim::{
    clients::outcome_hash,
    judge::Violation,
    machine::{MachineDisk, wasm::WasmDisk},
};

use crate::{cluster::Cluster, failure::Failure};

/// Entries that the new machine applies at once.
const BATCH: usize = 64;

fn broken<T>(checker: char, what: String) -> Result<T, Failure> {
    Err(Failure::Broken(Violation { checker, what }))
}

/// Which request an entry carries, with its time.
struct Carried {
    session: Option<(String, u64)>,
    time_us: u64,
}

impl Carried {
    fn of(entry: &Entry) -> Option<Self> {
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return None;
        }
        let command = Command::decode(entry.data.clone()).ok()?;
        let session = (!command.client_id.is_empty()).then_some((command.client_id, command.request_id));
        Some(Carried { session, time_us: command.time_us })
    }
}

/// The entry at which a machine's audit of reuse found a difference, where that is what this one says.
fn audited(entry: &Entry) -> Option<Index> {
    let command = Command::decode(entry.data.clone()).ok()?;
    if let Some(Body::EndReuse(end)) = command.body { Some(end.index) } else { None }
}

impl Cluster {
    /// Ends all faults, lets the cluster come to rest, and checks what must hold: all hosts have applied everything that
    /// is committed, with the same outcomes and the same state, by digest; every write that was answered is in the log, as
    /// it was answered; and a new machine that applies the log with each request in it once comes to the same outcomes and
    /// the same state: so no retry was applied twice, and nothing that the hosts went through has left a trace.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&mut self) -> Result<(), Failure> {
        self.calm();
        self.tell(|| "all faults end, and the cluster comes to rest".to_owned());
        self.world.settle()?;
        self.take_in()?;
        let first = self.first_entries()?;
        self.compare_with_a_new_machine(&first)?;
        self.tell(|| "the replicas are equal, and every write was applied once".to_owned());
        Ok(())
    }

    /// The index of each request's first entry; all its entries, and all answers to it, say the same.
    fn first_entries(&mut self) -> Result<BTreeMap<(String, u64), Index>, Failure> {
        let judge = self.world.judge();
        let outcome =
            |index: Index| judge.outcomes.get(usize::try_from(index).ok()?.checked_sub(1)?).copied().flatten();
        let mut first: BTreeMap<(String, u64), Index> = BTreeMap::new();
        let mut duplicates = 0;
        for committed in &judge.committed {
            if let Some(at) = audited(&committed.entry) {
                return broken(
                    'R',
                    format!("entry {at} had other effects in the instance that was kept than in a fresh one"),
                );
            }
            let Some(session) = Carried::of(&committed.entry).and_then(|carried| carried.session) else { continue };
            let index = committed.entry.index;
            let known = *first.entry(session.clone()).or_insert(index);
            duplicates += u64::from(known != index);
            if outcome(known) != outcome(index) {
                let (client, request) = session;
                return broken(
                    'O',
                    format!(
                        "request {request} of {client} stands at index {known} and again at {index}, with another outcome"
                    ),
                );
            }
        }
        for acknowledged in &self.acknowledged {
            let index = acknowledged.index;
            let told =
                format!("request {} of {}, answered at index {index},", acknowledged.request, acknowledged.client);
            match judge.committed_at(index) {
                Some(committed) if committed.data == acknowledged.data => {}
                _ => return broken('D', format!("{told} is not what is committed there")),
            }
            if outcome(index).is_some_and(|outcome| outcome != acknowledged.outcome) {
                return broken('O', format!("{told} got another answer than the hosts' machines gave"));
            }
        }
        self.tally.duplicates = duplicates;
        Ok(first)
    }

    fn compare_with_a_new_machine(&mut self, first: &BTreeMap<(String, u64), Index>) -> Result<(), Failure> {
        let mut disk = WasmDisk::new()?;
        let mut machine = disk.open()?;
        let judge = self.world.judge();
        for batch in judge.committed.chunks(BATCH) {
            let entries: Vec<(Entry, bool)> =
                batch.iter().map(|committed| once(committed.entry.clone(), first)).collect();
            let plain: Vec<Entry> = entries.iter().map(|(entry, _)| entry.clone()).collect();
            let outcomes = machine.apply(&plain)?;
            for ((entry, whole), outcome) in entries.iter().zip(&outcomes) {
                let at = usize::try_from(entry.index).unwrap_or(usize::MAX) - 1;
                let Some(known) = judge.outcomes.get(at).copied().flatten().filter(|_| *whole) else { continue };
                if known != outcome_hash(outcome) {
                    let index = entry.index;
                    return broken(
                        'S',
                        format!(
                            "a new machine that applies the log gets {outcome:?} from entry {index}, the hosts got something else"
                        ),
                    );
                }
            }
        }
        let (_, expected) = machine.state_digest()?;
        let (index, found) = self.world.state_digest()?;
        if machine.effect_digest().map(|(_, digest)| digest) != self.world.effect_digest().map(|(_, digest)| digest) {
            return broken(
                'O',
                format!(
                    "up to index {index} the entries had other effects on the hosts than on a new machine which applies each request once"
                ),
            );
        }
        if expected != found {
            return broken(
                'O',
                format!(
                    "the hosts' state at index {index} is not that of a new machine which applies each request of the log once"
                ),
            );
        }
        Ok(())
    }
}

/// The entry, and whether it is whole: of one whose request has come before, only its time is left.
fn once(mut entry: Entry, first: &BTreeMap<(String, u64), Index>) -> (Entry, bool) {
    if let Some(Carried { session: Some(session), time_us }) = Carried::of(&entry)
        && first.get(&session).is_some_and(|first| *first < entry.index)
    {
        entry.data = Bytes::from(Command { time_us, ..Command::default() }.encode_to_vec());
        return (entry, false);
    }
    (entry, true)
}
