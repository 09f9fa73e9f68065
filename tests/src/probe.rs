//! Small modules for tests, made from `probe.wat`: what they say of themselves and what `init` and `downgrade` run is
//! chosen by the test, and their methods run the SQL they are sent.

use std::path::Path;

use anyhow::{Context, Result};
use telegraft_proto::v1::{CallReply, Consistency, ReadCall, WriteCall};
use tonic::Status;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::{client::HostClient, polling::PATIENCE};

/// A method that executes its payload; the reply is the module's version.
pub const RUN: &str = "run/Sql";
/// A method that does nothing; the reply is the module's version.
pub const VERSION: &str = "version/Get";
/// A method that never ends by itself.
pub const LOOP: &str = "loop/Forever";
/// A read of the first value that its payload finds.
pub const QUERY: &str = "query/Sql";

/// A module.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The version of its data layout.
    pub schema: u32,
    /// The statement that `init` runs; empty for none.
    pub init: &'static str,
    /// The statement with which it gives its data back to an older version, where it offers that.
    pub downgrade: Option<&'static str>,
}

/// One with a table `t(k, v)`.
pub const PROBE: Probe = Probe {
    name: "probe",
    version: "1.0.0",
    schema: 1,
    init: "CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT)",
    downgrade: None,
};

impl Probe {
    /// The component.
    ///
    /// # Errors
    ///
    /// Where `probe.wat` and the WIT do not fit together.
    pub fn build(&self) -> Result<Vec<u8>> {
        let escaped = |text: &str| text.bytes().map(|byte| format!("\\{byte:02x}")).collect::<String>();
        let downgrade = self.downgrade.unwrap_or_default();
        let mut text = include_str!("probe.wat").replace("{schema}", &self.schema.to_string());
        for (word, value) in
            [("name", self.name), ("version", self.version), ("init", self.init), ("downgrade", downgrade)]
        {
            text = text.replace(&format!("{{{word}}}"), &escaped(value));
            text = text.replace(&format!("{{{word}_len}}"), &value.len().to_string());
        }
        let export = r#"(export "telegraft:machine/downgrade@0.1.0#downgrade" (func $to_older))"#;
        let (export, world) = match self.downgrade {
            Some(_) => (export, "reversible-state-machine"),
            None => ("", "state-machine"),
        };
        let mut core = wat::parse_str(text.replace("{export_downgrade}", export)).context("probe.wat")?;
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit"))?;
        let world = resolve.select_world(&[package], Some(world))?;
        embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8)?;
        ComponentEncoder::default().module(&core)?.validate(true).encode()
    }
}

/// Sends a write to one host, once.
///
/// # Errors
///
/// Those of the call.
pub async fn write(host: &HostClient, method: &str, payload: &str) -> Result<CallReply, Status> {
    let payload = payload.to_owned().into_bytes().into();
    host.request(WriteCall { method: method.to_owned(), payload, ..Default::default() }, PATIENCE).await
}

/// Sends a read to one host, once.
///
/// # Errors
///
/// Those of the call.
pub async fn read(host: &HostClient, sql: &str, consistency: Consistency, min_index: u64) -> Result<CallReply, Status> {
    let payload = sql.to_owned().into_bytes().into();
    let call = ReadCall {
        method: QUERY.to_owned(),
        payload,
        consistency: consistency.into(),
        min_index,
        ..Default::default()
    };
    host.query(call, PATIENCE).await
}
