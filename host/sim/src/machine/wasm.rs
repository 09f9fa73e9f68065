//! The machine that a real host runs, Wasm guest and SQLite and all, on files of its own; and what a loss of power leaves
//! of them.
//!
//! SQLite commits by appending frames to a write-ahead log and syncs nothing (`synchronous=NORMAL`); a checkpoint syncs the
//! log, copies its frames into the database file, and syncs that. So of the database file nothing can be lost between
//! calls, and of the log everything behind the frames that the newest checkpoint has copied: it may be cut anywhere, or
//! keep some blocks and lack others. SQLite finds the end by the frames' running sums when it opens the file, and drops a
//! commit of which a frame is missing. How many frames were copied stands in the log's index in shared memory, and is
//! forgotten when a process opens the log anew; so it is remembered here. What is found after one loss of power was on
//! the disk, and is not lost by the next.
//! (<https://www.sqlite.org/walformat.html> §2.1; <https://www.sqlite.org/fileformat2.html> §4)

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use telegraft_node::ports::{Machine, MachineFault, Outcome, Queries};
use telegraft_raft::{Entry, Index, Snapshot, SnapshotMeta};
use telegraft_sandbox::{MachineReader, Sandbox, SandboxOptions, SqliteMachine};
use tempfile::TempDir;

use super::{MachineDisk, RunningMachine};

/// Where files are in memory, on most Linux systems.
const MEMORY_FOLDER: &str = "/dev/shm";

/// Bytes of the log's own header, before its first frame.
const LOG_HEADER_BYTES: u64 = 32;

/// Bytes of a frame before its page.
const FRAME_HEADER_BYTES: u64 = 24;

/// Bytes that a disk writes at once; whether one block is there says nothing of another.
const BLOCK_BYTES: u64 = 512;

/// A disk with a real machine's files, in a temporary folder that goes with it.
#[derive(Debug)]
pub struct WasmDisk {
    sandbox: Sandbox,
    folder: TempDir,
    synced: Synced,
    /// Whether the power was lost since a process last opened the files.
    lost_power: bool,
}

/// Frames of a log of which no power loss takes any.
#[derive(Clone, Copy, Debug, Default)]
struct Synced {
    /// They tell the log from the one before, which had its place in the file.
    salts: [u8; 8],
    frames: u64,
}

/// A real machine's process.
struct WasmMachine {
    // In this order they are dropped: as long as a reading connection is open, closing the writing one neither runs a
    // checkpoint nor removes the log, and a reading one cannot. So the files stay as a killed process leaves them.
    machine: SqliteMachine,
    reader: MachineReader,
}

impl WasmDisk {
    /// A new, empty disk.
    ///
    /// # Errors
    ///
    /// Where there is no room for temporary files, or the Wasm engine does not start.
    pub fn new() -> Result<WasmDisk, MachineFault> {
        let folder = folder().map_err(|e| disk_fault(&e))?;
        Ok(WasmDisk { sandbox: shared_sandbox()?, folder, synced: Synced::default(), lost_power: false })
    }

    /// Reads what the index says, and remembers what it will forget.
    fn look(&mut self) -> Option<LogIndex> {
        let mut index = LogIndex::read(&self.path("machine.db-shm"))?;
        if index.salts == self.synced.salts {
            index.copied = index.copied.max(self.synced.frames);
        }
        self.synced = Synced { salts: index.salts, frames: index.copied };
        Some(index)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

static SANDBOX: Mutex<Option<Sandbox>> = Mutex::new(None);

/// Has [`shared_sandbox`] keep what it compiles in a folder, for later processes. To be called before anything is
/// simulated; afterwards it changes nothing.
///
/// # Errors
///
/// Where the folder cannot be used, or the Wasm engine does not start.
pub fn keep_compiled_in(folder: &Path) -> Result<(), MachineFault> {
    let mut shared = SANDBOX.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.is_none() {
        let sandbox = Sandbox::new(SandboxOptions::new(folder)).map_err(|e| MachineFault(e.to_string()))?;
        *shared = Some(sandbox);
    }
    Ok(())
}

/// The one sandbox of this process: its engine reserves much address space, and a module is compiled once for all worlds.
///
/// # Errors
///
/// Where there is no room for temporary files, or the Wasm engine does not start.
pub fn shared_sandbox() -> Result<Sandbox, MachineFault> {
    let mut shared = SANDBOX.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sandbox) = &*shared {
        return Ok(sandbox.clone());
    }
    // The cache folder is gone when this returns: the sandbox keeps what it compiled in memory, and nothing would remove
    // the folder when the process ends.
    let cache = folder().map_err(|e| disk_fault(&e))?;
    let sandbox = Sandbox::new(SandboxOptions::new(cache.path())).map_err(|e| MachineFault(e.to_string()))?;
    Ok(shared.insert(sandbox).clone())
}

fn folder() -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("telegraft-sim-");
    builder.tempdir_in(MEMORY_FOLDER).or_else(|_| builder.tempdir())
}

fn disk_fault(error: &io::Error) -> MachineFault {
    MachineFault(format!(
        "the simulated disk's files: {error}; is there room in {MEMORY_FOLDER} or the temporary folder?"
    ))
}

impl MachineDisk for WasmDisk {
    fn open(&mut self) -> Result<Box<dyn RunningMachine>, MachineFault> {
        let _ = self.look();
        let (machine, reader) = telegraft_sandbox::open(self.sandbox.clone(), self.folder.path())?;
        let machine = WasmMachine { machine, reader };
        machine.hold()?;
        if std::mem::take(&mut self.lost_power)
            && let Some(index) = self.look()
        {
            self.synced.frames = index.newest;
        }
        Ok(Box::new(machine))
    }

    fn lose_power(&mut self, rng: &mut fastrand::Rng) {
        let log = self.path("machine.db-wal");
        if let Some(unsynced) = self.look().and_then(|index| Unsynced::find(log, &index)) {
            unsynced.lose(rng).expect("the simulated disk's files can be written");
        }
        remove(&self.path("machine.db-shm"));
        self.lost_power = true;
    }

    fn wipe(&mut self) {
        self.folder = folder().expect("there is room for a simulated disk");
        self.synced = Synced::default();
        self.lost_power = false;
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            panic!("{} cannot be removed: {error}", path.display())
        }
        _ => {}
    }
}

impl WasmMachine {
    /// Has a reading connection opened, which stays open while nobody reads.
    fn hold(&self) -> Result<(), MachineFault> {
        self.reader.modules().map(drop)
    }
}

impl Machine for WasmMachine {
    fn applied_index(&self) -> Index {
        self.machine.applied_index()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, MachineFault> {
        self.machine.apply(entries)
    }

    fn make_durable(&mut self) -> Result<Index, MachineFault> {
        self.machine.make_durable()
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineFault> {
        self.machine.snapshot()
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), MachineFault> {
        self.machine.restore(snapshot)?;
        // All reading connections were closed.
        self.hold()
    }

    fn restored_from(&self) -> Option<SnapshotMeta> {
        self.machine.restored_from()
    }

    fn halted(&self) -> Option<String> {
        self.machine.halted()
    }

    fn take_proposals(&mut self) -> Vec<Bytes> {
        self.machine.take_proposals()
    }
}

impl RunningMachine for WasmMachine {
    fn query(&mut self, method: &str, payload: &[u8]) -> Result<(Index, Outcome), MachineFault> {
        self.reader.query(method, payload)
    }

    fn state_digest(&mut self) -> Result<(Index, String), MachineFault> {
        self.reader.state_digest()
    }

    fn effect_digest(&self) -> Option<(Index, [u8; 32])> {
        Some(self.reader.effect_digest())
    }
}

/// What stands in a log's index.
struct LogIndex {
    salts: [u8; 8],
    /// Bytes of a page.
    page: u64,
    /// Frames up to the end of the newest commit.
    newest: u64,
    /// Frames that are in the database file.
    copied: u64,
}

impl LogIndex {
    /// The index begins with its header (48 bytes, twice), then how many frames a checkpoint has copied. Integers are the
    /// processor's own; the salts are those of the log, byte by byte.
    fn read(path: &Path) -> Option<LogIndex> {
        let index: [u8; 100] = head(path)?;
        let word = |at: usize| index.get(at..at + 4).and_then(|w| w.try_into().ok()).map(u32::from_ne_bytes);
        let half = |at: usize| index.get(at..at + 2).and_then(|w| w.try_into().ok()).map(u16::from_ne_bytes);
        let page = match u64::from(half(14)?) {
            1 => 65_536,
            page => page,
        };
        let salts = index.get(32..40)?.try_into().ok()?;
        Some(LogIndex { salts, page, newest: word(16)?.into(), copied: word(96)?.into() })
    }
}

/// The part of a write-ahead log that no sync has covered.
struct Unsynced {
    log: PathBuf,
    /// Bytes of the file before it.
    from: u64,
    /// Where the newest commit ends.
    to: u64,
}

impl Unsynced {
    /// None where everything is in the database file, or synced.
    fn find(log: PathBuf, index: &LogIndex) -> Option<Unsynced> {
        // When the log begins anew the index knows it before the file does; then the file's frames are all copied.
        let header: [u8; 32] = head(&log)?;
        if index.newest <= index.copied || header.get(16..24)? != index.salts {
            return None;
        }
        let end = |frames: u64| LOG_HEADER_BYTES + frames * (FRAME_HEADER_BYTES + index.page);
        Some(Unsynced { log, from: end(index.copied), to: end(index.newest) })
    }

    /// Loses some of it, in one of the ways in which a disk does.
    fn lose(&self, rng: &mut fastrand::Rng) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(&self.log)?;
        let cut = rng.u64(self.from..=self.to);
        match rng.u8(..8) {
            // The power went when everything had been written back.
            0 => Ok(()),
            // Nothing had.
            1 => file.set_len(self.from),
            // The file's length was written, its blocks were not.
            2 => overwrite(&mut file, cut, self.to, |block| block.fill(0)),
            // Some blocks were written, in any order.
            3 => overwrite(&mut file, self.from, self.to, |block| {
                if rng.bool() {
                    block.fill(0);
                }
            }),
            // The block under the head is garbage.
            4 => {
                file.set_len(cut)?;
                let from = self.from.max(cut.saturating_sub(BLOCK_BYTES));
                overwrite(&mut file, from, cut, |block| rng.fill(block))
            }
            _ => file.set_len(cut),
        }
    }
}

/// Changes the bytes from `from` to `to`, block by block.
fn overwrite(file: &mut File, from: u64, to: u64, mut change: impl FnMut(&mut [u8])) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let end = to.min((at / BLOCK_BYTES + 1) * BLOCK_BYTES);
        let mut block = vec![0; usize::try_from(end - at).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut block)?;
        change(&mut block);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&block)?;
        at = end;
    }
    Ok(())
}

/// The first bytes of a file, if it has so many.
fn head<const N: usize>(path: &Path) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).ok()?;
    Some(bytes)
}
