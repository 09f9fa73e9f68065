//! For the `build.rs` of a module written in Rust: makes Rust of its .proto file. Needs no protoc.
//!
//! ```no_run
//! fn main() -> Result<(), telegraft_guest_build::Error> {
//!     telegraft_guest_build::compile("proto/poll.proto")
//! }
//! ```
//!
//! The module takes it in with `telegraft_guest::include_proto!("poll.v1")`, the name of the protobuf package. There are then:
//!
//! - the messages (prost's; `bytes` as `Vec<u8>`);
//! - `FILE_DESCRIPTOR_SET`, the service's description, which clients and the host's reflection read;
//! - for each service, say `Polls`, a trait `Polls` with a function for each rpc, and a type `PollsService` that finds the
//!   function by the method's full name. An rpc marked `option idempotency_level = NO_SIDE_EFFECTS;` is a query and gets a
//!   `telegraft_guest::Query`, which cannot write; each other one is a command and gets a `telegraft_guest::Command`.
//!
//! Messages of other packages are looked for where the packages' modules would be relative to this one; those of
//! `google.protobuf` in the crate `prost-types`, which the module then depends on.

#![forbid(unsafe_code)]

mod generate;
mod service;

use std::{
    env,
    fmt::{self, Debug},
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;
use protox::Compiler;

use crate::generate::Generator;

/// Compiles one .proto file, whose imports are looked for beside it.
///
/// # Errors
///
/// [`Error`]; where `main` returns it, cargo shows its text.
pub fn compile(file: impl AsRef<Path>) -> Result<(), Error> {
    Builder::new().compile(&[file])
}

/// Compiles .proto files, and says where to look for them.
#[derive(Debug, Default)]
pub struct Builder {
    includes: Vec<PathBuf>,
    out: Option<PathBuf>,
}

impl Builder {
    /// As [`compile`] does it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A folder that imports, and the files themselves, are named from. Without one: the folder of each file.
    #[must_use]
    pub fn include(mut self, folder: impl Into<PathBuf>) -> Self {
        self.includes.push(folder.into());
        self
    }

    /// Where the generated files go. Without it: where cargo wants them, and `include_proto!` looks.
    #[must_use]
    pub fn out(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out = Some(folder.into());
        self
    }

    /// Compiles the files of one module. All its services come from one such call.
    ///
    /// # Errors
    ///
    /// [`Error`]; where `main` returns it, cargo shows its text.
    pub fn compile(self, files: &[impl AsRef<Path>]) -> Result<(), Error> {
        let files: Vec<&Path> = files.iter().map(AsRef::as_ref).collect();
        self.run(&files)
    }

    fn run(self, files: &[&Path]) -> Result<(), Error> {
        let out = match self.out {
            Some(folder) => folder,
            None => PathBuf::from(env::var_os("OUT_DIR").ok_or(Error::NoBuildScript)?),
        };
        let mut includes = self.includes;
        if includes.is_empty() {
            includes.extend(files.iter().map(|file| match file.parent() {
                Some(folder) if folder != Path::new("") => folder.to_owned(),
                _ => PathBuf::from("."),
            }));
            includes.dedup();
        }
        for file in files {
            println!("cargo::rerun-if-changed={}", file.display());
        }

        let mut compiler = Compiler::new(&includes).map_err(protobuf)?;
        compiler.include_imports(true).include_source_info(true);
        for file in files {
            if !file.is_file() && !includes.iter().any(|folder| folder.join(file).is_file()) {
                return Err(Error::NoFile { file: file.to_path_buf() });
            }
            compiler.open_file(file).map_err(protobuf)?;
        }
        for import in compiler.files().filter_map(|file| file.path()) {
            println!("cargo::rerun-if-changed={}", import.display());
        }
        let own: Vec<String> =
            compiler.files().filter(|file| !file.is_import()).map(|file| file.name().to_owned()).collect();
        let descriptors = compiler.file_descriptor_set();

        let services = service::check(&descriptors, &own)?;
        let write = |name: String, bytes: &[u8]| {
            let file = out.join(name);
            fs::write(&file, bytes).map_err(|source| Error::Write { file, source })
        };
        for package in services.packages() {
            write(generate::descriptors_file(package), &descriptors.encode_to_vec())?;
        }
        let mut config = prost_build::Config::new();
        config.prost_path("::telegraft_guest::prost").out_dir(&out);
        config.service_generator(Box::new(Generator::new(services)));
        config.compile_fds(descriptors).map_err(|source| Error::Write { file: out.clone(), source })
    }
}

fn protobuf(error: protox::Error) -> Error {
    // The long form has the file, the line and the column, where there are such.
    let what = format!("{error:?}");
    match error.file() {
        Some(file) if !what.contains(file) => Error::Protobuf { what: format!("{file}: {what}") },
        _ => Error::Protobuf { what },
    }
}

/// Why there is no Rust of a .proto file. `Debug` is for people too, since a build script's error is shown so.
#[derive(thiserror::Error)]
pub enum Error {
    /// Not run by cargo.
    #[error("OUT_DIR is not set: this belongs into a build.rs, which cargo runs")]
    NoBuildScript,
    /// The file is missing.
    #[error("there is no file {}: name it from the folder of the package's Cargo.toml", file.display())]
    NoFile {
        /// As it was named.
        file: PathBuf,
    },
    /// Not protobuf.
    #[error("{what}")]
    Protobuf {
        /// File, line, and what is wrong there.
        what: String,
    },
    /// Protobuf, but no module's service.
    #[error("{file}: {what}")]
    Service {
        /// As imports name it.
        file: String,
        /// Which method or message, and what to do.
        what: String,
    },
    /// The generated code cannot be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// File or folder.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
