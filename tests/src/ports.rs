//! Ports for clusters that run side by side.
//!
//! Asking the kernel for "any free port" is not enough here: a host that is killed and started again needs the same ports,
//! and meanwhile any outgoing connection could have been given one of them. So ports are taken from below the range that
//! Linux gives to outgoing connections (32768 and up), in blocks, and a block is reserved by a lock on a file that every
//! process of this machine agrees on.

use std::{
    fs::{self, File, OpenOptions},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process,
};

use anyhow::{Context, Result, bail};

/// First port of the first block.
const FIRST_PORT: u16 = 18_000;
/// Ports in a block: three for each of up to five hosts, and one to spare.
const PORTS_PER_BLOCK: u16 = 16;
/// Number of blocks; the last ends below 32768.
const BLOCKS: u16 = 800;
/// Hosts that fit a block.
pub const HOSTS_MAX: u64 = 5;

/// Where one host listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC for clients.
    pub client: SocketAddr,
    /// gRPC for the other hosts.
    pub peer: SocketAddr,
    /// Metrics and health over HTTP.
    pub http: SocketAddr,
}

impl Addresses {
    /// Three consecutive ports on loopback: client, peer, HTTP.
    pub fn from_port(first: u16) -> Self {
        let at = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, first + offset));
        Self { client: at(0), peer: at(1), http: at(2) }
    }

    /// Whether nobody listens on any of the three.
    pub fn are_free(&self) -> bool {
        [self.client, self.peer, self.http].into_iter().all(|address| TcpListener::bind(address).is_ok())
    }
}

/// Keeps others of us from the same ports, for as long as the file lives; none where another process has it already.
///
/// # Errors
///
/// Where the lock folder cannot be used.
pub fn claim(name: &str) -> Result<Option<File>> {
    let folder = lock_folder();
    fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
    let path = folder.join(format!("{name}.lock"));
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("opening {}", path.display()))?;
    Ok(lock.try_lock().is_ok().then_some(lock))
}

/// A reserved block of ports. Dropping it gives the block back.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    _lock: File,
}

impl PortBlock {
    /// Reserves a block whose ports are all free.
    ///
    /// # Errors
    ///
    /// Where the lock folder cannot be used, or every block is taken.
    pub fn reserve() -> Result<Self> {
        // Where to begin looking differs between processes, so that they seldom try the same block.
        let offset = u16::try_from(process::id() % u32::from(BLOCKS)).unwrap_or_default();
        for step in 0..BLOCKS {
            let block = (offset + step) % BLOCKS;
            let Some(lock) = claim(&format!("block-{block}"))? else { continue };
            let reserved = Self { first: FIRST_PORT + block * PORTS_PER_BLOCK, _lock: lock };
            if (1..=HOSTS_MAX).all(|host| reserved.addresses(host).are_free()) {
                return Ok(reserved);
            }
        }
        bail!("no free block of {PORTS_PER_BLOCK} ports from {FIRST_PORT} on; locks are in {}", lock_folder().display())
    }

    /// The ports of host `id`, counted from 1 to [`HOSTS_MAX`].
    pub fn addresses(&self, id: u64) -> Addresses {
        let host = u16::try_from(id.saturating_sub(1) % HOSTS_MAX).unwrap_or_default();
        Addresses::from_port(self.first + host * 3)
    }
}

/// One folder for each user, so that nobody stumbles over another user's lock files.
fn lock_folder() -> PathBuf {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "nameless".to_owned());
    std::env::temp_dir().join(format!("telegraft-test-ports-{user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_share_no_port() -> Result<()> {
        let (one, other) = (PortBlock::reserve()?, PortBlock::reserve()?);
        assert!(one.first.abs_diff(other.first) >= PORTS_PER_BLOCK, "{} and {}", one.first, other.first);
        Ok(())
    }

    #[test]
    fn a_block_with_a_listener_on_it_is_passed_over() -> Result<()> {
        let block = PortBlock::reserve()?;
        let first = block.first;
        let _listener = TcpListener::bind(block.addresses(2).peer)?;
        drop(block);
        assert_ne!(PortBlock::reserve()?.first, first);
        Ok(())
    }
}
