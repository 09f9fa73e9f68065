//! The replacement of a machine's state by a snapshot's.
//!
//! A crash at any point leaves the old state or the new one:
//!
//! 1. The snapshot is written beside the database, checked, marked with where it comes from, loaded (sessions, active
//!    module) and synced. Whatever is wrong with it shows here, with the old state untouched.
//! 2. Readers are kept out, and their connections closed.
//! 3. A checkpoint brings all of the old state into its own file and cuts its WAL to nothing; its last connection is
//!    closed, by which SQLite removes the WAL and its index. Where it does not, somebody else has the file open, and the
//!    old state stays: who closes an old file later would remove the new one's WAL. The folder is synced: from here on no
//!    old WAL can come back, not with the power either. The old state is complete in its one file.
//! 4. The new file is renamed over the old one, and the folder synced.
//! 5. The new file is opened and published, and readers are let in.

use std::{path::Path, sync::Arc};

use telegraft_node::ports::MachineFault;
use telegraft_raft::{Snapshot, SnapshotMeta};

use crate::{
    active::ActiveModule,
    apply::{SqliteMachine, Volatile},
    catalog::{self, ActiveRow},
    database::Database,
    history,
    limits::Limits,
    module::decode_service,
    sandbox::Sandbox,
    schema,
    sessions::Sessions,
    snapshot::{self, Beside},
    verify,
};

/// What a machine keeps in memory of its database.
pub(crate) struct Loaded {
    pub now: Volatile,
    pub sessions: Sessions,
    pub restored_from: Option<SnapshotMeta>,
}

/// Reads it.
pub(crate) fn load(sandbox: &Sandbox, database: &Database) -> Result<Loaded, MachineFault> {
    let conn = database.host();
    let meta = schema::read_meta(conn)?;
    let sessions = Sessions::load(conn, meta.applied)?;
    let limits = catalog::limits(conn)?;
    let active = match catalog::active(conn)? {
        Some(row) => Some(Arc::new(restore_active(sandbox, database, row, limits.unwrap_or(Limits::DEFAULT))?)),
        None => None,
    };
    Ok(Loaded { now: Volatile { meta, active, limits }, sessions, restored_from: snapshot::restored_from(conn)? })
}

fn restore_active(
    sandbox: &Sandbox,
    database: &Database,
    row: ActiveRow,
    limits: Limits,
) -> Result<ActiveModule, MachineFault> {
    let conn = database.host();
    let broken = |why: String| MachineFault(format!("the active module {} cannot be restored: {why}", row.digest));
    let record =
        catalog::module(conn, &row.digest)?.ok_or_else(|| broken("it is not among the uploaded modules".to_owned()))?;
    let prepared = sandbox
        .prepare(&row.digest, || catalog::bytes(conn, &row.digest))?
        .map_err(|bad| broken(format!("{bad} (it worked before: has this host another version of Telegraft?)")))?;
    let service = decode_service(&row.service).map_err(|bad| broken(bad.to_string()))?;
    Ok(ActiveModule::new(record, limits, service, prepared))
}

/// Where a restoration has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The new state lies beside the old one.
    Written,
    /// The old state is all in its own file, its WAL is empty.
    Checkpointed,
    /// The old state's WAL is gone.
    Closed,
    /// The new state has the old one's place.
    Installed,
    /// The new state is open.
    Opened,
}

impl SqliteMachine {
    /// Replaces the state; `watch` is told of each step that is done.
    pub(crate) fn restore_watched(
        &mut self,
        snapshot: &Snapshot,
        mut watch: impl FnMut(Step, &Path),
    ) -> Result<(), MachineFault> {
        self.sound()?;
        if snapshot.meta.index <= self.committed.meta.applied {
            return Ok(());
        }
        let (beside, loaded) = Beside::write(&self.dir, snapshot, |database| load(&self.sandbox, database))?;
        watch(Step::Written, &self.dir);
        self.replace(beside, loaded, watch).inspect_err(|fault| self.poison(fault))?;
        tracing::info!(index = snapshot.meta.index, term = snapshot.meta.term, "state restored from a snapshot");
        Ok(())
    }

    /// Steps 2 to 5.
    fn replace(
        &mut self,
        beside: Beside,
        loaded: Loaded,
        mut watch: impl FnMut(Step, &Path),
    ) -> Result<(), MachineFault> {
        let connections = Arc::clone(&self.connections);
        let _alone = connections.keep_out();
        let old = self.take_database()?;
        old.empty_wal()?;
        watch(Step::Checkpointed, &self.dir);
        self.instance = None;
        old.close()?;
        let path = connections.path();
        if ["-wal", "-shm"].iter().any(|suffix| snapshot::with_suffix(path, suffix).exists()) {
            return Err(MachineFault(format!(
                "the state was not replaced: another process has {} open; close it and start this host again; one host at \
                 a time can own the file",
                path.display()
            )));
        }
        snapshot::sync_dir(&self.dir)?;
        watch(Step::Closed, &self.dir);
        beside.install(path)?;
        watch(Step::Installed, &self.dir);
        let database = Database::open_writer(path)?;
        let meta = schema::read_meta(database.host())?;
        if meta != loaded.now.meta {
            return Err(MachineFault(format!(
                "the state at index {} was restored, and one at index {} is found; does another process use the folder?",
                loaded.now.meta.applied, meta.applied
            )));
        }
        watch(Step::Opened, &self.dir);
        self.database = Some(Box::new(database));
        self.sessions = loaded.sessions;
        self.restored_from = loaded.restored_from;
        self.committed = loaded.now.clone();
        self.now = loaded.now;
        self.halted = verify::halted(self.conn()?)?;
        let alarms = history::alarms(self.conn()?)?;
        self.published.alarm(alarms);
        self.published.publish(&self.committed.meta, self.committed.active.as_ref());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;
    use prost::Message;
    use telegraft_node::ports::Machine;
    use telegraft_proto::{
        internal::{Activate, Call, Command, ModuleChunk, command::Body},
        kv,
    };
    use telegraft_raft::{Entry, EntryKind, Index};
    use tempfile::TempDir;

    use super::*;
    use crate::{Digest, MachineReader, SandboxOptions, open};

    fn entry(index: Index, body: Body) -> Entry {
        let command = Command { time_us: index, body: Some(body), ..Command::default() };
        Entry { term: 1, index, kind: EntryKind::Normal, data: command.encode_to_vec().into() }
    }

    fn put(index: Index) -> Entry {
        let request = kv::PutRequest { key: format!("k{}", index % 50), value: vec![index as u8; 500].into() };
        let call = Call { method: "kv.v1.Kv/Put".to_owned(), payload: request.encode_to_vec().into() };
        entry(index, Body::Call(call))
    }

    fn history(len: u64) -> Vec<Entry> {
        let digest = Bytes::copy_from_slice(&Digest::of(telegraft_modules::KV).0);
        let data = Bytes::from_static(telegraft_modules::KV);
        let chunk = ModuleChunk { digest: digest.clone(), size: data.len() as u64, data, ..ModuleChunk::default() };
        let activate = Activate { digest, ..Activate::default() };
        let mut entries = vec![entry(1, Body::ModuleChunk(chunk)), entry(2, Body::Activate(activate))];
        entries.extend((3..=len).map(put));
        entries
    }

    fn digest(reader: &MachineReader) -> (Index, String) {
        reader.state_digest().unwrap()
    }

    /// What a killed process leaves: the files as they lie.
    fn copy(dir: &Path) -> TempDir {
        let to = tempfile::tempdir().unwrap();
        for file in fs::read_dir(dir).unwrap() {
            let file = file.unwrap();
            // The index of a WAL is memory, not a file's content.
            if file.file_type().unwrap().is_file() && !file.path().ends_with("machine.db-shm") {
                fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
            }
        }
        to
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_state_or_the_new_one() {
        let cache = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(SandboxOptions::new(cache.path())).unwrap();
        let entries = history(400);
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (mut source, source_reader) = open(sandbox.clone(), folders[0].path()).unwrap();
        source.apply(&entries[..300]).unwrap();
        let meta = SnapshotMeta { index: 300, term: 3, ..SnapshotMeta::default() };
        let snapshot = Snapshot { meta: meta.clone(), data: source.snapshot().unwrap() };
        let new = digest(&source_reader);

        let (mut machine, reader) = open(sandbox.clone(), folders[1].path()).unwrap();
        machine.apply(&entries[..200]).unwrap();
        // So that the WAL holds a part of the old state, and the file the other.
        machine.make_durable().unwrap();
        machine.apply(&entries[200..250]).unwrap();
        let old = digest(&reader);

        let mut crashes = Vec::new();
        machine.restore_watched(&snapshot, |step, dir| crashes.push((step, copy(dir)))).unwrap();
        assert_eq!(digest(&reader), new);
        let steps: Vec<Step> = crashes.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [Step::Written, Step::Checkpointed, Step::Closed, Step::Installed, Step::Opened]);

        source.apply(&entries[300..]).unwrap();
        let end = digest(&source_reader);
        for (step, folder) in crashes {
            let files = |suffix: &str| folder.path().join(format!("machine.db{suffix}")).exists();
            if step == Step::Checkpointed {
                assert_eq!(fs::metadata(folder.path().join("machine.db-wal")).unwrap().len(), 0);
            }
            if matches!(step, Step::Closed | Step::Installed) {
                // Whichever of the two files has the name when the power goes, there is no WAL for it.
                assert!(!files("-wal") && !files("-shm"), "{step:?}");
            }
            let (mut machine, reader) = open(sandbox.clone(), folder.path()).unwrap();
            let installed = matches!(step, Step::Installed | Step::Opened);
            let (expected, from) = if installed { (&new, Some(meta.clone())) } else { (&old, None) };
            assert_eq!(digest(&reader), *expected, "{step:?}");
            assert_eq!(machine.restored_from(), from, "{step:?}");
            // It can be tried again, and goes on.
            machine.restore(&snapshot).unwrap();
            assert_eq!(digest(&reader), new, "{step:?}");
            machine.apply(&entries).unwrap();
            assert_eq!(digest(&reader), end, "{step:?}");
        }
    }

    /// Why an old WAL must be gone before the new file has its name: SQLite would take it for the new file's own.
    #[test]
    fn an_old_wal_beside_a_new_file_would_be_taken_for_its_own() {
        let cache = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(SandboxOptions::new(cache.path())).unwrap();
        let entries = history(300);
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut machines = folders.each_ref().map(|folder| open(sandbox.clone(), folder.path()).unwrap());
        machines[0].0.apply(&entries[..300]).unwrap();
        machines[0].0.make_durable().unwrap();
        machines[1].0.apply(&entries[..100]).unwrap();
        let new = digest(&machines[0].1);
        let mixed = tempfile::tempdir().unwrap();
        fs::copy(folders[0].path().join("machine.db"), mixed.path().join("machine.db")).unwrap();
        fs::copy(folders[1].path().join("machine.db-wal"), mixed.path().join("machine.db-wal")).unwrap();
        let opened = open(sandbox, mixed.path());
        assert!(opened.is_err() || opened.is_ok_and(|(_, reader)| digest(&reader) != new));
    }
}
