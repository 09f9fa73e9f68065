//! The audit of reused instances: some entries, chosen by their index, are run twice: by the reused instance, whose effects
//! are undone and only compared, and by a fresh one, whose effects count. So what such an entry does is the same on every
//! replica whatever the reused instance remembers; where the two differ, the machine asks for reuse to be ended, through
//! the log.
//!
//! An entry at which a reused instance costs the transaction is audited too, wherever it stands: that it does is recorded
//! only where a fresh one says so. Of such a run the outcome alone is compared.
//!
//! Where a reused instance dies (a trap, a budget), or comes near its fuel budget, that hangs on what it did before as well,
//! and not for a lie: an honest interpreter's memory and fuel are history. There a fresh one runs the entry too, and its
//! word counts, and the two are not compared.
//!
//! | the reused instance's run of an entry | whose effects count | compared |
//! |---|---|---|
//! | ends well, not audited | its own | no |
//! | is audited (one entry of 64) | a fresh one's | yes |
//! | dies, is to begin again ([`crate::statement`]), or burns over half of the fuel | a fresh one's | no |
//! | costs the transaction | a fresh one's, after a replay ([`crate::replay`]) | by outcome |
//! | is one of a replay that came to something else | fresh ones', of all that the replay covers | the replay did |

use bytes::Bytes;
use telegraft_node::ports::{MachineFault, Outcome, Rejection};
use telegraft_proto::internal::EndReuse;
use telegraft_raft::Index;

use crate::{
    active::ActiveModule,
    apply::{Applied, SqliteMachine},
    effects::{EffectDigest, hash_schema},
    errors::fault,
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
    Lost(Rejection),
}

/// Whether a reused instance is compared with a fresh one at this entry: one of 64, spread so that no rhythm of requests
/// evades it.
fn is_audited(index: Index) -> bool {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58 == 0
}

impl SqliteMachine {
    /// Whether this entry's call may go to the instance that is kept.
    pub(crate) fn reuses(&self, index: Index) -> bool {
        index > self.fresh_through && self.now.active.as_ref().is_some_and(|active| active.reuse)
    }

    /// Where this entry is one of those that are run twice: runs it on the reused instance, if there is one, and undoes it.
    pub(crate) fn audit(&mut self, index: Index, ask: &Ask<'_>) -> Result<Audit, MachineFault> {
        if !self.reuses(index) {
            return Ok(Audit::None);
        }
        if let Some(digest) = self.costly.get(&index) {
            return Ok(Audit::Ran(*digest));
        }
        if !is_audited(index) {
            return Ok(Audit::None);
        }
        if self.instance.is_none() {
            // A replica that began anew has nothing to compare; the entry's own effects must be a fresh instance's all the
            // same.
            return Ok(Audit::Ran(None));
        }
        let outcome = match self.call(ask, true) {
            Err(Ended::Fault(fault)) => return Err(fault),
            Err(Ended::Rejected(rejection)) => Err(rejection),
            Ok(reply) => Ok(reply),
        };
        let digest = self.effects_so_far(&outcome)?;
        if self.undo()? {
            self.execute("SAVEPOINT _telegraft_entry")?;
            return Ok(Audit::Ran((!self.worn && !self.died).then_some(digest)));
        }
        outcome.err().map(Audit::Lost).ok_or_else(|| {
            MachineFault("a call ended well and its transaction is gone: this is a defect of Telegraft".to_owned())
        })
    }

    /// The transaction is gone by a reused instance's run of this entry, which ended so: it is to be run by a fresh one.
    pub(crate) fn cost_by_reuse(&mut self, index: Index, rejection: Rejection) -> Result<Applied, MachineFault> {
        let digest = self.effects_so_far(&Err(rejection))?;
        // What costs the transaction kills the instance, so that says nothing here.
        self.costly.insert(index, (!self.worn).then_some(digest));
        Ok(Applied::LostByReuse)
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
        if reused.is_some_and(|reused| reused != fresh)
            && let Some(active) = self.now.active.clone()
        {
            self.report_reuse(&active, index);
        }
        Ok(())
    }

    /// Asks for reuse of this module to be ended, once there is a commit: at this entry a reused instance did something else
    /// than a fresh one. A replay does not forget it, though it may not find it again: it was seen, and an honest module
    /// never shows it.
    pub(crate) fn report_reuse(&mut self, active: &ActiveModule, index: Index) {
        tracing::warn!(index, module = &*active.label, "a reused instance did something else than a fresh one");
        self.instance = None;
        self.found = Some(EndReuse { digest: Bytes::copy_from_slice(&active.record.digest.0), index });
    }

    /// The digest of what the open entry has done; of its outcome alone, where that cost the transaction.
    fn effects_so_far(&self, outcome: &Outcome) -> Result<EffectDigest, MachineFault> {
        let database = self.database.as_ref().ok_or_else(database_lost)?;
        if database.host().is_autocommit() {
            database.effects().forget();
        }
        let schema = |hasher: &mut blake3::Hasher| hash_schema(database.host(), hasher);
        let digest = database.effects().digest(&[0; 32], 0, outcome, schema);
        digest.map_err(|e| fault("cannot read the schema", &e))
    }
}
