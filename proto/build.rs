//! Compiles the .proto files with protox (no protoc needed). Each package also gets its file descriptor set: a module
//! embeds its own, the host's reflection serves the rest.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PACKAGES: &[(&str, &[&str])] = &[
    ("telegraft", &["telegraft/v1/telegraft.proto"]),
    ("internal", &["telegraft/internal/v1/entry.proto", "telegraft/internal/v1/peer.proto"]),
    ("chat", &["chat/v1/chat.proto"]),
    ("kv", &["kv/v1/kv.proto"]),
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (name, files) in PACKAGES {
        for file in *files {
            println!("cargo::rerun-if-changed={file}");
        }
        let descriptors = protox::compile(*files, ["."])?;
        fs::write(out.join(format!("{name}.bin")), descriptors.encode_to_vec())?;

        let mut config = prost_build::Config::new();
        config.bytes(["."]);
        #[cfg(feature = "grpc")]
        tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
        #[cfg(not(feature = "grpc"))]
        config.compile_fds(descriptors)?;
    }
    Ok(())
}
