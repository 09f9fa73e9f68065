//! The machines of simulated nodes, and what their disks keep when the power goes. Two kinds: [`wasm`], what a real host
//! runs, on real files; and [`plain`], the same commands in plain memory, for worlds that want many simulated seconds.

use telegraft_node::ports::{Machine, MachineFault, Outcome};
use telegraft_raft::Index;

pub mod plain;
pub mod wasm;

#[cfg(all(test, feature = "campaigns"))]
mod tests;

/// A machine of a simulated node while its process runs.
pub trait RunningMachine: Machine {
    /// Runs one read on the newest applied state, and says at which index.
    ///
    /// # Errors
    ///
    /// Only for the machine's own defects.
    fn query(&mut self, method: &str, payload: &[u8]) -> Result<(Index, Outcome), MachineFault>;

    /// Digest of all state that entries decide; equal on every replica at an equal index.
    ///
    /// # Errors
    ///
    /// Only for the machine's own defects.
    fn state_digest(&mut self) -> Result<(Index, String), MachineFault>;

    /// Digest of the effects of all commands up to an index, where the machine keeps one; equal on every replica there.
    fn effect_digest(&self) -> Option<(Index, [u8; 32])> {
        None
    }
}

/// What a node's machine has on its disk, across processes.
pub trait MachineDisk {
    /// Starts the machine's process on what the disk holds.
    ///
    /// # Errors
    ///
    /// Where the disk holds nothing that a machine could start on.
    fn open(&mut self) -> Result<Box<dyn RunningMachine>, MachineFault>;

    /// The machine's process is gone (its box was dropped before) and the power with it: of what was not made durable any
    /// later commits are lost, and `rng` says how many; the first lost one may be there in part.
    fn lose_power(&mut self, rng: &mut fastrand::Rng);

    /// A new, empty disk. The process is gone before.
    fn wipe(&mut self);
}
