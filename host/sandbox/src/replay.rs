//! The batch's entries once more, after one of them cost the transaction: they must come to what they came to before.

use std::collections::BTreeMap;

use telegraft_node::ports::{MachineFault, Outcome};
use telegraft_raft::Entry;

use crate::{
    apply::{Applied, SqliteMachine},
    entry::Decoded,
};

impl SqliteMachine {
    /// The transaction is gone: applies `again` once more in a new one.
    pub(crate) fn replay(&mut self, again: &[Entry], first: &mut [Outcome]) -> Result<(), MachineFault> {
        // A reused instance begins anew, and what it remembered before was no state: what an entry gives now counts, also
        // that it costs the transaction.
        let mut lost = BTreeMap::new();
        let mut differing = None;
        'anew: loop {
            tracing::info!(
                index = self.committed.meta.applied + 1 + again.len() as u64,
                again = again.len(),
                "an entry cost the transaction; applying the batch again"
            );
            self.now = self.committed.clone();
            self.instance = None;
            self.completed.clear();
            self.asked.clear();
            self.alarmed = false;
            self.sessions.forget_from(self.now.meta.applied + 1);
            self.database()?.after_undo(true)?;
            self.execute("BEGIN IMMEDIATE -- _telegraft_")?;
            for (entry, first) in again.iter().zip(first.iter_mut()) {
                let reuse = self.now.active.as_ref().is_some_and(|active| active.reuse);
                match self.apply_entry(entry, &Decoded::of(entry), lost.get(&entry.index))? {
                    Applied::Done(second) if second == *first => (),
                    Applied::Done(second) if reuse => {
                        *first = second;
                        differing.get_or_insert(entry.index);
                    }
                    Applied::Lost(rejection) if reuse => {
                        lost.insert(entry.index, rejection);
                        continue 'anew;
                    }
                    Applied::AuditLost if reuse => continue 'anew,
                    _ => {
                        return Err(MachineFault(format!(
                            "entry {} gave another outcome when it was applied again: the module or this host is not \
                             deterministic",
                            entry.index
                        )));
                    }
                }
            }
            break;
        }
        if let Some(index) = differing {
            self.report_reuse(index);
        }
        Ok(())
    }
}
