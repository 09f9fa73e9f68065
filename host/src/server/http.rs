//! Metrics and health over HTTP: `/metrics` (Prometheus text format 0.0.4), `/livez`, `/readyz`.

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    Router, extract::State, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use telegraft_raft::Role;
use telegraft_sandbox::MachineReader;

use super::shared::Shared;

/// Committed entries a host may be behind with and still call itself ready.
const READY_LAG_MAX: u64 = 10_000;

/// What is told about.
#[derive(Clone)]
struct Watched {
    shared: Arc<Shared>,
    machine: MachineReader,
}

/// The routes.
pub fn router(shared: Arc<Shared>, machine: MachineReader) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Watched { shared, machine })
}

/// Why this host should not be sent requests now, if so.
pub fn not_ready(shared: &Shared) -> Option<String> {
    if let Some(why) = shared.halted() {
        return Some(format!("the machine has halted: {why}"));
    }
    if shared.leadership.borrow().leader == 0 {
        return Some("no leader is known".into());
    }
    let lag = shared.apply_lag();
    (lag > READY_LAG_MAX).then(|| format!("{lag} committed entries are not applied yet"))
}

async fn ready(State(Watched { shared, .. }): State<Watched>) -> impl IntoResponse {
    match not_ready(&shared) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn metrics(State(watched): State<Watched>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], render(&watched))
}

fn render(Watched { shared, machine }: &Watched) -> String {
    let leadership = *shared.leadership.borrow();
    let positions = &shared.positions;
    let gauge = "gauge";
    let counter = "counter";
    let rows: [(&str, &str, &str, u64); 18] = [
        ("raft_is_leader", gauge, "1 on the leader.", u64::from(leadership.role == Role::Leader)),
        ("raft_leader_id", gauge, "Id of the leader, 0 while none is known.", leadership.leader),
        ("raft_term", gauge, "Current term.", leadership.term),
        ("raft_term_changes_total", counter, "Changes of the term.", positions.term_changes.load(Relaxed)),
        ("raft_last_index", gauge, "Newest entry in the log.", positions.last.load(Relaxed)),
        ("raft_commit_index", gauge, "Newest committed entry.", positions.commit.load(Relaxed)),
        ("applied_index", gauge, "Newest applied entry.", shared.applied_index()),
        ("apply_lag", gauge, "Committed entries not applied yet.", shared.apply_lag()),
        ("entries_applied_total", counter, "Entries applied.", positions.entries_applied.load(Relaxed)),
        ("apply_batches_total", counter, "Transactions they came in.", positions.apply_batches.load(Relaxed)),
        (
            "log_writes_total",
            counter,
            "Writes of the log, each for all that waited.",
            positions.log_writes.load(Relaxed),
        ),
        ("pending_writes", gauge, "Writes that wait for their answers.", positions.pending.load(Relaxed)),
        (
            "pending_reads",
            gauge,
            "Linearizable reads that wait until they may be answered.",
            positions.pending_reads.load(Relaxed),
        ),
        (
            "reads_running",
            gauge,
            "Reads that threads work at, at most machine.query_threads.",
            positions.reads_running.load(Relaxed),
        ),
        (
            "reads_cancelled_total",
            counter,
            "Reads that were cut short: cancelled, or out of time.",
            positions.reads_cancelled.load(Relaxed),
        ),
        (
            "machine_halted",
            gauge,
            "1 while the machine applies and serves nothing.",
            u64::from(shared.halted().is_some()),
        ),
        (
            "effect_digest_verified_index",
            gauge,
            "Newest checkpoint at which this host's effects were a majority's.",
            machine.verified_index(),
        ),
        ("alarms", gauge, "Alarms of the machine; `telegraft status` says which.", machine.alarms().len() as u64),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in rows {
        let _ = write!(
            text,
            "# HELP telegraft_{name} {help}\n# TYPE telegraft_{name} {kind}\ntelegraft_{name}{{machine=\"main\"}} {value}\n"
        );
    }
    text.push_str("# HELP telegraft_peer_connected 1 while a stream from the peer stands.\n");
    text.push_str("# TYPE telegraft_peer_connected gauge\n");
    for peer in &shared.peers {
        let connected = u8::from(peer.connected());
        let _ = writeln!(text, "telegraft_peer_connected{{peer=\"{}\"}} {connected}", peer.address.id);
    }
    text
}
