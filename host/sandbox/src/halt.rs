//! Where a machine stands still rather than carry an entry out: what this host alone cannot do, it must neither guess nor
//! refuse alone. Asked before an entry is begun, so nothing is half done; the host goes on from there when it is started
//! again and its cause is gone.

use telegraft_node::ports::MachineFault;
use telegraft_proto::internal::{Activate, command::Body, rollback::Way};

use crate::{
    administer::leaves,
    apply::SqliteMachine,
    catalog,
    guest::Ended,
    kept,
    module::{BadModule, Digest},
    reader::other_engine,
};

impl SqliteMachine {
    /// Why the machine must stand still at this entry: carrying it out here would be a guess.
    pub(crate) fn halts_at(&self, body: &Body) -> Result<Option<String>, MachineFault> {
        let own = self.sandbox.engine_name();
        let differs = |engine: &str| {
            (!engine.is_empty() && engine != own).then(|| {
                format!(
                    "the next entry activates a module for the engine [{engine}], and this host has [{own}]: it does not \
                     guess. Run the version of Telegraft with that engine here"
                )
            })
        };
        match body {
            Body::Call(_) => {
                Ok(self.now.active.as_ref().and_then(|active| other_engine(&active.record, own)).map(|r| r.message))
            }
            Body::Activate(activate) => match differs(&activate.engine) {
                Some(why) => Ok(Some(why)),
                None => match self.cannot_prepare(&activate.digest)? {
                    Some(why) => Ok(Some(why)),
                    None => self.lacks_room(activate),
                },
            },
            Body::Rollback(rollback) => {
                if let Some(why) = differs(&rollback.engine) {
                    return Ok(Some(why));
                }
                let refused = self.now.active.as_ref().is_some_and(|active| !leaves(rollback, active));
                if rollback.way() == Way::KeptState
                    && !refused
                    && let Some(top) = self.activations()?.first()
                    && top.kept
                    && !kept::is_sound(&self.dir, top.at)
                {
                    return Ok(Some(format!(
                        "the next entry puts the state kept at index {} back, and this host does not have it, or not whole: stop it, move \
                         machine.db, machine.db-wal and machine.db-shm away and start it again; the state is rebuilt from \
                         the log",
                        top.at
                    )));
                }
                self.cannot_prepare(&rollback.digest)
            }
            _ => Ok(None),
        }
    }

    /// Why this host, alone, cannot run a module whose bytes are here.
    fn cannot_prepare(&self, digest: &[u8]) -> Result<Option<String>, MachineFault> {
        let Ok(digest) = Digest::try_from(digest) else {
            return Ok(None);
        };
        let conn = self.conn()?;
        if catalog::module(conn, &digest)?.is_none() {
            return Ok(None);
        }
        Ok(match self.sandbox.prepare(&digest, || catalog::bytes(conn, &digest))? {
            Err(bad @ BadModule::NotChecked(_)) => Some(format!(
                "module {digest} cannot be activated here, though its bytes are sound: {bad}. Is this host out of memory? \
                 Start it again"
            )),
            _ => None,
        })
    }

    /// Why this host, alone or not, has no room for the state that is kept at this activation, which is the next entry.
    fn lacks_room(&self, activate: &Activate) -> Result<Option<String>, MachineFault> {
        if self.now.active.is_none() {
            return Ok(None);
        }
        let at = self.now.meta.applied + 1;
        let conn = self.conn()?;
        let needed = kept::space_needed(conn, &self.dir, at)?;
        let free = match self.sandbox.free_bytes(&self.dir) {
            Ok(free) => free,
            Err(error) => {
                // It shows when it is written.
                tracing::warn!(dir = %self.dir.display(), %error, "the free disk space cannot be asked for");
                return Ok(None);
            }
        };
        if free >= needed {
            return Ok(None);
        }
        // Only now, since it asks the module: what is refused, or leaves the data's layout, keeps nothing.
        let active = match self.ready(at, &activate.digest, activate.reuse, String::new(), self.limits()) {
            Ok(active) => active,
            Err(Ended::Rejected(_)) => return Ok(None),
            Err(Ended::Fault(fault)) => return Err(fault),
        };
        let last = catalog::layout(conn, &active.record.name)?;
        Ok(last.is_none_or(|last| last < active.record.schema).then(|| {
            format!(
                "the next entry, {at}, activates module {}, which changes the data layout, and the state before it is kept for \
                 a rollback. That needs {} MiB of free disk space in {}, and there are {}. Nothing was changed: make room \
                 and start this host again, and it goes on with that entry",
                active.label,
                needed.div_ceil(1 << 20),
                self.dir.display(),
                free >> 20
            )
        }))
    }
}
