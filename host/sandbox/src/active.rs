//! The active module as threads share it, and what the applying thread publishes to readers.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use prost_reflect::DescriptorPool;
use telegraft_raft::Index;

use crate::{
    catalog::ModuleRecord,
    limits::Limits,
    module::{Method, Service, label},
    sandbox::Prepared,
};

/// The module that answers calls, with what is needed to serve its own gRPC service. Made anew by every activation.
pub struct ActiveModule {
    /// What the machine knows of it.
    pub record: ModuleRecord,
    /// Whether one instance serves many entries.
    pub reuse: bool,
    /// The budgets that came with the activation.
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
            reuse: record.reuse,
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
    active: ArcSwapOption<ActiveModule>,
}

impl Published {
    pub(crate) fn applied(&self) -> Index {
        self.applied.load(Ordering::Acquire)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn active(&self) -> Option<Arc<ActiveModule>> {
        self.active.load_full()
    }

    pub(crate) fn publish(&self, applied: Index, active: Option<&Arc<ActiveModule>>) {
        let changed = match (&*self.active.load(), active) {
            (None, None) => false,
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            _ => true,
        };
        if changed {
            self.active.store(active.cloned());
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        self.applied.store(applied, Ordering::Release);
    }
}
