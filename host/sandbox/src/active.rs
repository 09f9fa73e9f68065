//! The active module as threads share it, and what the applying thread publishes to readers.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use prost_reflect::DescriptorPool;
use telegraft_raft::Index;

use crate::{
    catalog::ModuleRecord,
    effects::EffectDigest,
    limits::Limits,
    module::{Method, Service, label},
    sandbox::Prepared,
    schema::Meta,
};

/// The smallest fuel budget with which instances are reused. An honest module's fresh instance burns more than one that has
/// been at work (an interpreter loads what it needs), and which replica has which hangs on when its process began. So where
/// a reused instance burns more than half of the budget, a fresh one decides; and half of this is far more than what
/// interpreters were seen to burn at their beginning (some millions).
const REUSE_FUEL_MIN: u64 = 100_000_000;

fn reuses(record: &ModuleRecord, limits: &Limits) -> bool {
    record.reuse && limits.fuel >= REUSE_FUEL_MIN
}

/// The module that answers calls, with what is needed to serve its own gRPC service. Made anew by every activation, and
/// whenever its budgets or its reuse change.
#[derive(Clone)]
pub struct ActiveModule {
    /// What the machine knows of it.
    pub record: ModuleRecord,
    /// Whether one instance serves many entries: the activation allows it, and the fuel budget is not too small for it.
    pub reuse: bool,
    /// The machine's budgets.
    pub limits: Limits,
    /// Its serialized `google.protobuf.FileDescriptorSet`, empty where it declares no service.
    pub service: Vec<u8>,
    /// The same, decoded.
    pub descriptors: DescriptorPool,
    /// Its methods, in the order of the descriptors.
    pub methods: Vec<Method>,
    queries: HashMap<String, bool>,
    pub(crate) prepared: Prepared,
    pub(crate) label: Arc<str>,
}

impl ActiveModule {
    pub(crate) fn new(record: ModuleRecord, limits: Limits, service: Service, prepared: Prepared) -> ActiveModule {
        ActiveModule {
            reuse: reuses(&record, &limits),
            limits,
            queries: service.methods.iter().map(|m| (m.name.clone(), m.query)).collect(),
            methods: service.methods,
            service: service.bytes,
            descriptors: service.pool,
            prepared,
            label: label(&record.name, &record.version),
            record,
        }
    }

    /// The same module with other budgets.
    pub(crate) fn with_limits(&self, limits: Limits) -> ActiveModule {
        ActiveModule { limits, reuse: reuses(&self.record, &limits), ..self.clone() }
    }

    /// The same module with a fresh instance for every entry.
    pub(crate) fn without_reuse(&self) -> ActiveModule {
        let mut active = self.clone();
        active.reuse = false;
        active.record.reuse = false;
        active
    }

    /// Whether a method (`chat.v1.Chat/SendMessage`) is a read; none where the module declares no such method.
    #[must_use]
    pub fn is_query(&self, method: &str) -> Option<bool> {
        self.queries.get(method).copied()
    }
}

impl fmt::Debug for ActiveModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveModule").field("record", &self.record).finish_non_exhaustive()
    }
}

/// What readers see; moved by the applying thread after each commit, the module before the index.
#[derive(Debug, Default)]
pub(crate) struct Published {
    applied: AtomicU64,
    generation: AtomicU64,
    verified: AtomicU64,
    active: ArcSwapOption<ActiveModule>,
    effects: Mutex<(Index, EffectDigest)>,
    alarms: ArcSwap<Vec<String>>,
}

impl Published {
    pub(crate) fn applied(&self) -> Index {
        self.applied.load(Ordering::Acquire)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn verified(&self) -> Index {
        self.verified.load(Ordering::Acquire)
    }

    pub(crate) fn active(&self) -> Option<Arc<ActiveModule>> {
        self.active.load_full()
    }

    pub(crate) fn effects(&self) -> (Index, EffectDigest) {
        *self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn alarms(&self) -> Arc<Vec<String>> {
        self.alarms.load_full()
    }

    pub(crate) fn publish(&self, meta: &Meta, active: Option<&Arc<ActiveModule>>) {
        let changed = match (&*self.active.load(), active) {
            (None, None) => false,
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            _ => true,
        };
        if changed {
            self.active.store(active.cloned());
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        *self.effects.lock().unwrap_or_else(PoisonError::into_inner) = (meta.applied, meta.effects);
        self.applied.store(meta.applied, Ordering::Release);
    }

    pub(crate) fn verify(&self, at: Index) {
        self.verified.fetch_max(at, Ordering::AcqRel);
    }

    pub(crate) fn alarm(&self, alarms: Vec<String>) {
        self.alarms.store(Arc::new(alarms));
    }
}
