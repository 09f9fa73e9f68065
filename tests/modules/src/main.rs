//! `telegraft-modules DIR`: writes the modules as files, and prints the name, size and SHA-256 of each.

#![forbid(unsafe_code)]

use std::{env, ffi::OsString, fs, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let [folder] = arguments.as_slice() else {
        eprintln!("usage: telegraft-modules DIR\n\nWrites the modules of this repository into DIR.");
        return ExitCode::from(2);
    };
    match write_all(Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("telegraft-modules: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for (name, component) in telegraft_modules::ALL {
        let file = folder.join(name);
        fs::write(&file, component).with_context(|| format!("cannot write {}", file.display()))?;
        let digest: String = Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{name}  {} bytes  sha256 {digest}", component.len());
    }
    Ok(())
}
