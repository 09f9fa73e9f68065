//! The host's part in comparing the replicas while they run. The leader proposes a checkpoint now and then; each host's
//! machine answers with the digest of its effects up to there, through the log as well; and each machine finds, at the same
//! index, whether it is one of the majority. One that is not halts (see [`Machine::halted`]).
//!
//! Owned here: when a checkpoint is due, and the way of what a machine asks to be proposed. What a host does whose machine
//! has halted stands in `threads`, `submit`, `reads` and `transfer`.
//!
//! A cluster in which nothing happens stays silent: checkpoints, and the answers to them, are no reason for another one.
//!
//! [`Machine::halted`]: telegraft_node::ports::Machine::halted

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use telegraft_proto::internal::{Checkpoint, Command, command::Body};
use telegraft_raft::Index;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tonic::Code;

use super::{shared::Shared, submit::Writes};

/// Proposals of the machine's that may wait; further ones are lost.
pub const PROPOSALS_MAX: usize = 64;
/// Entries after which a checkpoint is due whatever the time: replaying them to find a difference takes seconds.
const ENTRIES_BETWEEN_MAX: u64 = 65_536;
/// Longest and shortest time between two looks at whether one is due.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// How often the machine's wish is proposed before it is given up, and the pause between.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// Proposes checkpoints while this host leads, for as long as it lives.
pub async fn propose_checkpoints(shared: Arc<Shared>, writes: Writes) {
    let interval = shared.settings.machine.digest_interval;
    // The log's configuration is that of the settings, see `start`.
    let voters = shared.settings.hosts.len();
    // One replica has none to be compared with.
    if interval.is_zero() || voters < 2 {
        return;
    }
    let voters = u32::try_from(voters).unwrap_or(u32::MAX);
    let mut look = tokio::time::interval((interval / 4).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Another leader's count as well: what matters is when the newest one was applied.
    let (mut newest, mut since) = (0, Instant::now());
    loop {
        look.tick().await;
        let positions = &shared.positions;
        let (work, checkpoint) = (positions.work.load(Relaxed), positions.checkpoint.load(Relaxed));
        if checkpoint != newest {
            (newest, since) = (checkpoint, Instant::now());
        }
        if !is_due(work, checkpoint, since.elapsed(), interval) || !shared.leads() || shared.halted().is_some() {
            continue;
        }
        since = Instant::now();
        let command = Command { body: Some(Body::Checkpoint(Checkpoint { voters })), ..Command::default() };
        // Where it fails, the next one will do.
        if let Some(Err(status)) = writes.submit_here(command, writes.deadline(None)).await {
            tracing::debug!(%status, "a checkpoint was not proposed");
        }
    }
}

/// Whether something happened since the newest checkpoint, and long enough or much enough ago.
fn is_due(work: Index, checkpoint: Index, since: Duration, interval: Duration) -> bool {
    work > checkpoint && (since >= interval || work - checkpoint >= ENTRIES_BETWEEN_MAX)
}

/// Proposes what the machine asks for, wherever the leader is, for as long as the host lives.
pub async fn carry_proposals(shared: Arc<Shared>, writes: Writes, mut proposals: mpsc::Receiver<Bytes>) {
    while let Some(first) = proposals.recv().await {
        let mut waiting = vec![first];
        while let Ok(more) = proposals.try_recv() {
            waiting.push(more);
        }
        for command in worth_proposing(waiting, shared.id()) {
            propose(&writes, command).await;
        }
    }
}

/// Of the answers to checkpoints the newest alone (a host that catches up has one for each it comes by), and all else. The
/// machine does not know its host's id.
fn worth_proposing(proposals: Vec<Bytes>, host_id: u64) -> Vec<Command> {
    let (mut others, mut newest): (Vec<Command>, Option<Command>) = (Vec::new(), None);
    for data in proposals {
        let mut command = match Command::decode(data) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%error, "the machine asked to propose what is no command");
                continue;
            }
        };
        match &mut command.body {
            Some(Body::DigestReport(report)) => {
                report.host_id = host_id;
                newest = Some(command);
            }
            _ => others.push(command),
        }
    }
    others.extend(newest);
    others
}

async fn propose(writes: &Writes, command: Command) {
    for attempt in 1..=ATTEMPTS {
        match writes.submit(command.clone(), writes.deadline(None)).await {
            Ok(_) => return,
            // Nobody leads, too much is under way, or it is not known: it may be proposed twice.
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) =>
            {
                tracing::debug!(%status, attempt, "what the machine asked for was not proposed");
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => {
                tracing::warn!(%status, "what the machine asked for was refused");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use telegraft_proto::internal::{DigestReport, EndReuse};

    use super::*;

    #[test]
    fn a_checkpoint_is_due_after_work_and_time_or_after_much_work() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(10));
        assert!(!is_due(0, 0, long, long), "nothing has happened yet");
        assert!(!is_due(7, 9, long * 2, long), "nothing has happened since");
        assert!(is_due(10, 9, long, long));
        assert!(!is_due(10, 9, short, long));
        assert!(is_due(9 + ENTRIES_BETWEEN_MAX, 9, short, long));
    }

    #[test]
    fn of_the_answers_to_checkpoints_the_newest_goes_with_the_hosts_id() {
        let report = |index| Body::DigestReport(DigestReport { index, ..DigestReport::default() });
        let end = Body::EndReuse(EndReuse { index: 3, ..EndReuse::default() });
        let encoded = |body| Bytes::from(Command { body: Some(body), ..Command::default() }.encode_to_vec());
        let asked = vec![encoded(report(5)), encoded(end.clone()), Bytes::from_static(b"\xff"), encoded(report(9))];
        let bodies: Vec<_> = worth_proposing(asked, 2).into_iter().filter_map(|command| command.body).collect();
        let stamped = DigestReport { index: 9, host_id: 2, ..DigestReport::default() };
        assert_eq!(bodies, [end, Body::DigestReport(stamped)]);
    }
}
