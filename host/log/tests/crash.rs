//! Killed at any moment, and out of space: a real child process writes a real log, and the parent looks at what is left.
//!
//! The child is this test binary again, running `child` with the log's folder in an environment variable. It prints a line
//! for everything the log has acknowledged. `kill -9` leaves the page cache to the kernel, so this proves the order of
//! acknowledgements and the recovery, not the fsync; that is the simulator's to prove.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::*;
use telegraft_node::ports::{LogWrite, LogWriter};
use telegraft_raft::{HardState, Index, Storage};

const FOLDER_VARIABLE: &str = "TELEGRAFT_LOG_TEST_CHILD_FOLDER";
const KILLS: u64 = 20;

/// A generator good enough to choose moments and sizes.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Not a test of its own: what the child does. Goes on where the log ends, for ever.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let (reader, mut writer) = open(Path::new(&folder));
    let (mut hard_state, _) = reader.initial_state().unwrap();
    let mut random = 0x9e37_79b9 + reader.last_index() * 31 + hard_state.term;
    println!("\nopened");
    loop {
        let mut first = reader.last_index() + 1;
        // Now and then a new leader replaces what is not committed.
        if next(&mut random).is_multiple_of(8) {
            hard_state = HardState { term: hard_state.term + 1, vote: 0, ..hard_state };
            first = first.saturating_sub(next(&mut random) % 5).max(hard_state.commit + 1);
        }
        let last = first + next(&mut random) % 20;
        let bytes = 1 << (next(&mut random) % 13);
        let written = (first..=last).map(|index| entry_of(index, hard_state.term, bytes)).collect();
        let commit = last.saturating_sub(next(&mut random) % 10).max(hard_state.commit);
        hard_state = HardState { vote: 3, commit, ..hard_state };
        // The acknowledgement of what follows counts from here: entries that it replaces are no longer promised.
        println!("replaces {first}");
        if let Err(fault) = writer.write(&[write(written, hard_state)]) {
            let again = writer.write(&[]).expect_err("a log that failed goes on");
            println!("failed {fault}\nrefused {again}");
            return;
        }
        println!("written {last} {} {commit}", hard_state.term);
        if next(&mut random).is_multiple_of(16) {
            writer.compact(commit.saturating_sub(40)).unwrap();
        }
    }
}

fn start_child(folder: &Path, under: &[&str]) -> Child {
    let binary = std::env::current_exe().unwrap();
    let mut command = match under {
        [] => Command::new(&binary),
        [shell, rest @ ..] => {
            let mut command = Command::new(shell);
            command.args(rest).arg(&binary);
            command
        }
    };
    command
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER_VARIABLE, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts")
}

/// What the child was promised.
#[derive(Debug, Default)]
struct Promised {
    last: Index,
    term: u64,
    commit: Index,
}

fn follow(line: &str, promised: &mut Promised) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["replaces", first] => promised.last = promised.last.min(first.parse::<Index>().unwrap() - 1),
        ["written", last, term, commit] => {
            *promised =
                Promised { last: last.parse().unwrap(), term: term.parse().unwrap(), commit: commit.parse().unwrap() };
        }
        _ => return false,
    }
    true
}

fn verify(folder: &Path, promised: &Promised) {
    let (reader, _writer) = open(folder);
    let (hard_state, _) = reader.initial_state().unwrap();
    assert!(reader.last_index() >= promised.last, "{promised:?}, but the log ends at {}", reader.last_index());
    assert!(hard_state.term >= promised.term && hard_state.commit >= promised.commit, "{hard_state:?} {promised:?}");
    assert!(promised.term == 0 || hard_state.vote == 3);
    let mut previous = (reader.first_index() - 1, 0);
    for entry in all(&reader) {
        assert_eq!(entry.index, previous.0 + 1);
        assert!(entry.term >= previous.1);
        assert_eq!(entry, entry_of(entry.index, entry.term, entry.data.len()));
        previous = (entry.index, entry.term);
    }
    assert_eq!(previous.0, reader.last_index());
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut promised = Promised::default();
    let mut random = 0x5eed_1234_u64;
    let mut acknowledged = 0;
    for _ in 0..KILLS {
        let mut child = start_child(&log, &[]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // From before it is open to well into its writing.
        let life = Duration::from_micros(next(&mut random) % 120_000);
        let begun = Instant::now();
        while begun.elapsed() < life {
            let Some(Ok(line)) = lines.next() else { panic!("the child ended by itself") };
            acknowledged += u64::from(follow(&line, &mut promised));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            // The last line may be cut short by the kill; the pipe gives whole ones first.
            acknowledged += u64::from(follow(&line, &mut promised));
        }
        verify(&log, &promised);
    }
    assert!(acknowledged > KILLS, "the children wrote next to nothing ({acknowledged})");
}

#[test]
fn a_disk_that_takes_no_more_poisons_the_log_and_costs_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // Files of at most 64 blocks (32 or 64 KiB, as the shell counts); the write beyond fails instead of killing.
    let child = start_child(&log, &["sh", "-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""]);
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut promised = Promised::default();
    for line in printed.lines() {
        follow(line, &mut promised);
    }
    assert!(promised.last > 0, "nothing was written at all:\n{printed}");
    let line_of = |word: &str| printed.lines().find(|line| line.starts_with(word)).unwrap_or_default();
    assert!(line_of("failed").contains("could not be made durable: IO error"), "{printed}");
    assert!(line_of("refused").contains("failed before and accepts nothing more"), "{printed}");
    verify(&log, &promised);
}

#[test]
fn the_log_is_one_process_own() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut child = start_child(&log, &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "opened"));
    let error = telegraft_log::open(&log, GROUP, small()).err().expect("opened twice");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(error, telegraft_log::OpenError::Locked { .. }), "{error}");
    verify(&log, &Promised::default());
}

#[test]
fn a_write_that_was_not_synced_survives_a_clean_end() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let (_, mut writer) = open(&log);
    writer.write(&[write(entries(1..=3, 1), hard(1, 3, 0))]).unwrap();
    writer.write(&[LogWrite { hard_state: Some(hard(1, 3, 2)), ..LogWrite::default() }]).unwrap();
    drop(writer);
    assert_eq!(open(&log).0.initial_state().unwrap().0, hard(1, 3, 2));
}
