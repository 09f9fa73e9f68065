//! Every setting that makes a guest compute the same on every replica, each with its reason. Owns the engine's
//! configuration and the linker; nothing else in this crate configures Wasmtime.
//!
//! What these settings cannot equalise: fuel and stack depth depend on the version of Wasmtime and, for the stack, on
//! the processor's architecture; what SQL says depends on SQLite's version. So the engine has a [name](engine_name) that
//! says all of it, and an activation records the name: a host whose engine has another one does not guess, it stalls.

use std::sync::OnceLock;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy, WasmFeatures,
    component::{HasSelf, Linker},
};

use crate::{
    guest::{GuestState, bindings::StateMachine},
    limits::Limits,
    sandbox::SandboxError,
};

/// The version of Wasmtime in Cargo.lock (a test holds it there).
const WASMTIME: &str = "48.0.8";

/// Raised with every change below that could change a result.
const SETTINGS: u32 = 3;

/// What this host computes results with. Hosts with equal names give equal results.
#[must_use]
pub fn engine_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let (sqlite, architecture) = (rusqlite::version(), std::env::consts::ARCH);
        format!("wasmtime {WASMTIME}, sqlite {sqlite}, {architecture}, settings {SETTINGS}")
    })
}

/// Guest instances alive at one time in one engine. Queries take at most [`QUERY_INSTANCES_MAX`] of them, so that apply
/// and the inspection of uploads always find one.
pub(crate) const INSTANCES_MAX: u32 = 64;

/// Guest instances that queries may have alive at one time in one engine.
pub(crate) const QUERY_INSTANCES_MAX: u32 = 40;

/// Core instances in one component. Modules in Rust and JavaScript have 3; one in Python has 38, most of them CPython's libraries.
const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 64;

/// Linear memories in one component.
const MEMORIES_PER_COMPONENT_MAX: u32 = 2;

/// Tables in one component.
const TABLES_PER_COMPONENT_MAX: u32 = 4;

/// Elements of one table.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 65_536;

/// Stack of a guest, bytes. Fixed, because a deeper stack on one host would let a recursion succeed there alone.
const WASM_STACK_BYTES: usize = 512 << 10;

/// Fuel for instantiation (start functions, initialisation). What it burns differs between platforms, so a guest's own
/// budget is set only afterwards, and this bound lies so far above what an inspected module needs that it never decides.
pub(crate) const INSTANTIATION_FUEL: u64 = 10_000_000_000;

/// What a module may burn at instantiation when it is inspected: far below [`INSTANTIATION_FUEL`], so that a module
/// which passes inspection on one host cannot fail on another.
pub(crate) const INSPECTION_FUEL: u64 = 1_000_000_000;

/// Bytes that one guest call may hand to the host in all its calls of imports, and in each of them before they are copied
/// (Wasmtime's own count is one for each host call). Ends the call when it is exceeded: a list of many values that all
/// point to the same long string, or the same long text a million times, is cheap in the guest and dear in the host.
pub(crate) const HOSTCALL_BYTES_MAX: usize = 256 << 20;

pub(crate) fn engine() -> Result<Engine, SandboxError> {
    let mut config = Config::new();
    // One compiler on all hosts: fuel is counted in its instrumentation.
    config.strategy(Strategy::Cranelift);
    config.cranelift_opt_level(OptLevel::Speed);
    // Fuel is the only thing that may end a guest's computation: it counts instructions, not time.
    config.consume_fuel(true);
    // Epochs are wall-clock time; they must not decide a result.
    config.epoch_interruption(false);
    // The payload bits of a NaN differ between processors; here every NaN is the canonical one.
    config.cranelift_nan_canonicalization(true);
    // Relaxed SIMD may differ between processors unless it is told to take one defined result.
    config.relaxed_simd_deterministic(true);
    // Threads race. The feature is not compiled in either; said here so that it stays so.
    config.wasm_features(WasmFeatures::THREADS, false);
    config.shared_memory(false);
    // Async component functions interleave in an order that is the host's affair.
    config.concurrency_support(false);
    // A 64-bit memory's growth is bounded by address space, which differs.
    config.wasm_memory64(false);
    config.max_wasm_stack(WASM_STACK_BYTES);
    // A backtrace carries addresses; a trap's text is a result and must not. Also saves the walk.
    config.wasm_backtrace_max_frames(None);
    config.generate_address_map(false);
    config.parallel_compilation(true);

    // Not determinism but speed: a slot of the pool is reused with its pages, so that a fresh instance for an entry costs
    // tens of microseconds.
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX);
    pool.total_core_instances(INSTANCES_MAX * CORE_INSTANCES_PER_COMPONENT_MAX);
    pool.total_memories(INSTANCES_MAX * MEMORIES_PER_COMPONENT_MAX);
    pool.total_tables(INSTANCES_MAX * TABLES_PER_COMPONENT_MAX);
    pool.max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT_MAX);
    pool.max_memories_per_component(MEMORIES_PER_COMPONENT_MAX);
    pool.max_tables_per_component(TABLES_PER_COMPONENT_MAX);
    pool.table_elements(TABLE_ELEMENTS_MAX);
    pool.max_memory_size(usize::try_from(Limits::MAX.memory_bytes).unwrap_or(usize::MAX));
    pool.linear_memory_keep_resident(256 << 10);
    pool.table_keep_resident(4 << 10);
    pool.pagemap_scan(Enabled::Auto);
    pool.max_unused_warm_slots(INSTANCES_MAX);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));

    Engine::new(&config).map_err(|e| SandboxError::Engine(format!("{e:#}")))
}

/// The features of Wasm that the engine takes, for a validator that looks at the bytes alone.
pub(crate) fn validated() -> wasmparser::WasmFeatures {
    use wasmparser::WasmFeatures as F;
    F::default() & !(F::MEMORY64 | F::THREADS | F::SHARED_EVERYTHING_THREADS | F::CM_ASYNC)
}

/// The linker: the store and the log, and nothing else from outside.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<GuestState>, SandboxError> {
    let mut linker = Linker::new(engine);
    StateMachine::add_to_linker::<_, HasSelf<GuestState>>(&mut linker, |state| state)
        .map_err(|e| SandboxError::Engine(format!("{e:#}")))?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_s_name_has_the_version_that_is_compiled_in() {
        let lock = include_str!("../../../Cargo.lock");
        let versions: Vec<_> = lock
            .split("[[package]]")
            .filter(|package| package.contains("\nname = \"wasmtime\"\n"))
            .filter_map(|package| package.split("version = \"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(versions, [WASMTIME]);
        assert!(engine_name().contains(rusqlite::version()), "{}", engine_name());
    }
}
