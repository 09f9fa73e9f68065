//! What entries do to the machine itself: parts of modules, activations and the way back, budgets, the end of reuse,
//! checkpoints and their reports. Each is an entry like a command: in a savepoint, refused as a whole or done as a whole.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rusqlite::{Connection, OptionalExtension, Row, params};
use telegraft_node::ports::{Code, MachineFault, Rejection};
use telegraft_proto::{
    internal::{
        self, Activate, Checkpoint, Command, DigestReport, EndReuse, ModuleChunk, Rollback, SetLimits, command::Body,
        rollback::Way,
    },
    v1::RolledBack,
};
use telegraft_raft::Index;

use crate::{
    active::ActiveModule,
    apply::SqliteMachine,
    catalog::{self, ModuleRecord, digest_at, sql},
    effects::EffectDigest,
    guest::{Ask, Ended, rejection},
    history::{self, Happened},
    kept,
    limits::Limits,
    module::{Digest, unusable},
    sandbox::describe,
    store::database_lost,
    verify,
};

/// Activations that can be taken back, one after the other.
const ACTIVATIONS_KEPT: usize = 32;

/// Activations whose kept states are kept.
const STATES_KEPT: usize = 2;

/// An activation that can be taken back.
pub(crate) struct Activation {
    pub at: Index,
    digest: Digest,
    reuse: bool,
    name: String,
    /// Data layout that its name had before; `None` where the name was new.
    from_schema: Option<u32>,
    pub kept: bool,
    data_bytes: u64,
    commands: u64,
}

impl SqliteMachine {
    pub(crate) fn take_chunk(&mut self, index: Index, chunk: &ModuleChunk) -> Result<Bytes, Ended> {
        let bytes_max = self.limits().module_bytes;
        if catalog::take_chunk(self.conn()?, index, bytes_max, chunk)?
            && let Ok(digest) = Digest::try_from(&*chunk.digest)
        {
            self.completed.push(digest);
        }
        Ok(Bytes::new())
    }

    /// The machine's budgets.
    pub(crate) fn limits(&self) -> Limits {
        self.now.limits.unwrap_or(Limits::DEFAULT)
    }

    /// Switches to an uploaded module, running its `init` where its name is new here or its data layout has risen.
    pub(crate) fn activate(&mut self, index: Index, activate: &Activate) -> Result<Bytes, Ended> {
        let limits = match (self.now.limits, &activate.limits) {
            (Some(limits), _) => limits,
            (None, Some(asked)) => Limits::from(asked).effective(),
            (None, None) => Limits::DEFAULT,
        };
        let engine = if activate.engine.is_empty() { self.sandbox.engine_name() } else { &activate.engine }.to_owned();
        let active = self.ready(index, &activate.digest, activate.reuse, engine, limits)?;
        let record = &active.record;
        let conn = self.conn()?;
        let last = catalog::layout(conn, &record.name)?;
        if let Some(last) = last.filter(|last| *last > record.schema) {
            let message = format!(
                "module {} {} has data layout {}, but the data here has layout {last}; activate a version with layout {last} \
                 or later, or roll back",
                record.name, record.version, record.schema
            );
            return Err(rejection(Code::FailedPrecondition, message).into());
        }
        let init = last.is_none_or(|last| last < record.schema);
        let keep = init && self.now.active.is_some();
        if keep {
            kept::keep(&self.dir, self.connections.path(), index)?;
        }
        // Before the init, which may see them.
        catalog::set_limits(conn, &limits)?;
        if init {
            let answer = self.ask_fresh(&active, &limits, &Ask::Init { from_schema: last });
            answer.map_err(|ended| within(ended, &format!("the init of module {} failed", active.label)))?;
        }
        let conn = self.conn()?;
        catalog::set_layout(conn, &record.name, Some(record.schema))?;
        let again = self.now.active.as_ref().is_some_and(|active| active.record.digest == record.digest);
        if again {
            // Nothing to go back to but itself.
            set_newest_reuse(conn, record.reuse)?;
        } else {
            push_activation(conn, record, last, keep, self.now.meta.data_bytes, self.now.meta.commands)?;
        }
        history::add(conn, &self.now.meta, Happened::Activated, Some(record), &init_said(last, init))?;
        self.now.limits = Some(limits);
        self.switch_to(index, active)?;
        Ok(Bytes::new())
    }

    /// A module as it would be active from `index` on, checked: its bytes are here, within `limits`, and it describes itself.
    pub(crate) fn ready(
        &self,
        index: Index,
        digest: &[u8],
        reuse: bool,
        engine: String,
        limits: Limits,
    ) -> Result<ActiveModule, Ended> {
        let digest = Digest::try_from(digest).map_err(|e| rejection(Code::InvalidArgument, e.to_string()))?;
        let conn = self.conn()?;
        let Some(mut record) = catalog::module(conn, &digest)? else {
            let message = format!("no module with digest {digest} is here, or not all of it; upload it first");
            return Err(rejection(Code::NotFound, message).into());
        };
        if record.size > limits.module_bytes {
            let message = format!(
                "module {digest} has {} bytes, over the machine's budget of {} (module_bytes)",
                record.size, limits.module_bytes
            );
            return Err(rejection(Code::ResourceExhausted, message).into());
        }
        let prepared =
            self.sandbox.prepare(&digest, || catalog::bytes(conn, &digest))?.map_err(|bad| unusable(&digest, bad))?;
        // From here on the module's own words count: what came with its parts was another host's.
        let (description, service) = describe(&prepared, limits)?.map_err(|bad| unusable(&digest, bad))?;
        record.name = description.name;
        record.version = description.version;
        record.schema = description.schema;
        record.activated_index = index;
        record.reuse = reuse;
        record.engine = engine;
        record.active = true;
        Ok(ActiveModule::new(record, limits, service, prepared))
    }

    fn switch_to(&mut self, index: Index, active: ActiveModule) -> Result<(), MachineFault> {
        catalog::activate(self.conn()?, &active.record, &active.service)?;
        tracing::info!(index, module = &*active.label, digest = %active.record.digest, "module activated");
        self.now.active = Some(Arc::new(active));
        self.now.meta.activated = index;
        self.instance = None;
        Ok(())
    }

    /// Goes back to the module that was active before.
    pub(crate) fn roll_back(&mut self, index: Index, rollback: &Rollback) -> Result<Bytes, Ended> {
        let refuse = |message: String| Ended::from(rejection(Code::FailedPrecondition, message));
        let Some(current) = self.now.active.clone() else {
            return Err(refuse("no module is active: there is nothing to go back from".to_owned()));
        };
        if !leaves(rollback, &current) {
            return Err(refuse(format!(
                "the active module is {} {}, and not the one that the rollback is to leave, {}: it was taken back already, or \
                 somebody activated another; look again and repeat if it is still wanted",
                current.label,
                current.record.digest,
                named(&rollback.from)
            )));
        }
        let activations = self.activations()?;
        let (Some(top), Some(below)) = (activations.first(), activations.get(1)) else {
            return Err(refuse(format!(
                "no module was active before {}: there is nothing to go back to",
                current.label
            )));
        };
        if rollback.digest != below.digest.0.as_slice() {
            return Err(refuse(format!(
                "the module before {} is {}: somebody changed it meanwhile; look again and repeat",
                current.label, below.digest
            )));
        }
        let engine = if rollback.engine.is_empty() { self.sandbox.engine_name() } else { &rollback.engine }.to_owned();
        let limits = self.limits();
        let active = self.ready(index, &rollback.digest, below.reuse, engine, limits)?;
        let lost = self.now.meta.commands.saturating_sub(top.commands);
        let layout = catalog::layout(self.conn()?, &active.record.name)?;
        let (data, commands_lost) = if rollback.way() == Way::KeptState {
            self.put_back(top, &current)?;
            ("kept-state", lost)
        } else if layout == Some(active.record.schema) {
            ("unchanged", 0)
        } else {
            self.downgrade(&current, &active.record, top, lost)?;
            ("downgraded", 0)
        };
        let conn = self.conn()?;
        sql("an activation", || {
            conn.prepare_cached("DELETE FROM _telegraft_activations WHERE at = ?1")?.execute([top.at as i64])
        })?;
        let discarded = if commands_lost > 0 { format!(", {commands_lost} commands discarded") } else { String::new() };
        let detail = format!("from {} {}: data {data}{discarded}", current.label, current.record.digest);
        history::add(conn, &self.now.meta, Happened::RolledBack, Some(&active.record), &detail)?;
        self.switch_to(index, active)?;
        let reply = RolledBack {
            module: None,
            index,
            from_digest: current.record.digest.to_string(),
            data: data.to_owned(),
            commands_lost,
        };
        Ok(reply.encode_to_vec().into())
    }

    /// Has the present module turn the data into the layout that the one before knows.
    fn downgrade(
        &mut self,
        current: &ActiveModule,
        to: &ModuleRecord,
        top: &Activation,
        lost: u64,
    ) -> Result<(), Ended> {
        if current.record.name != to.name || !current.prepared.downgrades() {
            let commands = if lost == 1 { "command has" } else { "commands have" };
            let way_out = if top.kept {
                format!(
                    "; putting the state kept then back would discard what {lost} {commands} done since: ask for that \
                     explicitly (--discard-since-activation)"
                )
            } else {
                "; and no state was kept then".to_owned()
            };
            let message = format!(
                "the data layout rose from {} to {} at index {}, and module {} offers no downgrade{way_out}",
                to.schema, current.record.schema, top.at, current.label
            );
            return Err(rejection(Code::FailedPrecondition, message).into());
        }
        let limits = self.limits();
        let answer = self.ask_fresh(current, &limits, &Ask::Downgrade { to_schema: to.schema });
        answer.map_err(|ended| within(ended, &format!("the downgrade by module {} failed", current.label)))?;
        Ok(catalog::set_layout(self.conn()?, &to.name, Some(to.schema))?)
    }

    /// Puts the state kept at the newest activation in the place of the guest's data.
    fn put_back(&mut self, top: &Activation, current: &ActiveModule) -> Result<(), Ended> {
        if !top.kept {
            let message = format!(
                "no state was kept when {} was activated at index {}: its data layout was no other than before, or older \
                 states have given way",
                current.label, top.at
            );
            return Err(rejection(Code::FailedPrecondition, message).into());
        }
        let path = kept::path(&self.dir, top.at);
        let database = self.database.as_mut().ok_or_else(database_lost)?;
        // Also where it cannot be put back: the tables were others for a moment.
        database.schema_replaced();
        kept::put_back(database.host(), &path)?;
        catalog::set_layout(database.host(), &top.name, top.from_schema)?;
        database.schema_replaced();
        self.now.meta.data_bytes = top.data_bytes;
        Ok(())
    }

    /// The activations that can be taken back, the newest first.
    pub(crate) fn activations(&self) -> Result<Vec<Activation>, MachineFault> {
        let conn = self.conn()?;
        sql("the activations", || {
            let mut statement = conn.prepare_cached(
                "SELECT at, digest, reuse, name, from_schema, kept, data_bytes, commands FROM _telegraft_activations \
                 ORDER BY at DESC",
            )?;
            let rows = statement.query_map([], activation)?;
            rows.collect()
        })
    }

    pub(crate) fn set_limits(&mut self, set: &SetLimits) -> Result<Bytes, Ended> {
        let before = self.limits();
        let limits = set.limits.as_ref().map_or(before, |asked| Limits::from(asked).or(before));
        let conn = self.conn()?;
        catalog::set_limits(conn, &limits)?;
        let changed = before.named().into_iter().zip(limits.named()).filter(|(before, after)| before != after);
        let changed: Vec<_> =
            changed.map(|((name, before), (_, after))| format!("{name} from {before} to {after}")).collect();
        if !changed.is_empty() {
            let active = self.now.active.as_ref().map(|active| &active.record);
            history::add(conn, &self.now.meta, Happened::LimitsSet, active, &changed.join(", "))?;
        }
        self.now.limits = Some(limits);
        self.now.active = self.now.active.as_ref().map(|active| Arc::new(active.with_limits(limits)));
        // It was made for the budgets of before.
        self.instance = None;
        Ok(internal::Limits::from(limits).encode_to_vec().into())
    }

    pub(crate) fn end_reuse(&mut self, end: &EndReuse) -> Result<Bytes, Ended> {
        let Some(active) = self.now.active.clone() else {
            return Ok(Bytes::new());
        };
        // What was found before this activation is not this one's.
        let stale = end.index < active.record.activated_index;
        if !active.record.reuse || stale || end.digest != active.record.digest.0.as_slice() {
            return Ok(Bytes::new());
        }
        let detail = format!(
            "module {} keeps something in memory: at index {} a reused instance did something else than a fresh one; every \
             entry gets a fresh one from here on",
            active.label, end.index
        );
        history::add(self.conn()?, &self.now.meta, Happened::ReuseEnded, Some(&active.record), &detail)?;
        self.without_reuse(&active, &detail)?;
        Ok(Bytes::new())
    }

    /// From here on every entry gets a fresh instance of the active module.
    fn without_reuse(&mut self, active: &ActiveModule, why: &str) -> Result<(), MachineFault> {
        let conn = self.conn()?;
        catalog::end_reuse(conn, &active.record.digest)?;
        sql("an activation", || {
            conn.prepare_cached("UPDATE _telegraft_activations SET reuse = 0 WHERE digest = ?1")?.execute([active
                .record
                .digest
                .0
                .as_slice()])
        })?;
        tracing::warn!(index = self.now.meta.applied, "{why}");
        self.alarmed = true;
        self.now.active = Some(Arc::new(active.without_reuse()));
        self.instance = None;
        Ok(())
    }

    pub(crate) fn checkpoint(&mut self, index: Index, checkpoint: &Checkpoint) -> Result<Bytes, Ended> {
        let own = self.now.meta.effects;
        verify::note(self.conn()?, index, checkpoint.voters, &own)?;
        // Who reports is the host's to say.
        let report = DigestReport { index, host_id: 0, digest: Bytes::copy_from_slice(&own) };
        self.ask_for(Body::DigestReport(report));
        Ok(Bytes::new())
    }

    pub(crate) fn take_report(&mut self, report: &DigestReport) -> Result<Bytes, Ended> {
        let Ok(digest) = EffectDigest::try_from(&*report.digest) else {
            return Err(rejection(Code::InvalidArgument, "an effect digest has 32 bytes").into());
        };
        let conn = self.conn()?;
        let judgement = verify::take(conn, report.index, report.host_id, &digest)?;
        if let Some(alarm) = &judgement.alarm {
            let active = self.now.active.clone();
            let record = active.as_ref().map(|active| &active.record);
            history::add(conn, &self.now.meta, Happened::ReplicasDiffer, record, alarm)?;
            tracing::error!("{alarm}");
            self.alarmed = true;
            // The likeliest cause, whatever the audit has seen.
            let concerned =
                |active: &Arc<ActiveModule>| active.record.reuse && report.index >= active.record.activated_index;
            if let Some(active) = active.filter(concerned) {
                self.without_reuse(&active, "reuse is ended, since replicas differ")?;
            }
        }
        if judgement.verified {
            self.verified = report.index;
        }
        if let Some(why) = judgement.halt
            && !verify::is_ignored(&self.dir)
        {
            verify::halt(self.conn()?, &why)?;
            self.halting = Some(why);
        }
        Ok(Bytes::new())
    }

    /// Has a command proposed once the open transaction is committed.
    pub(crate) fn ask_for(&mut self, body: Body) {
        self.asked.push(Command { body: Some(body), ..Command::default() }.encode_to_vec().into());
    }

    /// Removes the kept states that nobody needs any more. What says so is made durable first: with the power the state may
    /// otherwise go back to where one of them is needed.
    pub(crate) fn remove_old_states(&mut self) -> Result<(), MachineFault> {
        let wanted: Vec<_> = self.activations()?.iter().filter(|a| a.kept).map(|a| a.at).collect();
        if kept::has_others(&self.dir, &wanted)? {
            self.database()?.make_durable()?;
            kept::remove_others(&self.dir, &wanted)?;
        }
        self.states_left = false;
        Ok(())
    }

    /// Records that an activation or a rollback was refused.
    pub(crate) fn record_refusal(&mut self, body: &Body, rejection: &Rejection) -> Result<(), MachineFault> {
        let (what, digest) = match body {
            Body::Activate(activate) => (Happened::ActivationRefused, &activate.digest),
            Body::Rollback(rollback) => (Happened::RollbackRefused, &rollback.digest),
            _ => return Ok(()),
        };
        // One may have been made for it.
        self.states_left = true;
        let conn = self.conn()?;
        let record = match Digest::try_from(&**digest) {
            Ok(digest) => catalog::module(conn, &digest)?,
            Err(_) => None,
        };
        history::add(conn, &self.now.meta, what, record.as_ref(), &rejection.message)
    }
}

/// Whether this is the module that the rollback is to leave.
pub(crate) fn leaves(rollback: &Rollback, active: &ActiveModule) -> bool {
    rollback.from.is_empty() || rollback.from == active.record.digest.0.as_slice()
}

/// A module as an entry names it.
fn named(digest: &[u8]) -> String {
    Digest::try_from(digest).map_or_else(|_| "which is no digest".to_owned(), |digest| digest.to_string())
}

/// The module that was active before the present one.
pub(crate) fn module_before(conn: &Connection) -> Result<Option<Digest>, MachineFault> {
    sql("the activations", || {
        conn.prepare_cached("SELECT digest FROM _telegraft_activations ORDER BY at DESC LIMIT 1 OFFSET 1")?
            .query_row([], |row| digest_at(row, 0))
            .optional()
    })
}

fn activation(row: &Row<'_>) -> rusqlite::Result<Activation> {
    Ok(Activation {
        at: row.get::<_, i64>(0)? as u64,
        digest: digest_at(row, 1)?,
        reuse: row.get(2)?,
        name: row.get(3)?,
        from_schema: row.get(4)?,
        kept: row.get(5)?,
        data_bytes: row.get::<_, i64>(6)? as u64,
        commands: row.get::<_, i64>(7)? as u64,
    })
}

fn set_newest_reuse(conn: &Connection, reuse: bool) -> Result<(), MachineFault> {
    sql("an activation", || {
        conn.prepare_cached(
            "UPDATE _telegraft_activations SET reuse = ?1 WHERE at = (SELECT max(at) FROM _telegraft_activations)",
        )?
        .execute([reuse])
    })
    .map(drop)
}

fn push_activation(
    conn: &Connection,
    record: &ModuleRecord,
    from_schema: Option<u32>,
    kept: bool,
    data_bytes: u64,
    commands: u64,
) -> Result<(), MachineFault> {
    sql("an activation", || {
        conn.prepare_cached("INSERT INTO _telegraft_activations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute(params![
                record.activated_index as i64,
                record.digest.0.as_slice(),
                record.reuse,
                record.name,
                record.schema,
                from_schema,
                kept,
                data_bytes as i64,
                commands as i64
            ])?;
        conn.prepare_cached(
            "DELETE FROM _telegraft_activations WHERE at <= \
             (SELECT at FROM _telegraft_activations ORDER BY at DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([ACTIVATIONS_KEPT as i64])?;
        let oldest: Option<i64> = conn
            .prepare_cached("SELECT at FROM _telegraft_activations WHERE kept <> 0 ORDER BY at DESC LIMIT 1 OFFSET ?1")?
            .query_row([STATES_KEPT as i64], |row| row.get(0))
            .optional()?;
        conn.prepare_cached("UPDATE _telegraft_activations SET kept = 0 WHERE at <= ?1")?
            .execute([oldest.unwrap_or(-1)])
    })
    .map(drop)
}

/// A rejection in the words of what was going on.
fn within(ended: Ended, what: &str) -> Ended {
    match ended {
        Ended::Rejected(Rejection { code, message }) => rejection(code, format!("{what}: {message}")).into(),
        fault => fault,
    }
}

fn init_said(last: Option<u32>, init: bool) -> String {
    match (last, init) {
        (None, _) => "first activation of this name".to_owned(),
        (Some(last), true) => format!("data layout risen from {last}"),
        (Some(_), false) => "data layout as before".to_owned(),
    }
}
