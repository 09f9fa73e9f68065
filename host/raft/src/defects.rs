//! Known bugs, one at a time, put back for the simulator to find: a checker that never failed proves nothing.
//!
//! Without the feature `defects` (never on in what is shipped) [`active`] is the constant `false`, and the compiler removes
//! what stands behind it. With it, a thread chooses one by [`choose`]. The simulator's table
//! (`host/sim/src/defects.rs`) has their numbers and stories; the name says what is broken.

/// A bug to put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each stands beside the code it breaks, and in the simulator's table with its story")]
pub enum Defect {
    CommitByCountingEarlierTerms,
    ChangesWithoutWaiting,
    TermWrittenWithoutVote,
    AcknowledgedBeforeSync,
    AloneCommitsBeforeSync,
    ReadBeforeCommitInTerm,
    ReadRoundsReused,
    ReadCommitsUnmatched,
    LeaseSurvivesTransfer,
    HeartbeatCommitUnbounded,
    AutoLeaveForgotten,
    JointLeftOnRestart,
    ConfigurationNotRolledBack,
    CampaignsWithUnappliedChange,
    LearnerRefusesVote,
    RemovedLeaderCountsItself,
    MembershipOrderConfusesQuorum,
    OverwrittenAppendAcknowledged,
    StuckInProbeAfterSnapshot,
    WindowNeverFreed,
    NextBelowMatch,
    SnapshotsOvertakeEachOther,
    InstallationAborted,
    LastTermZeroWhenCompacted,
    NewestSnapshotRemoved,
    TermResetByRestore,
    LogBehindSnapshot,
    AppliedIndexApart,
    SyncRetried,
    CorruptionTakenForTornTail,
    TornWriteAccepted,
    FullDiskIgnored,
    RepeatedVoteDenied,
    NoPreVote,
    CheckQuorumSilence,
    LeaseIgnoresPauses,
    TransferNeverTimesOut,
    RejectionAdvancesCommit,
    SnapshotBlocksChange,
    RetryAppliedTwice,
    SessionExpiryByClock,
    NondeterministicGuest,
    AskedBeforeDurable,
    AloneReadsEarly,
    SnapshotOfStaleTerm,
}

#[cfg(feature = "defects")]
mod chosen {
    use super::Defect;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// Puts a bug back on this thread, or takes it out again.
    pub fn choose(defect: Option<Defect>) {
        CHOSEN.set(defect);
    }

    /// Whether this bug is in.
    #[inline]
    pub fn active(defect: Defect) -> bool {
        CHOSEN.get() == Some(defect)
    }
}

#[cfg(feature = "defects")]
pub use chosen::{active, choose};

/// Whether this bug is in: never, in this build.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub const fn active(_: Defect) -> bool {
    false
}
