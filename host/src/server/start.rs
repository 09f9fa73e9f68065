//! What must be in order before a node can run: the machine opened, the log given its configuration and brought in line
//! with the machine, the settings in the core's and the node's terms.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use telegraft_node::{
    NodeConfig,
    ports::{ConfAt, LogReader, LogWrite, LogWriter},
};
use telegraft_raft::{ConfState, Config, HardState, Index, ReadOnly, SnapshotMeta};
use telegraft_sandbox::{MachineReader, Sandbox, SqliteMachine};

use crate::settings::Settings;

/// Opens the machine in a folder, which is made where there is none.
pub fn open_machine(sandbox: &Sandbox, path: &Path) -> anyhow::Result<(SqliteMachine, MachineReader)> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the machine's folder {}", path.display()))?;
    telegraft_sandbox::open(sandbox.clone(), path)
        .with_context(|| format!("cannot open the machine in {}", path.display()))
}

/// Gives a new log its configuration, and holds an old one against the settings and the machine, which has applied
/// `applied` and was last restored from `restored_from`.
pub fn prepare_log(
    settings: &Settings,
    reader: &impl LogReader,
    writer: &mut dyn LogWriter,
    applied: Index,
    restored_from: Option<SnapshotMeta>,
) -> anyhow::Result<()> {
    if let Some(meta) = restored_from
        && meta.index == applied
        && lacks(reader, &meta)
    {
        tracing::info!(index = meta.index, "the log is told of the snapshot that the machine was restored from");
        begin_after(reader, writer, meta)?;
    }
    let (hard_state, conf_state) = reader.initial_state()?;
    let mut configured: Vec<_> = settings.hosts.iter().map(|host| host.id).collect();
    configured.sort_unstable();
    if conf_state == ConfState::default() {
        let first = ConfAt { index: 0, conf_state: ConfState { voters: configured, ..ConfState::default() } };
        writer.write(&[LogWrite { conf_state: Some(first), must_sync: true, ..LogWrite::default() }])?;
    } else if conf_state.voters != configured {
        bail!(
            "the settings list the hosts {configured:?}, but the log's configuration has the voters {:?}: \
             a cluster's members are not changed by editing `hosts`",
            conf_state.voters
        );
    }
    if applied > reader.last_index() {
        bail!(
            "the machine has applied entry {applied}, but the log ends at {}: the log lost entries, or the folders are \
             not of the same host. Empty this host's data folder to let it start anew from the others",
            reader.last_index()
        );
    }
    // A commit index is written without a sync, with the next entries; the machine may know better after a power loss.
    if applied > hard_state.commit {
        let hard_state = HardState { commit: applied, ..hard_state };
        writer.write(&[LogWrite { hard_state: Some(hard_state), must_sync: true, ..LogWrite::default() }])?;
    }
    Ok(())
}

/// Whether the log has not heard of a snapshot: it neither begins after it or later, nor holds the entry it ends with.
fn lacks(reader: &impl LogReader, meta: &SnapshotMeta) -> bool {
    let begins_later = reader.first_index() > meta.index + 1;
    !begins_later && reader.term(meta.index).ok() != Some(meta.term)
}

/// What the node would have written next: the host stopped between the machine's restoration and that.
fn begin_after(reader: &impl LogReader, writer: &mut dyn LogWriter, meta: SnapshotMeta) -> anyhow::Result<()> {
    let (old, _) = reader.initial_state()?;
    // The term in which the snapshot came may be lost too. Nothing was promised in it, no vote either.
    let hard_state = HardState {
        term: old.term.max(meta.term),
        vote: if meta.term > old.term { 0 } else { old.vote },
        commit: old.commit.max(meta.index),
    };
    let write = LogWrite { hard_state: Some(hard_state), snapshot: Some(meta), must_sync: true, ..LogWrite::default() };
    Ok(writer.write(&[write])?)
}

/// The core's settings.
pub fn raft_config(settings: &Settings, applied: Index) -> Config {
    let raft = &settings.raft;
    Config {
        election_ticks: raft.election_ticks(),
        heartbeat_ticks: raft.heartbeat_ticks(),
        pre_vote: raft.pre_vote,
        check_quorum: raft.check_quorum,
        message_bytes_max: raft.message_bytes_max,
        inflight_messages_max: raft.inflight_messages_max,
        inflight_bytes_max: raft.inflight_bytes_max,
        uncommitted_bytes_max: raft.uncommitted_bytes_max,
        committed_bytes_per_ready_max: raft.apply_bytes_max,
        async_storage_writes: true,
        // Leases are the node's: it has a clock, and knows from when on a lease counts.
        read_only: ReadOnly::Safe,
        // Writes are forwarded by the API, which relays their answers; the core refuses them.
        proposal_forwarding: false,
        applied,
        ..Config::new(settings.host_id, rand::random())
    }
}

/// The node's settings.
pub fn node_config(settings: &Settings) -> NodeConfig {
    NodeConfig {
        pending_writes_max: settings.requests.pending_max,
        pending_reads_max: settings.requests.pending_max,
        // A leader that has not answered in this time is about to be given up.
        read_again_ticks: settings.raft.election_ticks(),
        lease: settings.raft.lease(),
        election_ticks: settings.raft.election_ticks(),
        incarnation: rand::random(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use telegraft_raft::{Entry, EntryKind, Storage};

    use super::*;

    fn meta(index: Index, term: u64) -> SnapshotMeta {
        SnapshotMeta { conf_state: ConfState { voters: vec![1], ..ConfState::default() }, index, term }
    }

    fn entries(indexes: std::ops::RangeInclusive<Index>, term: u64) -> Vec<Entry> {
        indexes.map(|index| Entry { term, index, kind: EntryKind::Normal, data: Bytes::new() }).collect()
    }

    /// What becomes of a log with these entries of term 2 under a machine that has applied `applied`.
    fn prepared(
        held: std::ops::RangeInclusive<Index>,
        applied: Index,
        restored_from: Option<SnapshotMeta>,
    ) -> anyhow::Result<(HardState, Index, Index)> {
        let (reader, mut writer) = telegraft_log::memory();
        let settings = Settings::default();
        prepare_log(&settings, &reader, &mut writer, 0, None)?;
        let hard_state = Some(HardState { term: 2, vote: 3, commit: 1 });
        writer.write(&[LogWrite { hard_state, entries: entries(held, 2), must_sync: true, ..LogWrite::default() }])?;
        prepare_log(&settings, &reader, &mut writer, applied, restored_from)?;
        let (hard_state, conf_state) = reader.initial_state()?;
        assert_eq!(conf_state.voters, [1]);
        Ok((hard_state, reader.first_index(), reader.last_index()))
    }

    #[test]
    fn a_log_that_was_not_told_of_the_restoration_is_told_now() {
        let (hard_state, first, last) = prepared(1..=5, 9, Some(meta(9, 4))).unwrap();
        assert_eq!((hard_state, first, last), (HardState { term: 4, vote: 0, commit: 9 }, 10, 9));
        // Another entry stands at the snapshot's index: the snapshot's is the committed one.
        let (hard_state, first, last) = prepared(1..=12, 9, Some(meta(9, 4))).unwrap();
        assert_eq!((hard_state, first, last), (HardState { term: 4, vote: 0, commit: 9 }, 10, 9));
    }

    #[test]
    fn a_log_that_knows_or_that_the_snapshot_does_not_cover_is_left_alone() {
        let (hard_state, first, last) = prepared(1..=12, 9, Some(meta(9, 2))).unwrap();
        assert_eq!((hard_state, first, last), (HardState { term: 2, vote: 3, commit: 9 }, 1, 12));
        let (_, first, last) = prepared(1..=12, 11, Some(meta(9, 4))).unwrap();
        assert_eq!((first, last), (1, 12));
        for restored_from in [None, Some(meta(7, 2))] {
            let lost = prepared(1..=5, 9, restored_from).unwrap_err().to_string();
            assert!(lost.contains("applied entry 9") && lost.contains("ends at 5"), "{lost}");
        }
    }
}
