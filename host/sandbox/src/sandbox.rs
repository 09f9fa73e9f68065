//! The shared part of all machines of a process: engine, linker, compiled modules. Owns inspection and compilation.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use telegraft_node::ports::{Cancellation, MachineFault};
use wasmtime::{Engine, component::Linker};

use crate::{
    cache::Cache,
    compile::{Claim, Modules, PATIENCE, Turn, when_idle},
    complexity::too_complex,
    engine,
    guest::{
        Ended, Guest, GuestState,
        bindings::{StateMachineIndices, StateMachinePre},
    },
    kept,
    limits::Limits,
    module::{
        BadModule, DOWNGRADE_INTERFACE, Digest, Inspection, Service, WORLD, check_description, check_preamble,
        check_world, label, short,
    },
    temporary,
};

use wasmtime::component::Component;

/// How often a query that waits for a slot looks whether it was cancelled.
const CANCELLED_LOOK: Duration = Duration::from_millis(20);

/// How a sandbox is set up; a host's own configuration, so nothing here may decide a result.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// Folder for compiled modules; made where there is none.
    pub cache_dir: PathBuf,
    /// Folder for what SQLite does not hold in memory: sorts, mostly. None: the system's choice. The first
    /// sandbox of a process decides.
    pub temporary_dir: Option<PathBuf>,
    /// Largest module that [`Sandbox::inspect`] accepts, bytes.
    pub module_bytes_max: u64,
    /// What this host's engine calls itself in activations: [`engine_name`], except in tests of hosts that differ.
    pub engine: String,
    /// Bytes that this user can still write on the disk that a path is on: what the system says, except in tests of full
    /// disks.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
}

impl SandboxOptions {
    /// With a limit of 32 MiB, the engine's own name, and the system's word on free space.
    #[must_use]
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        SandboxOptions {
            cache_dir: cache_dir.into(),
            temporary_dir: None,
            module_bytes_max: 32 << 20,
            engine: engine::engine_name().to_owned(),
            free_bytes: kept::free_bytes,
        }
    }
}

/// Why there is no sandbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// The engine does not start: most often address space or memory is limited too tightly (`ulimit -v`).
    #[error("the Wasm engine does not start: {0}; check that address space is not limited (ulimit -v)")]
    Engine(String),
    /// The cache folder.
    #[error("the cache folder {0} cannot be used: {1}; make it writable or name another")]
    Cache(String, String),
}

/// Engine, linker and compiled modules. Cheap to clone; one for a process.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    linker: Linker<GuestState>,
    cache: Cache,
    module_bytes_max: u64,
    engine_name: String,
    free_bytes: fn(&Path) -> io::Result<u64>,
    modules: Modules<Result<Prepared, BadModule>>,
    query_slots: Slots,
    inspecting: Mutex<()>,
}

/// A module that can be instantiated.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub pre: StateMachinePre<GuestState>,
    pub indices: Arc<StateMachineIndices>,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Starts the engine and opens the cache.
    ///
    /// # Errors
    ///
    /// Where the engine does not start or the folder cannot be used.
    pub fn new(options: SandboxOptions) -> Result<Self, SandboxError> {
        if let Some(folder) = &options.temporary_dir {
            temporary::keep_in(folder);
        }
        let engine = engine::engine()?;
        let linker = engine::linker(&engine)?;
        let cache = Cache::open(&options.cache_dir, &engine)
            .map_err(|e| SandboxError::Cache(options.cache_dir.display().to_string(), e.to_string()))?;
        Ok(Sandbox {
            inner: Arc::new(Inner {
                engine,
                linker,
                cache,
                module_bytes_max: options.module_bytes_max,
                engine_name: options.engine,
                free_bytes: options.free_bytes,
                modules: Modules::default(),
                query_slots: Slots::new(engine::QUERY_INSTANCES_MAX as usize),
                inspecting: Mutex::default(),
            }),
        })
    }

    /// What this host's engine calls itself.
    #[must_use]
    pub fn engine_name(&self) -> &str {
        &self.inner.engine_name
    }

    /// Bytes that can still be written on the disk of `path`.
    pub(crate) fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        (self.inner.free_bytes)(path)
    }

    /// Checks everything that is refused before replication: size, form, world, imports, and that the module describes
    /// itself within its budgets and sanely. Compiles it where nothing else wants the cores, and keeps the result for the
    /// activation. Takes up to a second of processor time, and many for large modules: not for a thread that others wait for.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with the module, and what to do about it.
    pub fn inspect(&self, bytes: &[u8]) -> Result<Inspection, BadModule> {
        let size = bytes.len() as u64;
        if size > self.inner.module_bytes_max {
            return Err(BadModule::TooLarge { size, max: self.inner.module_bytes_max });
        }
        check_preamble(bytes)?;
        // One at a time: inspections share the few instance slots that neither apply nor queries take.
        let _one = self.inner.inspecting.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = Digest::of(bytes);
        let prepared = match self.inner.modules.slot(&digest).claim(Duration::MAX) {
            Turn::Done(outcome) => outcome?,
            Turn::Yours(claim) => kept(claim, self.make_when_idle(&digest, bytes.to_vec()))?,
        };
        let (description, service) = match describe(&prepared, Limits::DEFAULT) {
            Ok(described) => described?,
            Err(fault) => return Err(BadModule::NotChecked(fault.0)),
        };
        Ok(Inspection {
            digest,
            size,
            name: description.name,
            version: description.version,
            schema: description.schema,
            world: WORLD.to_owned(),
            imports: prepared.imports,
            exports: prepared.exports,
            methods: service.methods,
            service: service.bytes,
        })
    }

    /// Whether this module is being compiled, so that its activation would wait for that.
    #[must_use]
    pub fn is_compiling(&self, digest: &Digest) -> bool {
        self.inner.modules.is_compiling(digest)
    }

    /// The module of this digest, from memory, from the cache folder, or compiled from what `load` gives, at once. Where
    /// another thread is at it, waits for it, but not for long.
    ///
    /// The outer error is what `load` says; the inner one is a property of the bytes, the same on every host.
    pub(crate) fn prepare(
        &self,
        digest: &Digest,
        load: impl FnOnce() -> Result<Vec<u8>, MachineFault>,
    ) -> Result<Result<Prepared, BadModule>, MachineFault> {
        let claim = match self.inner.modules.slot(digest).claim(PATIENCE) {
            Turn::Done(outcome) => return Ok(outcome),
            Turn::Yours(claim) => claim,
        };
        let outcome = match self.inner.cache.load(&self.inner.engine, digest) {
            Some(component) => self.link(&component),
            None => self.make(digest, &load()?),
        };
        Ok(kept(claim, outcome))
    }

    /// Compiles in a thread of its own, where nothing else wants the cores, so that a later [`Sandbox::prepare`] finds it
    /// done.
    pub(crate) fn prepare_in_background(&self, digest: Digest, bytes: Vec<u8>) {
        // From here on it counts as being compiled, whenever the thread begins.
        let Some(claim) = self.inner.modules.slot(&digest).claim_if_free() else {
            return;
        };
        let sandbox = self.clone();
        let spawned = std::thread::Builder::new().name("tg-module".to_owned()).spawn(move || {
            let _ = kept(claim, sandbox.make_when_idle(&digest, bytes));
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to compile a module ahead; its activation will wait");
        }
    }

    /// Waits for one of the instance slots that queries may use; none for a query that is cancelled meanwhile.
    pub(crate) fn query_slot(&self, cancellation: &Cancellation) -> Option<SlotGuard<'_>> {
        self.inner.query_slots.take(cancellation)
    }

    /// From the cache folder, or compiled, both where nothing else wants the cores.
    fn make_when_idle(&self, digest: &Digest, bytes: Vec<u8>) -> Result<Prepared, BadModule> {
        let (sandbox, digest) = (self.clone(), *digest);
        let made = when_idle(bytes.len(), move || match sandbox.inner.cache.load(&sandbox.inner.engine, &digest) {
            Some(component) => sandbox.link(&component),
            None => sandbox.make(&digest, &bytes),
        });
        made.unwrap_or_else(|| Err(BadModule::NotChecked("the compiler panicked; the log has the trace".to_owned())))
    }

    /// Compiled, and kept in the cache folder.
    fn make(&self, digest: &Digest, bytes: &[u8]) -> Result<Prepared, BadModule> {
        let begun = Instant::now();
        let component = self.compile(bytes)?;
        tracing::debug!(%digest, took = ?begun.elapsed(), "module compiled");
        self.inner.cache.store(digest, &component);
        self.link(&component)
    }

    fn compile(&self, bytes: &[u8]) -> Result<Component, BadModule> {
        check_preamble(bytes)?;
        if let Some(why) = too_complex(bytes) {
            return Err(BadModule::TooComplex(why));
        }
        Component::from_binary(&self.inner.engine, bytes).map_err(|e| {
            let why = short(&format!("{e:#}"));
            // The validator looks at the bytes alone; what it takes and the engine does not is this host's own trouble.
            match wasmparser::Validator::new_with_features(engine::validated()).validate_all(bytes) {
                Ok(_) => BadModule::NotChecked(format!("the engine does not compile it: {why}")),
                Err(_) => BadModule::Invalid(why),
            }
        })
    }

    fn link(&self, component: &Component) -> Result<Prepared, BadModule> {
        let (imports, exports) = check_world(&self.inner.engine, component)?;
        let link = || {
            let pre = self.inner.linker.instantiate_pre(component)?;
            let indices = StateMachineIndices::new(&pre)?;
            Ok((StateMachinePre::new(pre)?, indices))
        };
        let (pre, indices) = link().map_err(|e: wasmtime::Error| BadModule::WrongTypes(short(&format!("{e:#}"))))?;
        Ok(Prepared { pre, indices: Arc::new(indices), imports, exports })
    }
}

impl Prepared {
    /// Whether the module can give its data back to an older version of itself.
    pub(crate) fn downgrades(&self) -> bool {
        self.exports.iter().any(|name| name == DOWNGRADE_INTERFACE)
    }
}

/// The outcome, remembered; but not where the bytes did not decide it: then another's counts, if there is one,
/// and the next who asks tries again.
fn kept(
    claim: Claim<Result<Prepared, BadModule>>,
    outcome: Result<Prepared, BadModule>,
) -> Result<Prepared, BadModule> {
    match outcome {
        Err(BadModule::NotChecked(_)) => claim.made_by_another().unwrap_or(outcome),
        outcome => claim.fill(outcome),
    }
}

/// What a module says of itself, in a throw-away instance. The outer error is this host's, the inner the module's.
pub(crate) fn describe(
    prepared: &Prepared,
    limits: Limits,
) -> Result<Result<(crate::guest::Description, Service), BadModule>, MachineFault> {
    let described = Guest::instantiate(prepared, limits, label("module", "(describe)"), Some(engine::INSPECTION_FUEL))
        .and_then(|mut guest| guest.describe());
    Ok(match described {
        Ok(description) => check_description(&description).map(|service| (description, service)),
        Err(Ended::Rejected(rejection)) => Err(BadModule::Undescribed(rejection.message)),
        Err(Ended::Fault(fault)) => return Err(fault),
    })
}

/// A counting semaphore for threads.
struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Slots {
    fn new(free: usize) -> Self {
        Slots { free: Mutex::new(free), freed: Condvar::new() }
    }

    fn take(&self, cancellation: &Cancellation) -> Option<SlotGuard<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if cancellation.is_cancelled() {
                return None;
            }
            (free, _) = self.freed.wait_timeout(free, CANCELLED_LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Some(SlotGuard(self))
    }
}

/// Gives the slot back when dropped.
pub(crate) struct SlotGuard<'a>(&'a Slots);

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_slot_and_is_cancelled_gets_none_and_leaves_it_to_the_next() {
        let (slots, never) = (Slots::new(1), Cancellation::default());
        std::thread::scope(|scope| {
            // Given back when this fails, so that the thread ends.
            let _taken = slots.take(&never).unwrap();
            let cancellation = Cancellation::default();
            let (send, answered) = std::sync::mpsc::channel();
            let (slots, cancelled) = (&slots, cancellation.clone());
            scope.spawn(move || send.send(slots.take(&cancelled).is_some()).unwrap());
            assert!(answered.recv_timeout(CANCELLED_LOOK * 5).is_err(), "there is no slot");
            cancellation.cancel();
            assert_eq!(answered.recv_timeout(Duration::from_secs(30)), Ok(false));
        });
        assert!(slots.take(&never).is_some());
    }
}
