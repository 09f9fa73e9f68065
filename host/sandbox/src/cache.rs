//! Compiled modules on disk: `<digest>-<engine>.cwasm` in the cache folder.
//!
//! Format: 8 bytes `TGCWASM1`, 32 bytes SHA-256 of the rest, the rest: the engine's artifact. Written to a temporary name
//! and renamed, so a file that has its name is whole; not synced, since a file that was damaged by a power loss fails its
//! checksum and is compiled again. Only a cache: whatever is wrong with it costs time, never a result.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::module::Digest;

const MAGIC: &[u8; 8] = b"TGCWASM1";
const HEAD: usize = MAGIC.len() + 32;

/// The cache folder, for one engine configuration.
pub(crate) struct Cache {
    dir: PathBuf,
    engine_hash: u64,
    temporary: AtomicU64,
}

impl Cache {
    /// Makes the folder where there is none.
    pub(crate) fn open(dir: &Path, engine: &Engine) -> io::Result<Cache> {
        fs::create_dir_all(dir)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Cache { dir: dir.to_owned(), engine_hash: hasher.finish(), temporary: AtomicU64::new(0) })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}-{:016x}.cwasm", self.engine_hash))
    }

    /// The compiled module, if it is here and sound.
    pub(crate) fn load(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let file = match fs::read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled module cannot be read; compiling it again");
                return None;
            }
        };
        let Some(artifact) = checked(&file) else {
            tracing::warn!(path = %path.display(), "a compiled module is damaged; compiling it again");
            return None;
        };
        // SAFETY: `deserialize` runs what it is given, so it must be given only what this engine's compiler made.
        // These bytes were written by `store` below (the checksum, which covers all of them, tells that nothing was
        // changed by accident since), for an engine of this configuration (its hash is in the file's name, and the
        // artifact's own header is checked by `deserialize`). The folder is this host's own: whoever can write to it can
        // replace the binary beside it as well.
        #[allow(unsafe_code)]
        let component = unsafe { Component::deserialize(engine, artifact) };
        match component {
            Ok(component) => Some(component),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(path = %path.display(), error, "a compiled module does not fit; compiling it again");
                None
            }
        }
    }

    /// Keeps a compiled module. A failure is logged, no more: the module works without.
    pub(crate) fn store(&self, digest: &Digest, component: &Component) {
        let path = self.path(digest);
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{digest}.{}.{number}.tmp", std::process::id()));
        let written = component.serialize().map_err(io::Error::other).and_then(|artifact| {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(MAGIC)?;
            file.write_all(&Sha256::digest(&artifact))?;
            file.write_all(&artifact)?;
            fs::rename(&temporary, &path)
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "a compiled module cannot be kept");
            let _ = fs::remove_file(&temporary);
        }
    }
}

/// The artifact in a file whose magic and checksum are right.
fn checked(file: &[u8]) -> Option<&[u8]> {
    let head = file.get(..HEAD)?;
    let artifact = file.get(HEAD..)?;
    let (magic, sum) = head.split_at(MAGIC.len());
    (magic == MAGIC && Sha256::digest(artifact).as_slice() == sum).then_some(artifact)
}
