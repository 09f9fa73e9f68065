//! The dry run: an activation on a copy of the live state.

use std::time::{Duration, Instant};

use telegraft_raft::Index;

use super::{
    Activation, Candidate, Trial, TrialError, TrialFolder, candidate,
    copy::{self, open_trial},
};
use crate::module::Inspection;

/// What an activation would do.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// What the module is.
    pub inspection: Inspection,
    /// What the activation did to the copy.
    pub activation: Activation,
    /// The state it was tried on.
    pub index: Index,
    /// Bytes of the state's file.
    pub database_bytes: u64,
    /// How long copying took. For so long the live state's write-ahead log could only grow.
    pub copy_time: Duration,
    /// How long inspection took, compilation above all; next to nothing where the module was compiled before.
    pub compile_time: Duration,
}

impl Trial<'_> {
    /// Tries an activation on a copy of the live state, in a folder of its own.
    ///
    /// # Errors
    ///
    /// Where there is no report. That the activation would be refused is part of the report.
    pub fn dry_run(&self, candidate: &Candidate) -> Result<DryRun, TrialError> {
        let _span = tracing::info_span!("trial").entered();
        let begun = Instant::now();
        let inspection = self.sandbox.inspect(&candidate.bytes)?;
        let compile_time = begun.elapsed();
        // Dropped after the machine that lies in it.
        let folder = TrialFolder::new(self.folder)?;
        let copied = copy::live(self.live, folder.path(), self.stop)?;
        let mut machine = open_trial(self.sandbox, folder.path())?;
        super::give_up_if(self.stop)?;
        let activation = candidate::activate(&mut machine, candidate, &inspection, candidate.time_us, None)?;
        Ok(DryRun {
            inspection,
            activation,
            index: copied.index,
            database_bytes: copied.bytes,
            copy_time: copied.time,
            compile_time,
        })
    }
}
