//! The audit of reused instances: some entries, chosen by their index, are run twice: by the reused instance, whose effects
//! are undone and only compared, and by a fresh one, whose effects count. So what such an entry does is the same on every
//! replica whatever the reused instance remembers; where the two differ, the machine asks for reuse to be ended, through
//! the log.

use bytes::Bytes;
use telegraft_node::ports::{MachineFault, Outcome};
use telegraft_proto::internal::{EndReuse, command::Body};
use telegraft_raft::Index;

use crate::{
    apply::SqliteMachine,
    database::fault,
    effects::{EffectDigest, hash_schema},
    guest::{Ask, Ended},
    store::database_lost,
};

/// What the run of an entry on the reused instance gave.
pub(crate) enum Audit {
    /// There was none to be.
    None,
    /// The digest of its effects, which are undone; none where no instance was there to be compared. A fresh one is to run.
    Ran(Option<EffectDigest>),
    /// The transaction is gone.
    Lost,
}

/// Whether a reused instance is compared with a fresh one at this entry: one of 64, spread so that no rhythm of requests
/// evades it.
fn is_audited(index: Index) -> bool {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58 == 0
}

impl SqliteMachine {
    /// Where this entry is one of those that are run twice: runs it on the reused instance, if there is one, and undoes it.
    pub(crate) fn audit(&mut self, index: Index, ask: &Ask<'_>) -> Result<Audit, MachineFault> {
        let reuse = self.now.active.as_ref().is_some_and(|active| active.reuse);
        if !reuse || !is_audited(index) {
            return Ok(Audit::None);
        }
        if self.instance.is_none() || self.unaudited.contains(&index) {
            // A replica that began anew has nothing to compare; the entry's own effects must be a fresh instance's all the
            // same.
            return Ok(Audit::Ran(None));
        }
        let digest = match self.call(ask, true) {
            Err(Ended::Fault(fault)) => return Err(fault),
            Err(Ended::Rejected(rejection)) => self.effects_so_far(&Err(rejection))?,
            Ok(reply) => self.effects_so_far(&Ok(reply))?,
        };
        if !self.undo()? {
            self.unaudited.insert(index);
            return Ok(Audit::Lost);
        }
        self.execute("SAVEPOINT _telegraft_entry")?;
        Ok(Audit::Ran(Some(digest)))
    }

    pub(crate) fn compare(
        &mut self,
        index: Index,
        reused: Option<EffectDigest>,
        result: &Result<Bytes, Ended>,
    ) -> Result<(), MachineFault> {
        let fresh = match result {
            Ok(reply) => self.effects_so_far(&Ok(reply.clone()))?,
            Err(Ended::Rejected(rejection)) => self.effects_so_far(&Err(rejection.clone()))?,
            Err(Ended::Fault(_)) => return Ok(()),
        };
        if reused.is_some_and(|reused| reused != fresh) || self.unaudited.contains(&index) {
            self.report_reuse(index);
        }
        Ok(())
    }

    /// Asks for reuse to be ended: at this entry a reused instance did something else than a fresh one.
    pub(crate) fn report_reuse(&mut self, index: Index) {
        let Some(active) = self.now.active.as_ref().filter(|active| active.reuse) else {
            return;
        };
        tracing::warn!(index, module = &*active.label, "a reused instance did something else than a fresh one");
        let digest = Bytes::copy_from_slice(&active.record.digest.0);
        self.instance = None;
        self.ask_for(Body::EndReuse(EndReuse { digest, index }));
    }

    /// The digest of what the open entry has done.
    fn effects_so_far(&self, outcome: &Outcome) -> Result<EffectDigest, MachineFault> {
        let database = self.database.as_ref().ok_or_else(database_lost)?;
        let gone = database.host().is_autocommit();
        let schema = |hasher: &mut blake3::Hasher| if gone { Ok(()) } else { hash_schema(database.host(), hasher) };
        let digest = database.effects().digest(&[0; 32], 0, outcome, schema);
        digest.map_err(|e| fault("cannot read the schema", &e))
    }
}
