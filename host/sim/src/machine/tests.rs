//! Both machines do the same, keep what they promise when the power goes, and tell different states apart.

use bytes::Bytes;
use prost::Message;
use telegraft_node::ports::Outcome;
use telegraft_proto::{
    internal::{Activate, Call, Command, ModuleChunk, command::Body},
    kv,
};
use telegraft_raft::{ConfState, Entry, EntryKind, Index, Snapshot, SnapshotMeta};
use telegraft_sandbox::{Digest, REMEMBERED};

use super::{MachineDisk, RunningMachine, plain::PlainDisk, wasm::WasmDisk};

fn entry(index: Index, command: &Command) -> Entry {
    Entry { term: 1, index, kind: EntryKind::Normal, data: command.encode_to_vec().into() }
}

fn command(index: Index, body: Body) -> Command {
    Command { time_us: 1_000 + index, entropy_high: index, entropy_low: !index, body: Some(body), ..Command::default() }
}

/// The key-value module, uploaded at index 1 and activated at index 2.
fn prologue() -> [Entry; 2] {
    let digest = Bytes::copy_from_slice(&Digest::of(telegraft_modules::KV).0);
    let data = Bytes::from_static(telegraft_modules::KV);
    let upload = ModuleChunk { digest: digest.clone(), size: data.len() as u64, data, ..ModuleChunk::default() };
    let activate = Activate { digest, reuse: true, ..Activate::default() };
    [entry(1, &command(1, Body::ModuleChunk(upload))), entry(2, &command(2, Body::Activate(activate)))]
}

fn call(method: &str, request: &impl Message) -> Body {
    Body::Call(Call { method: format!("kv.v1.Kv/{method}"), payload: request.encode_to_vec().into() })
}

fn put(key: &str, value: &str) -> Body {
    call("Put", &kv::PutRequest { key: key.to_owned(), value: value.to_owned().into() })
}

/// An entry of any kind, mostly good ones over few keys, so that they meet.
fn any_entry(rng: &mut fastrand::Rng, index: Index) -> Entry {
    let key = match rng.u8(..20) {
        0 => String::new(),
        1 => "k".repeat(1_025),
        2 => "é\"\n".to_owned(),
        n => format!("k{}", n % 5),
    };
    let value = |rng: &mut fastrand::Rng| match rng.u8(..30) {
        0 => Bytes::from(vec![7; 65_537]),
        1 => Bytes::from(vec![7; 5_000]),
        n => Bytes::from(format!("v{}", n % 4)),
    };
    let body = match rng.u8(..20) {
        0..7 => call("Put", &kv::PutRequest { key, value: value(rng) }),
        7..11 => call("Delete", &kv::DeleteRequest { key }),
        11..16 => {
            let expected = rng.bool().then(|| value(rng));
            call("CompareAndSet", &kv::CompareAndSetRequest { key, expected, value: value(rng) })
        }
        16 => Body::Call(Call { method: "kv.v1.Kv/Get".to_owned(), payload: Bytes::new() }),
        17 => Body::Call(Call { method: "kv.v1.Kv/Put".to_owned(), payload: Bytes::from_static(&[0x0a, 4, b'x']) }),
        18 => return Entry { data: Bytes::new(), ..entry(index, &Command::default()) },
        _ => return Entry { data: Bytes::from_static(&[0xff, 1, 2]), ..entry(index, &Command::default()) },
    };
    let mut command = command(index, body);
    match rng.u8(..10) {
        0..3 => {}
        3 => command.client_id = "x".repeat(65),
        4 => command.body = None,
        _ => {
            command.client_id = format!("c{}", rng.u8(..3));
            command.request_id = rng.u64(..12);
        }
    }
    entry(index, &command)
}

/// A history that begins with the module.
fn history(seed: u64, len: u64) -> Vec<Entry> {
    let mut rng = fastrand::Rng::with_seed(seed);
    prologue().into_iter().chain((3..len + 3).map(|index| any_entry(&mut rng, index))).collect()
}

/// Applies in batches of random size.
fn apply(machine: &mut dyn RunningMachine, rng: &mut fastrand::Rng, entries: &[Entry]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(rng.usize(1..=rest.len().min(20)));
        outcomes.extend(machine.apply(batch).unwrap());
        rest = later;
    }
    outcomes
}

fn digest(machine: &mut dyn RunningMachine) -> String {
    machine.state_digest().unwrap().1
}

fn snapshot(machine: &mut dyn RunningMachine) -> Snapshot {
    let data = machine.snapshot().unwrap();
    let conf_state = ConfState { voters: vec![1, 2], learners_next: vec![3], ..ConfState::default() };
    Snapshot { meta: SnapshotMeta { conf_state, index: machine.applied_index(), term: 7 }, data }
}

type NewDisk = fn() -> Box<dyn MachineDisk>;

fn disks() -> [(&'static str, NewDisk); 2] {
    [("plain", || Box::new(PlainDisk::default())), ("wasm", || Box::new(WasmDisk::new().unwrap()))]
}

#[test]
fn both_machines_give_the_same_outcomes() {
    for seed in 0..30 {
        let entries = history(seed, 300);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plain = PlainDisk::default().open().unwrap();
        let mut wasm_disk = WasmDisk::new().unwrap();
        let mut wasm = wasm_disk.open().unwrap();
        let first = apply(&mut *plain, &mut rng, &entries);
        let second = apply(&mut *wasm, &mut rng, &entries);
        for ((a, b), entry) in first.iter().zip(&second).zip(&entries) {
            assert_eq!(a, b, "seed {seed}, entry {}: {:?}", entry.index, Command::decode(entry.data.clone()));
        }
        assert!(first.iter().any(Result::is_err) && first.iter().any(Result::is_ok));
        for key in ["k0", "k1", "k2", "k3", "k4", "é\"\n", "", "none"] {
            let request = kv::GetRequest { key: key.to_owned() }.encode_to_vec();
            let answers = [&mut plain, &mut wasm].map(|machine| machine.query("kv.v1.Kv/Get", &request).unwrap());
            assert_eq!(answers[0], answers[1], "seed {seed}, key {key:?}");
        }
    }
}

/// The bound of what is remembered is one of entries, and the same one.
#[test]
fn both_machines_forget_answers_at_the_same_entry() {
    let request = |index, id| {
        let mut command = command(index, put("k", "v"));
        command.client_id = "c".to_owned();
        command.request_id = id;
        entry(index, &command)
    };
    let mut entries: Vec<Entry> = prologue().into();
    entries.extend([request(3, 1), request(4, 2), request(5, 3)]);
    entries.extend((6..REMEMBERED + 4).map(|index| Entry { data: Bytes::new(), ..request(index, 0) }));
    // Just too late for the first, just in time for the third.
    entries.extend([request(REMEMBERED + 4, 1), request(REMEMBERED + 5, 3)]);
    for (name, disk) in disks() {
        let mut disk = disk();
        let mut machine = disk.open().unwrap();
        let outcomes: Vec<Outcome> = entries.chunks(10_000).flat_map(|part| machine.apply(part).unwrap()).collect();
        let version = |at: usize| kv::PutReply::decode(outcomes[at].clone().unwrap()).unwrap().version;
        let last = outcomes.len() - 1;
        assert_eq!([version(2), version(4), version(last - 1), version(last)], [1, 3, 4, 3], "{name}");
    }
}

/// After any losses of power the machine opens, is where a commit ended at or after what was durable, and goes on from
/// there to where a twin is that never lost any.
#[test]
fn a_loss_of_power_takes_whole_commits_behind_the_durable_ones() {
    for (name, disk) in disks() {
        let mut lost = 0;
        let mut kept = 0;
        for seed in 0..40 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut twin_disk = disk();
            let mut twin = twin_disk.open().unwrap();
            let mut disk = disk();
            let mut machine = disk.open().unwrap();
            let mut entries: Vec<Entry> = Vec::new();
            let mut durable = 0;
            let mut ends = vec![0];
            // Some cross the thousand frames at which SQLite runs a checkpoint by itself.
            for _ in 0..if seed % 8 == 0 { 400 } else { 30 } {
                let at = entries.len();
                for index in at as u64 + 1..=at as u64 + rng.u64(1..=8) {
                    // After a loss others than before: what was lost must have left nothing.
                    entries.push(match index {
                        1 | 2 => prologue()[index as usize - 1].clone(),
                        _ => any_entry(&mut rng, index),
                    });
                }
                machine.apply(&entries[at..]).unwrap();
                let at = entries.len();
                ends.push(at);
                if rng.u8(..8) == 0 {
                    durable = machine.make_durable().unwrap() as usize;
                    assert_eq!(durable, at);
                }
                match rng.u8(..12) {
                    0 => {
                        drop(machine);
                        disk.lose_power(&mut rng);
                        machine = disk.open().unwrap();
                        let applied = machine.applied_index() as usize;
                        assert!(durable <= applied && applied <= at, "{name}, seed {seed}: {durable} {applied} {at}");
                        assert!(ends.contains(&applied), "{name}, seed {seed}: {applied} is in the middle of a commit");
                        lost += at - applied;
                        kept += applied - durable;
                        ends.retain(|end| *end <= applied);
                        entries.truncate(applied);
                        // What survived one loss survives the next.
                        durable = applied;
                    }
                    // The process alone.
                    1 => {
                        drop(machine);
                        machine = disk.open().unwrap();
                        assert_eq!(machine.applied_index() as usize, at, "{name}, seed {seed}");
                    }
                    _ => {}
                }
            }
            apply(&mut *twin, &mut rng, &entries);
            assert_eq!(digest(&mut *machine), digest(&mut *twin), "{name}, seed {seed}");
        }
        assert!(lost > 100 && kept > 100, "{name}: {lost} lost, {kept} kept beyond what was durable");
    }
}

#[test]
fn a_restored_machine_has_the_same_digest_and_goes_on_the_same_way() {
    for (name, disk) in disks() {
        for seed in 0..6 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let entries = history(seed, 300);
            let (first, later) = entries.split_at(200);
            let (mut one_disk, mut other_disk) = (disk(), disk());
            let mut one = one_disk.open().unwrap();
            apply(&mut *one, &mut rng, first);
            let snapshot = snapshot(&mut *one);

            let mut other = other_disk.open().unwrap();
            // Over nothing, or over an older state of it.
            let older = rng.usize(..150);
            apply(&mut *other, &mut rng, &first[..older]);
            assert_eq!(other.restored_from(), None);
            other.restore(&snapshot).unwrap();
            assert_eq!(digest(&mut *other), digest(&mut *one), "{name}, seed {seed}");
            // A restoration is durable.
            drop(other);
            other_disk.lose_power(&mut rng);
            let mut other = other_disk.open().unwrap();
            assert_eq!(other.applied_index(), 200);
            assert_eq!(other.restored_from().as_ref(), Some(&snapshot.meta), "{name}");
            assert_eq!(apply(&mut *other, &mut rng, later), apply(&mut *one, &mut rng, later), "{name}, seed {seed}");
            assert_eq!(digest(&mut *other), digest(&mut *one), "{name}, seed {seed}");
            // It is older now, and changes nothing.
            other.restore(&snapshot).unwrap();
            assert_eq!(other.applied_index(), 302);
            drop(other);
            other_disk.lose_power(&mut rng);
            assert!(other_disk.open().unwrap().applied_index() >= 200);

            for damage in 0..40 {
                let mut bytes = snapshot.data.to_vec();
                if damage % 2 == 0 {
                    bytes.truncate(rng.usize(..bytes.len()));
                } else {
                    let at = rng.usize(..bytes.len());
                    bytes[at] ^= 1 << rng.u8(..8);
                }
                let mut fresh_disk = disk();
                let mut fresh = fresh_disk.open().unwrap();
                assert!(fresh.restore(&Snapshot { data: bytes.into(), ..snapshot.clone() }).is_err(), "{name}");
                assert_eq!(fresh.applied_index(), 0);
            }
        }
    }
}

#[test]
fn the_digest_tells_states_apart_and_not_the_ways_there() {
    let session = |index, body, request| {
        let mut command = command(index, body);
        command.client_id = "c".to_owned();
        command.request_id = request;
        entry(index, &command)
    };
    for (name, disk) in disks() {
        let run = |entries: &[Entry]| {
            let mut disk = disk();
            let mut machine = disk.open().unwrap();
            machine.apply(&prologue()).unwrap();
            machine.apply(entries).unwrap();
            digest(&mut *machine)
        };
        let entries = [entry(3, &command(3, put("a", "1"))), entry(4, &command(4, put("b", "2")))];
        let ab = run(&entries);
        let ba = run(&[entry(3, &command(3, put("b", "2"))), entry(4, &command(4, put("a", "1")))]);
        // The module's rows have ids in the order in which they came, and those are data.
        assert_eq!(ab == ba, name == "plain", "{name}");
        let apart = {
            let mut disk = disk();
            disk.open().unwrap().apply(&prologue()).unwrap();
            for entry in &entries {
                let mut machine = disk.open().unwrap();
                let applied = machine.applied_index();
                let due: Vec<Entry> =
                    prologue().into_iter().chain(entries.clone()).filter(|e| e.index > applied).collect();
                let through = due.iter().position(|e| e.index == entry.index).unwrap();
                machine.apply(&due[..=through]).unwrap();
            }
            digest(&mut *disk.open().unwrap())
        };
        assert_eq!(apart, ab, "{name}: restarts and batches show");
        let others = [
            run(&[entry(3, &command(3, put("a", "1"))), entry(4, &command(4, put("b", "3")))]),
            run(&[entry(3, &command(3, put("a", "2"))), entry(4, &command(4, put("b", "1")))]),
            run(&[entry(3, &command(3, put("a", "1"))), entry(4, &command(4, put("a", "1")))]),
            run(&[session(3, put("a", "1"), 1), entry(4, &command(4, put("b", "2")))]),
            run(&[session(3, put("a", "1"), 2), entry(4, &command(4, put("b", "2")))]),
        ];
        for (i, a) in others.iter().enumerate() {
            assert_ne!(*a, ab, "{name} {i}");
            assert!(!others[..i].contains(a), "{name} {i}");
        }
    }
}

#[test]
fn a_wiped_disk_is_empty() {
    for (name, disk) in disks() {
        let mut disk = disk();
        let mut machine = disk.open().unwrap();
        machine.apply(&prologue()).unwrap();
        machine.make_durable().unwrap();
        drop(machine);
        disk.wipe();
        let mut machine = disk.open().unwrap();
        assert_eq!(machine.applied_index(), 0, "{name}");
        assert_eq!(machine.apply(&prologue()).unwrap().len(), 2, "{name}");
    }
}

#[test]
fn a_gap_is_a_fault_and_old_entries_are_skipped() {
    for (name, disk) in disks() {
        let mut disk = disk();
        let mut machine = disk.open().unwrap();
        let entries = history(1, 20);
        machine.apply(&entries[..10]).unwrap();
        assert_eq!(machine.apply(&entries[..12]).unwrap()[..10], vec![Ok(Bytes::new()); 10], "{name}");
        assert!(machine.apply(&entries[13..]).is_err(), "{name}");
        drop(machine);
        assert_eq!(disk.open().unwrap().applied_index(), 12, "{name}");
    }
}

/// Files hold numbers that SQLite drew by itself; what a loss of power takes must not hang on them.
#[test]
fn the_same_seed_loses_the_same() {
    let run = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let entries = history(seed, 200);
        let mut disk = WasmDisk::new().unwrap();
        let mut machine = disk.open().unwrap();
        let mut applied = Vec::new();
        for _ in 0..12 {
            let at = usize::try_from(machine.applied_index()).unwrap();
            let end = entries.len().min(at + rng.usize(1..40));
            apply(&mut *machine, &mut rng, &entries[at..end]);
            if rng.bool() {
                machine.make_durable().unwrap();
            }
            drop(machine);
            if rng.u8(..4) > 0 {
                disk.lose_power(&mut rng);
            }
            machine = disk.open().unwrap();
            applied.push(machine.applied_index());
        }
        applied
    };
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1), run(2));
}
