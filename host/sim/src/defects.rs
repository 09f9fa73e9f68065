//! The known bugs that can be put back: the table of bug classes that real systems shipped, with what is broken here and
//! in which world it is looked for. A checker that never failed proves nothing.

use telegraft_raft::defects::Defect;

use crate::settings::MachineKind;

/// A bug class, and the bug that stands for it.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// Its number in the table.
    pub number: u32,
    /// What went wrong, and where it was seen.
    pub name: &'static str,
    /// What is broken to bring it back.
    pub defect: Defect,
    /// The machine in whose worlds it is looked for.
    pub machine: MachineKind,
    /// Voters of these worlds; 0: the seed decides.
    pub voters: u64,
}

const fn class(number: u32, name: &'static str, defect: Defect) -> Class {
    Class { number, name, defect, machine: MachineKind::Plain, voters: 0 }
}

const fn wasm(class: Class) -> Class {
    Class { machine: MachineKind::Wasm, ..class }
}

const fn of(voters: u64, class: Class) -> Class {
    Class { voters, ..class }
}

/// Bugs of our own that the simulator found, numbered from 101: put back, they must be found again.
pub const FOUND_HERE: &[Class] = &[
    class(
        101,
        "a candidate asks before its own vote is durable, and forgets that it asked",
        Defect::AskedBeforeDurable,
    ),
    of(
        1,
        class(
            102,
            "a single voter answers reads by the commit index it had before its restart",
            Defect::AloneReadsEarly,
        ),
    ),
    class(
        104,
        "a snapshot carries the term of an entry that its log has yet to overwrite",
        Defect::SnapshotOfStaleTerm,
    ),
    class(103, "a stale leader is left alone by a node without pre-vote and check-quorum", Defect::CheckQuorumSilence),
];

/// The class whose bug has this name.
pub fn named(name: &str) -> Option<&'static Class> {
    CLASSES.iter().chain(FOUND_HERE).find(|class| format!("{:?}", class.defect) == name)
}

/// All classes, in the order of their numbers.
pub const CLASSES: &[Class] = &[
    class(1, "an entry of an earlier term committed by counting (logcabin#44)", Defect::CommitByCountingEarlierTerms),
    class(2, "a change while another is uncommitted (Ongaro, raft-dev)", Defect::ChangesWithoutWaiting),
    class(3, "term and vote not written together (hashicorp/raft#661)", Defect::TermWrittenWithoutVote),
    class(4, "acknowledged before fsync (NATS 2.12.1, etcd#14143)", Defect::AcknowledgedBeforeSync),
    of(
        1,
        class(5, "a single node acknowledges before its log is durable (etcd#14370)", Defect::AloneCommitsBeforeSync),
    ),
    class(6, "read index served before a commit in the leader's own term (etcd#7331)", Defect::ReadBeforeCommitInTerm),
    class(7, "read-index context reused, late heartbeats (etcd#20418)", Defect::ReadRoundsReused),
    class(8, "read barrier commits an unmatched log (scylladb#10578)", Defect::ReadCommitsUnmatched),
    class(9, "stale read after a leadership transfer (tikv#9239)", Defect::LeaseSurvivesTransfer),
    class(10, "heartbeat commit beyond the last index (tikv#528)", Defect::HeartbeatCommitUnbounded),
    class(11, "auto-leave of a joint configuration lost with its leader (etcd#12136)", Defect::AutoLeaveForgotten),
    class(12, "joint state left too early after recovery (camunda#61854)", Defect::JointLeftOnRestart),
    class(
        13,
        "an uncommitted or later configuration in a snapshot (canonical/raft#354)",
        Defect::ConfigurationNotRolledBack,
    ),
    class(14, "campaigning with an unapplied configuration change (raft-rs#221)", Defect::CampaignsWithUnappliedChange),
    class(15, "a learner refuses a vote that is needed (etcd#10998)", Defect::LearnerRefusesVote),
    class(16, "a removed leader counts itself", Defect::RemovedLeaderCountsItself),
    class(17, "replica ordering breaks the quorum count (openraft#1802)", Defect::MembershipOrderConfusesQuorum),
    class(18, "late acknowledgement of an overwritten append (ABA)", Defect::OverwrittenAppendAcknowledged),
    class(19, "follower stuck in probe after a snapshot (etcd#10308)", Defect::StuckInProbeAfterSnapshot),
    class(20, "in-flight window never freed (etcd#14633)", Defect::WindowNeverFreed),
    class(21, "next index below match index (etcd-io/raft#149)", Defect::NextBelowMatch),
    class(22, "two snapshots close together (etcd#18055)", Defect::SnapshotsOvertakeEachOther),
    class(23, "aborted snapshot installation (tikv#11618)", Defect::InstallationAborted),
    class(
        24,
        "last log term 0 when the log is compacted to its tip (RedisLabs/raft#2)",
        Defect::LastTermZeroWhenCompacted,
    ),
    class(25, "the newest snapshot removed (hashicorp/raft#395)", Defect::NewestSnapshotRemoved),
    class(26, "term reset by a restore (camunda#14509)", Defect::TermResetByRestore),
    class(27, "log behind the snapshot at start (RaftKeeper#312)", Defect::LogBehindSnapshot),
    wasm(class(28, "applied index not atomic with the data (etcd#13766, etcd#14685)", Defect::AppliedIndexApart)),
    class(29, "fsync failed, then retried (USENIX ATC'20)", Defect::SyncRetried),
    class(30, "corruption taken for a torn tail (FAST'18, NATS)", Defect::CorruptionTakenForTornTail),
    class(31, "torn write at the log's end accepted", Defect::TornWriteAccepted),
    class(32, "disk full in the middle of an append", Defect::FullDiskIgnored),
    class(33, "repeated vote request denied", Defect::RepeatedVoteDenied),
    class(34, "livelock under partial connectivity", Defect::NoPreVote),
    class(35, "pre-vote and check-quorum leave a node stuck", Defect::CheckQuorumSilence),
    class(36, "lease with clock drift or a pause", Defect::LeaseIgnoresPauses),
    class(37, "a transfer never times out", Defect::TransferNeverTimesOut),
    class(38, "a rejection advances the commit index", Defect::RejectionAdvancesCommit),
    class(39, "a snapshot in flight blocks a configuration change (tikv#17213)", Defect::SnapshotBlocksChange),
    wasm(class(40, "a retry applied twice (etcd#18424)", Defect::RetryAppliedTwice)),
    wasm(class(41, "session expiry decided outside the log", Defect::SessionExpiryByClock)),
    wasm(class(42, "a nondeterministic guest", Defect::NondeterministicGuest)),
];
