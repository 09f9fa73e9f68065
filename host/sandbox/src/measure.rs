//! What calls take and change, for whoever wants to know: trials and benchmarks.

use std::collections::BTreeMap;

use telegraft_raft::Index;

use crate::{apply::SqliteMachine, effects::TableChanges, guest::Cost};

impl SqliteMachine {
    /// Keeps what calls take, and which rows they change, from here on, or no longer.
    pub fn measure(&mut self, on: bool) {
        self.costs = on.then(Vec::new);
        if let Some(database) = &self.database {
            database.effects().count_tables(on);
        }
    }

    /// What the calls since this was last asked took, by the index of their entry; a call that was run twice is there
    /// twice. Empty unless [measured](SqliteMachine::measure).
    pub fn take_costs(&mut self) -> Vec<(Index, Cost)> {
        self.costs.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The rows that calls have changed since this was last asked, undone ones too, by table.
    pub fn take_table_changes(&mut self) -> BTreeMap<String, TableChanges> {
        self.database.as_ref().map(|database| database.effects().take_tables()).unwrap_or_default()
    }

    /// Leaves the digest of effects out, so that a benchmark can tell what it costs. The logical size of the data is not kept
    /// either: such a machine is good for nothing else.
    #[doc(hidden)]
    pub fn without_effect_digest(&mut self) {
        self.undigested = true;
        if let Some(database) = &self.database {
            database.effects().see_nothing();
        }
    }
}
