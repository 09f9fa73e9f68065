//! The batch's entries once more, after one of them cost the transaction: they must come to what they came to before.
//!
//! Under reuse they may not, since a reused instance begins anew with the replay: a module that keeps something in memory
//! shows here. What it remembered was no state, so then nothing of the transaction counts; it is begun a second time, with
//! a fresh instance for every entry through the one that cost it, as if nothing were reused, and is committed there. The
//! lie is reported, and reuse ends through the log. Replicas whose batches lie otherwise may never replay these entries; with
//! an honest module they come to the same, and of one that lies audits and digests tell ([`crate::audit`]).
//!
//! # How often an entry can run
//!
//! Five times, besides its audit and a fresh run in the place of a reused one that died, whatever a module does: (1) as it comes; (2) where a reused instance cost the transaction
//! later on, in the replay before a fresh one says whether that entry does; (3) where it does, in the replay before that is
//! recorded; (4) by a fresh instance, where one of these replays came to something else; (5) where a fresh one cost the
//! transaction after that, in a last replay. Fresh instances must come to the same each time, or the host is at fault. Each of
//! these ways ends with a commit no earlier than at the entry that cost the transaction, so none begins again from
//! there.

use telegraft_node::ports::{MachineFault, Outcome};
use telegraft_raft::{Entry, Index};

use crate::{
    apply::{Applied, SqliteMachine},
    entry::Decoded,
};

impl SqliteMachine {
    /// The transaction is gone, by the entry `through`: applies `again`, which came before it, once more in a new one. False
    /// where a reused instance came to something else than the `first` time: then the new one is empty, and `again` is to
    /// be applied anew, by fresh instances.
    pub(crate) fn replay(&mut self, again: &[Entry], first: &[Outcome], through: Index) -> Result<bool, MachineFault> {
        tracing::info!(index = through, again = again.len(), "an entry cost the transaction; applying the batch again");
        self.begin_anew()?;
        for (entry, first) in again.iter().zip(first) {
            // As of before the entry, which may be an activation.
            let reused = self.now.active.clone().filter(|_| self.reuses(entry.index));
            match (self.apply_entry(entry, &Decoded::of(entry), None)?, reused) {
                (Applied::Done(second), _) if second == *first => (),
                (_, Some(active)) => {
                    self.report_reuse(&active, entry.index);
                    self.fresh_through = through;
                    self.begin_anew()?;
                    return Ok(false);
                }
                (_, None) => {
                    return Err(MachineFault(format!(
                        "entry {} gave another outcome when it was applied again: the module or this host is not \
                         deterministic",
                        entry.index
                    )));
                }
            }
        }
        Ok(true)
    }

    /// Begins the transaction once more, at the state of the last commit.
    fn begin_anew(&mut self) -> Result<(), MachineFault> {
        if !self.conn()?.is_autocommit() {
            self.execute("ROLLBACK -- _telegraft_")?;
        }
        self.now = self.committed.clone();
        self.instance = None;
        self.completed.clear();
        self.asked.clear();
        self.alarmed = false;
        self.sessions.forget_from(self.now.meta.applied + 1);
        self.database()?.after_undo(true)?;
        self.execute("BEGIN IMMEDIATE -- _telegraft_")
    }
}
