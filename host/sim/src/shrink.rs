//! Fewer faults, the same broken rule: delta debugging (Zeller and Hildebrandt, IEEE TSE 2002) over the numbers of the
//! plan's faults.

use crate::run::{Report, Run};

/// Runs that shrinking may take.
const RUNS_MAX: usize = 400;

/// The smallest failing run found, starting from one that fails.
///
/// # Errors
/// As [`Run::report`].
pub fn shrink(failed: Report, mut progress: impl FnMut(usize, usize)) -> anyhow::Result<Report> {
    let Some(checker) = failed.violation.as_ref().map(|violation| violation.checker) else { return Ok(failed) };
    let mut kept: Vec<usize> = match &failed.run.keep {
        Some(keep) => keep.clone(),
        None => (0..failed.run.plan().len()).collect(),
    };
    let mut best = failed;
    let (mut runs, mut piece) = (0, kept.len().div_ceil(2));
    while piece > 0 && runs < RUNS_MAX {
        let mut smaller = false;
        let mut at = 0;
        while at < kept.len() && runs < RUNS_MAX {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + piece).min(kept.len()));
            let run = Run { keep: Some(fewer.clone()), trace: false, ..best.run.clone() };
            let report = run.report()?;
            runs += 1;
            progress(runs, kept.len());
            if report.violation.as_ref().is_some_and(|violation| violation.checker == checker) {
                kept = fewer;
                best = report;
                smaller = true;
            } else {
                at += piece;
            }
        }
        if !smaller {
            piece /= 2;
        } else {
            piece = piece.min(kept.len().div_ceil(2));
        }
    }
    Ok(best)
}
