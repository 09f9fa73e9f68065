//! What the log asks of RocksDB, each setting with its reason. Owns the sizes.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel};

/// Sizes of a log in RocksDB. The default suits a host with one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of the newest entries that are held in memory, so that replication and apply need not read the disk.
    pub tail_cache_bytes: usize,
    /// Bytes of entries that RocksDB collects in memory before it writes a table of them.
    pub memtable_bytes: usize,
    /// Bytes of all write-ahead files, roughly; what a restart has to read through at most.
    pub wal_bytes_max: u64,
    /// Bytes of table blocks held in memory: reads behind the tail are long runs, which caching does not help.
    pub block_cache_bytes: usize,
    /// Table files held open.
    pub open_files_max: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tail_cache_bytes: 16 << 20,
            memtable_bytes: 16 << 20,
            wal_bytes_max: 64 << 20,
            block_cache_bytes: 2 << 20,
            open_files_max: 128,
        }
    }
}

/// Memtables of entries: one that fills, and those that wait to be written.
const MEMTABLES_MAX: i32 = 3;
/// The other family's memtable: the hard state, again and again.
const STATE_MEMTABLE_BYTES: usize = 4 << 20;
const BLOCK_BYTES: usize = 32 << 10;
const INFO_LOG_BYTES: usize = 1 << 20;

/// Settings of the whole database.
pub(super) fn database(options: &Options) -> rocksdb::Options {
    let mut settings = rocksdb::Options::default();
    settings.create_if_missing(true);
    settings.create_missing_column_families(true);
    settings.set_paranoid_checks(true);
    // Refuses a damaged record instead of ending the log there; `wal.rs` sees the cases that this mode overlooks. It rules
    // out recycled files, whose old contents could not be told from a torn end.
    settings.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    settings.set_recycle_log_file_num(0);
    // A write-ahead file that was closed and is gone or shorter at restart is damage, too.
    settings.set_track_and_verify_wals_in_manifest(true);
    // fdatasync, not fsync: it carries the file's length along, and times are of no interest.
    settings.set_use_fsync(false);
    settings.set_max_total_wal_size(options.wal_bytes_max);
    settings.set_max_open_files(options.open_files_max);
    // One writer: nothing to group or to insert side by side.
    settings.set_allow_concurrent_memtable_write(false);
    settings.set_enable_write_thread_adaptive_yield(false);
    // One flush and one compaction at a time; entries arrive sorted, so compaction mostly renames.
    settings.set_max_background_jobs(2);
    // Background writes go out in small steps, so that an fsync of the write-ahead file does not wait behind them.
    settings.set_bytes_per_sync(512 << 10);
    // An idle host does nothing: no periodic statistics.
    settings.set_stats_dump_period_sec(0);
    settings.set_stats_persist_period_sec(0);
    settings.set_skip_stats_update_on_db_open(true);
    settings.set_log_level(LogLevel::Warn);
    settings.set_keep_log_file_num(2);
    settings.set_max_log_file_size(INFO_LOG_BYTES);
    settings
}

/// Settings of the entries' family.
pub(super) fn entries(options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut settings = family(cache);
    settings.set_write_buffer_size(options.memtable_bytes);
    settings.set_max_write_buffer_number(MEMTABLES_MAX);
    settings
}

/// Settings of the family of everything else.
pub(super) fn state(cache: &Cache) -> rocksdb::Options {
    let mut settings = family(cache);
    settings.set_write_buffer_size(STATE_MEMTABLE_BYTES);
    settings.set_max_write_buffer_number(2);
    settings
}

/// The cache that both families share.
pub(super) fn cache(options: &Options) -> Cache {
    Cache::new_lru_cache(options.block_cache_bytes)
}

fn family(cache: &Cache) -> rocksdb::Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(BLOCK_BYTES);
    table.set_block_cache(cache);
    let mut settings = rocksdb::Options::default();
    settings.set_block_based_table_factory(&table);
    settings.set_compression_type(DBCompressionType::Lz4);
    settings
}
