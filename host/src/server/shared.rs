//! What the host's parts share about its one machine: who leads, how far it has got, and the way in for writes. Written
//! by the node's threads, read by everyone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use telegraft_raft::{Index, NodeId, Role, Term};
use tokio::sync::watch;

use crate::settings::{HostAddress, Settings};

/// Name of the one machine that a cluster carries today; an empty name in a call means this one.
pub const MACHINE: &str = "main";
/// Its Raft group.
pub const GROUP: u64 = 1;

/// Who leads, as this host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// This host's role.
    pub role: Role,
    /// 0 while none is known.
    pub leader: NodeId,
    /// The current term.
    pub term: Term,
}

/// A peer, as the node and the network see it.
#[derive(Debug)]
pub struct PeerState {
    /// Its addresses.
    pub address: HostAddress,
    /// Its streams of Raft messages that stand here; one, or for a moment more while it connects anew.
    pub streams: AtomicU64,
    /// On the leader: the newest index known to be on the peer.
    pub match_index: AtomicU64,
    /// When it last spoke: milliseconds after this host's start.
    heard_ms: AtomicU64,
}

impl PeerState {
    /// Whether it has a stream to this host.
    pub fn connected(&self) -> bool {
        self.streams.load(Relaxed) > 0
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Counters of the log's positions, for status and metrics.
#[derive(Debug, Default)]
pub struct Positions {
    /// Newest entry in the log.
    pub last: AtomicU64,
    /// Newest committed entry.
    pub commit: AtomicU64,
    /// Writes that wait for their answers.
    pub pending: AtomicU64,
    /// Linearizable reads that wait until they may be answered.
    pub pending_reads: AtomicU64,
    /// Reads that the threads for them work at.
    pub reads_running: AtomicU64,
    /// Reads that were cut short since the start, for nobody waited for them any more.
    pub reads_cancelled: AtomicU64,
    /// Writes that other hosts forwarded here, and that are not answered yet.
    pub forwarded: AtomicU64,
    /// Entries applied since the start, batches they came in, and appends to the log.
    pub entries_applied: AtomicU64,
    /// Transactions of the machine since the start.
    pub apply_batches: AtomicU64,
    /// Synced writes of the log since the start.
    pub log_writes: AtomicU64,
    /// Elections this host saw: changes of the term.
    pub term_changes: AtomicU64,
    /// Newest applied entry that did something, checkpoints and their answers left aside; 0 for none since the start.
    pub work: AtomicU64,
    /// Newest applied checkpoint; 0 for none since the start.
    pub checkpoint: AtomicU64,
}

/// See the head of this file.
pub struct Shared {
    /// Settings of this host.
    pub settings: Settings,
    /// When the process started.
    pub started: Instant,
    /// Who leads.
    pub leadership: watch::Sender<Leadership>,
    /// Newest applied index.
    pub applied: watch::Sender<Index>,
    /// Why the machine applies nothing more, and what to do about it; none while all is well.
    pub halted: watch::Sender<Option<Arc<str>>>,
    /// Every other host, by rising id.
    pub peers: Vec<PeerState>,
    /// Positions and counters.
    pub positions: Positions,
    /// Since when this host leads, if it does: milliseconds after its start.
    leading_since_ms: AtomicU64,
}

impl Shared {
    /// Nothing known yet.
    pub fn new(settings: Settings, applied: Index) -> Arc<Self> {
        let mut addresses: Vec<_> = settings.hosts.iter().filter(|host| host.id != settings.host_id).cloned().collect();
        addresses.sort_by_key(|host| host.id);
        let peers = addresses
            .into_iter()
            .map(|address| PeerState {
                address,
                streams: AtomicU64::new(0),
                match_index: AtomicU64::new(0),
                heard_ms: AtomicU64::new(0),
            })
            .collect();
        Arc::new(Self {
            settings,
            started: Instant::now(),
            leadership: watch::Sender::new(Leadership { role: Role::Follower, leader: 0, term: 0 }),
            applied: watch::Sender::new(applied),
            halted: watch::Sender::new(None),
            peers,
            positions: Positions::default(),
            leading_since_ms: AtomicU64::new(0),
        })
    }

    /// A peer has spoken.
    pub fn hear(&self, peer: &PeerState) {
        peer.heard_ms.store(milliseconds(self.started.elapsed()), Relaxed);
    }

    /// This host leads from now on.
    pub fn begins_to_lead(&self) {
        self.leading_since_ms.store(milliseconds(self.started.elapsed()), Relaxed);
    }

    /// How long a peer has not spoken to this host, which leads. Followers have no cause to speak to each other, so what
    /// was before does not count.
    pub fn silence(&self, peer: &PeerState) -> Duration {
        let since = peer.heard_ms.load(Relaxed).max(self.leading_since_ms.load(Relaxed));
        self.started.elapsed().saturating_sub(Duration::from_millis(since))
    }

    /// This host's id.
    pub fn id(&self) -> NodeId {
        self.settings.host_id
    }

    /// Client address of a host of the cluster; empty for an unknown one.
    pub fn client_address(&self, id: NodeId) -> &str {
        self.settings.hosts.iter().find(|host| host.id == id).map_or("", |host| &host.client)
    }

    /// The peer's state, if `id` is another host of the cluster.
    pub fn peer(&self, id: NodeId) -> Option<&PeerState> {
        self.peers.iter().find(|peer| peer.address.id == id)
    }

    /// Newest applied index.
    pub fn applied_index(&self) -> Index {
        *self.applied.borrow()
    }

    /// Why the machine applies nothing more, if so.
    pub fn halted(&self) -> Option<Arc<str>> {
        self.halted.borrow().clone()
    }

    /// The machine says whether it has halted, and why.
    pub fn set_halted(&self, why: Option<String>) {
        self.halted.send_if_modified(|now| {
            let changed = now.as_deref() != why.as_deref();
            if changed {
                match &why {
                    Some(why) => tracing::error!(
                        why,
                        "the machine has halted: this host votes and keeps the log, and serves nothing"
                    ),
                    None => tracing::info!("the machine goes on"),
                }
                *now = why.map(Arc::from);
            }
            changed
        });
    }

    /// Returns when the machine has halted, with the reason.
    pub async fn until_halted(&self) -> Arc<str> {
        let mut halted = self.halted.subscribe();
        let found = halted.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match found {
            Some(why) => why,
            // The sender is our own: it cannot be gone while we are here.
            None => std::future::pending().await,
        }
    }

    /// Whether this host leads.
    pub fn leads(&self) -> bool {
        self.leadership.borrow().role == Role::Leader
    }

    /// Entries that are committed and not yet applied.
    pub fn apply_lag(&self) -> u64 {
        self.positions.commit.load(Relaxed).saturating_sub(self.applied_index())
    }
}
