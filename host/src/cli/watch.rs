//! The module of `dev`: a component's file, or a project that is built; with `--watch`, looked at while the cluster runs, and
//! swapped when it has changed.
//!
//! Whatever goes wrong on the way (sources that do not compile, a cluster that refuses) is said, and the module that was
//! active goes on; the next change is the next try.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::json;
use telegraft_author::{Sources, project_of};
use telegraft_proto::v1::ModuleInfo;

use super::{
    author::build_with_progress,
    connect::Connection,
    failure::{Failure, Kind},
    module::{activate, digest_of, info_json, list, read, upload},
    output::{Output, short_digest},
};

/// How often the sources are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Sources that stay the same for so long have been written to their end: an editor or a checkout writes many in a row.
const SETTLED: Duration = Duration::from_millis(150);

/// How long the hosts that follow may take to switch too: each compiles the module for itself, and a large one takes a while.
const EVERYWHERE_LIMIT: Duration = Duration::from_secs(120);

/// How often they are asked.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// How long one may take to answer that.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Where a module comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A component's file.
    Component(PathBuf),
    /// The folder of a project.
    Project(PathBuf),
}

impl Source {
    /// As `--module` names it.
    pub fn of(path: &Path) -> Self {
        project_of(path).map_or_else(|| Self::Component(path.to_owned()), Self::Project)
    }

    /// What is watched.
    pub fn path(&self) -> &Path {
        match self {
            Self::Component(path) | Self::Project(path) => path,
        }
    }

    /// The component's bytes; a project is built first.
    ///
    /// # Errors
    ///
    /// What is wrong with the file or the project. Of the kind [`Kind::Refused`] where the sources are at fault.
    pub async fn bytes(&self, output: Output) -> Result<Bytes, Failure> {
        match self {
            Self::Component(file) => read(file),
            Self::Project(folder) => {
                let folder = folder.clone();
                let built = tokio::task::spawn_blocking(move || build_with_progress(&folder, output)).await;
                let built = built.map_err(|error| Failure::refused(format!("the build broke off: {error}")))??;
                read(&built.file)
            }
        }
    }
}

/// Uploads and activates, where it is not active already.
///
/// # Errors
///
/// The cluster's refusal.
pub async fn bring_in(
    connection: &Connection,
    bytes: Bytes,
    reuse: bool,
    output: Output,
) -> Result<ModuleInfo, Failure> {
    let digest = digest_of(&bytes);
    if let Some(active) = active(connection).await?.filter(|module| module.digest == digest && module.reuse == reuse) {
        return Ok(active);
    }
    let uploaded = upload(connection, bytes, !output.json).await?;
    let activated = activate(connection, &uploaded.digest, reuse).await?;
    activated.module.ok_or_else(|| Failure::refused("the host did not say what it has activated"))
}

/// Waits until every host that answers has switched to the module, so that whichever is asked next has it. After
/// [`EVERYWHERE_LIMIT`] it is for the status to say which lag behind.
pub async fn everywhere(hosts: &[String], digest: &str) {
    let begin = Instant::now();
    for host in hosts {
        while begin.elapsed() < EVERYWHERE_LIMIT {
            // One that cannot be reached is not waited for: it may have been killed, to see what happens.
            let Ok(connection) = Connection::to(host, ANSWER_LIMIT).await else { break };
            if active(&connection).await.is_ok_and(|module| module.is_some_and(|module| module.digest == digest)) {
                break;
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }
}

/// The active module.
///
/// # Errors
///
/// The cluster's refusal.
pub async fn active(connection: &Connection) -> Result<Option<ModuleInfo>, Failure> {
    Ok(list(connection).await?.into_iter().find(|module| module.active))
}

/// Looks at a source, and swaps what changes.
pub struct Watcher {
    source: Source,
    /// The hosts' data, which may lie in the project.
    data: PathBuf,
    /// As they were when they were last built.
    seen: Sources,
    /// Any of these hosts will do.
    hosts: Vec<String>,
    timeout: Duration,
    reuse: bool,
    output: Output,
}

impl Watcher {
    /// Begins before the source is built for the first time, so that a change during that build counts.
    pub fn new(
        source: Source,
        data: PathBuf,
        hosts: Vec<String>,
        timeout: Duration,
        reuse: bool,
        output: Output,
    ) -> Self {
        let seen = Sources::look(source.path(), Some(&data));
        Self { source, data, seen, hosts, timeout, reuse, output }
    }

    /// Watches for ever.
    pub async fn run(&mut self) {
        loop {
            let changed = self.change().await;
            self.tell_change(&changed);
            let begin = Instant::now();
            match self.swap().await {
                Ok(Some(module)) => self.tell_swap(&module, begin.elapsed()),
                Ok(None) => self.tell_same(),
                Err(failure) => self.tell_failure(&failure).await,
            }
        }
    }

    fn look(&self) -> Sources {
        Sources::look(self.source.path(), Some(&self.data))
    }

    /// Waits until something has changed and stays as it is for a moment.
    async fn change(&mut self) -> Vec<PathBuf> {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let mut now = self.look();
            // A file that is gone is about to be written anew, or there is nothing to build.
            if now == self.seen || now.is_empty() {
                continue;
            }
            loop {
                tokio::time::sleep(SETTLED).await;
                let later = self.look();
                if later == now {
                    break;
                }
                now = later;
            }
            let changed = now.changed_since(&self.seen);
            self.seen = now;
            if !changed.is_empty() && !self.seen.is_empty() {
                return changed;
            }
        }
    }

    /// Builds and swaps; `None` where the module is the same as before.
    async fn swap(&self) -> Result<Option<ModuleInfo>, Failure> {
        let bytes = self.source.bytes(self.output).await?;
        let connection = Connection::to_any(&self.hosts, self.timeout).await?;
        let before = active(&connection).await?;
        let now = bring_in(&connection, bytes, self.reuse, self.output).await?;
        everywhere(&self.hosts, &now.digest).await;
        Ok(Some(now).filter(|now| before.is_none_or(|before| before.digest != now.digest)))
    }

    fn tell_change(&self, changed: &[PathBuf]) {
        let names: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
        if self.output.json {
            return self.tell_machine(json!({ "event": "changed", "files": names }));
        }
        let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
        let first: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
        self.output.line(&format!("\n{}{more} changed", first.join(", ")));
    }

    fn tell_swap(&self, module: &ModuleInfo, took: Duration) {
        if self.output.json {
            let seconds = took.as_secs_f64();
            return self.tell_machine(json!({ "event": "swapped", "module": info_json(module), "seconds": seconds }));
        }
        self.output.line(&format!(
            "{} {} ({}) is active since log index {}, after {:.1} s",
            module.name,
            module.version,
            short_digest(&module.digest),
            module.activated_index,
            took.as_secs_f64()
        ));
    }

    fn tell_same(&self) {
        if self.output.json {
            return self.tell_machine(json!({ "event": "same" }));
        }
        self.output.line("the module is the same as before");
    }

    /// Why there was no swap, and what goes on.
    async fn tell_failure(&self, failure: &Failure) {
        if self.output.json {
            return self.tell_machine(json!({ "event": "failed", "error": failure.details }));
        }
        eprintln!("error: {failure}");
        let connection = Connection::to_any(&self.hosts, self.timeout).await.ok();
        let active = match &connection {
            Some(connection) => active(connection).await.ok().flatten(),
            None => None,
        };
        if let Some(module) = active {
            let digest = short_digest(&module.digest);
            self.output.line(&format!("{} {} ({digest}) goes on", module.name, module.version));
        }
    }

    fn tell_machine(&self, event: serde_json::Value) {
        // A value that holds text and numbers can always be printed.
        let _ = self.output.json(&event);
    }
}

/// Whether a first try that failed is worth watching on: the next change may mend the sources, but installs no tool.
pub fn may_be_mended(failure: &Failure) -> bool {
    failure.kind == Kind::Refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_a_manifest_are_projects_and_a_file_is_a_component() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("telegraft.toml");
        assert!(matches!(Source::of(folder.path()), Source::Project(_)));
        assert!(matches!(Source::of(&manifest), Source::Project(path) if path == folder.path()));
        assert!(matches!(Source::of(&folder.path().join("a.wasm")), Source::Component(_)));
    }

    #[tokio::test]
    async fn a_change_is_told_once_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.wasm");
        std::fs::write(&file, "one").unwrap();
        let output = Output { json: true, colour: false };
        let mut watcher =
            Watcher::new(Source::of(&file), PathBuf::new(), Vec::new(), Duration::from_secs(1), false, output);
        std::fs::remove_file(&file).unwrap();
        let write = async {
            tokio::time::sleep(LOOK_INTERVAL * 2).await;
            std::fs::write(&file, "two").unwrap();
            tokio::time::sleep(SETTLED / 2).await;
            std::fs::write(&file, "two, whole").unwrap();
        };
        let (changed, ()) = tokio::join!(watcher.change(), write);
        assert_eq!(watcher.seen, Sources::look(&file, None));
        let again = tokio::time::timeout(LOOK_INTERVAL * 3, watcher.change()).await;
        assert!(again.is_err(), "nothing has changed since: {again:?}");
        assert_eq!(changed, [file]);
    }
}
