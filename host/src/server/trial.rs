//! Trials of modules (`Modules.DryRun`, `Modules.Rehearse`): who may run one when, what comes in and what goes out. What
//! a trial does is the sandbox's matter ([`telegraft_sandbox::trial`]).
//!
//! One at a time on a host, on a thread of its own beside the machine's: it takes processor time and disk from them, and
//! nothing else. It has its place from before the module comes in, so that no host holds the modules of many who wait, and ends
//! when the client goes away, or stops to read what it is told.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use nix::sys::statvfs::statvfs;
use telegraft_proto::v1::{
    DryRunReport, RehearsalCost, RehearsalDifference, RehearsalEvent, RehearsalProgress, RehearsalReport,
    RehearsedAnswer, RehearsedModule, SchemaChange, TableChange, TryModule, rehearsal_event::Event,
};
use telegraft_raft::Storage;
use telegraft_sandbox::{
    MachineReader, Sandbox,
    trial::{
        self, Answer, Candidate, Change, Difference, DryRun, Rehearsal, RehearsalStage, ReplayCost, Trial, TrialError,
        TrialFolder,
    },
};
use tokio::{
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::SendTimeoutError},
    },
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    client_api::check_machine,
    errors::{Applied, Reason, bad_call, status},
    modules_api::module_info,
    shared::Shared,
};

/// How long a client may take to send its module.
const RECEIVE_TIME_MAX: Duration = Duration::from_secs(60);
/// Events of a rehearsal that may wait for the client.
const EVENTS_WAITING_MAX: usize = 16;
/// How long an event may wait for its place among them: a client that reads nothing for so long holds everyone else's trials up.
const READ_TIME_MAX: Duration = Duration::from_secs(30);
/// Disk space that a trial leaves free.
const SPACE_LEFT_BYTES: u64 = 256 << 20;

/// A rehearsal's answer.
pub type RehearsalStream = ReceiverStream<Result<RehearsalEvent, Status>>;

/// Tries modules on copies of the state. Cheap to clone.
#[derive(Clone)]
pub struct Trials {
    inner: Arc<Inner>,
    slot: Arc<Semaphore>,
}

struct Inner {
    shared: Arc<Shared>,
    sandbox: Sandbox,
    machine: MachineReader,
    log: Arc<dyn Storage + Send + Sync>,
    folder: PathBuf,
}

/// What a client sent.
struct Wanted {
    candidate: Candidate,
    last: u64,
}

impl Trials {
    /// Removes what trials of an earlier process left.
    ///
    /// # Errors
    ///
    /// Where that does not work.
    pub fn start(
        shared: Arc<Shared>,
        sandbox: Sandbox,
        machine: MachineReader,
        log: Arc<dyn Storage + Send + Sync>,
    ) -> anyhow::Result<Self> {
        let folder = shared.settings.data_dir.join("trials");
        TrialFolder::clear_leftovers(&folder)
            .map_err(|error| anyhow::anyhow!("cannot remove {}, left by a trial: {error}", folder.display()))?;
        let inner = Inner { shared, sandbox, machine, log, folder };
        Ok(Self { inner: Arc::new(inner), slot: Arc::new(Semaphore::new(1)) })
    }

    /// What activating a module would do.
    ///
    /// # Errors
    ///
    /// What the client is to see.
    pub async fn dry_run(&self, stream: Streaming<TryModule>) -> Result<DryRunReport, Status> {
        let (wanted, permit) = self.admit(stream, 3).await?;
        let gone = Arc::new(AtomicBool::new(false));
        // Dropped together with the call when the client goes away.
        let _gone = SetOnDrop(gone.clone());
        let inner = self.inner.clone();
        let run = move || {
            let _permit = permit;
            inner.trial(&|| gone.load(Relaxed)).dry_run(&wanted.candidate)
        };
        let report = tokio::task::spawn_blocking(run).await.map_err(|_| panicked())?.map_err(refused)?;
        Ok(dry_run_report(report))
    }

    /// What the newest commands would have come to.
    ///
    /// # Errors
    ///
    /// What the client is to see at once; what goes wrong later comes as the stream's end.
    pub async fn rehearse(&self, stream: Streaming<TryModule>) -> Result<RehearsalStream, Status> {
        let (wanted, permit) = self.admit(stream, 6).await?;
        if wanted.last == 0 {
            return Err(bad_call("`last` says how many of the newest commands are replayed: at least 1"));
        }
        let (events, stream) = mpsc::channel(EVENTS_WAITING_MAX);
        let (inner, last_word) = (self.inner.clone(), events.clone());
        let listener = Listener::new(events, READ_TIME_MAX);
        let run = move || {
            let _permit = permit;
            let on = &mut |event| listener.tell(rehearsal_event(event));
            let rehearsed =
                inner.trial(&|| listener.is_gone()).rehearse(&wanted.candidate, &*inner.log, wanted.last, on);
            match rehearsed {
                Ok(report) => listener.tell(Event::Report(rehearsal_report(report))),
                Err(_) if listener.does_not_read() => {}
                Err(error) => return Err(refused(error)),
            }
            if listener.does_not_read() { Err(not_read()) } else { Ok(()) }
        };
        let running = tokio::task::spawn_blocking(run);
        tokio::spawn(async move {
            let failure = match running.await {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => failure,
                Err(_) => panicked(),
            };
            // The trial and its place are gone; this waits for the client, and goes with it.
            let _ = last_word.send(Err(failure)).await;
        });
        Ok(ReceiverStream::new(stream))
    }

    /// Takes the one place there is, and then a module in. A trial needs space for `copies` of the state: its own, those that
    /// activations keep for a way back, and what an `init` adds.
    async fn admit(&self, stream: Streaming<TryModule>, copies: u64) -> Result<(Wanted, OwnedSemaphorePermit), Status> {
        let permit = self.slot.clone().try_acquire_owned().map_err(|_| busy())?;
        self.inner.check_space(copies)?;
        let received = tokio::time::timeout(RECEIVE_TIME_MAX, self.receive(stream)).await;
        let wanted = received.map_err(|_| {
            let message = format!("the module did not arrive within {} s", RECEIVE_TIME_MAX.as_secs());
            status(Code::DeadlineExceeded, Reason::Deadline, Applied::No, "", message)
        })??;
        Ok((wanted, permit))
    }

    async fn receive(&self, mut stream: Streaming<TryModule>) -> Result<Wanted, Status> {
        let machine = &self.inner.shared.settings.machine;
        let limit = machine.module_bytes_max;
        let mut bytes = BytesMut::new();
        let mut head: Option<TryModule> = None;
        while let Some(part) = stream.message().await? {
            if (bytes.len() + part.data.len()) as u64 > limit {
                let message = format!("the module is larger than {limit} bytes (machine.module_bytes_max)");
                return Err(status(Code::InvalidArgument, Reason::BadModule, Applied::No, "", message));
            }
            bytes.extend_from_slice(&part.data);
            if head.is_none() {
                check_machine(&part.machine)?;
                head = Some(TryModule { data: Bytes::new(), ..part });
            }
        }
        let head = head.unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let candidate = Candidate {
            bytes: bytes.freeze(),
            reuse: head.reuse,
            limits: Some(machine.limits()),
            time_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            entropy: (rand::random(), rand::random()),
        };
        Ok(Wanted { candidate, last: head.last })
    }
}

impl Inner {
    fn trial<'a>(&'a self, stop: trial::Stop<'a>) -> Trial<'a> {
        Trial { sandbox: &self.sandbox, live: &self.machine, folder: &self.folder, stop }
    }

    /// A trial must not be what fills the machine's disk.
    fn check_space(&self, copies: u64) -> Result<(), Status> {
        let data_dir = &self.shared.settings.data_dir;
        let failed = |what: String| status(Code::Internal, Reason::TrialFailed, Applied::No, "", what);
        let state = bytes_in(&data_dir.join("machine"))
            .map_err(|error| failed(format!("the size of the state cannot be asked for: {error}")))?;
        let volume = statvfs(data_dir.as_path()).map_err(|error| {
            failed(format!("the free space of {} cannot be asked for: {error}", data_dir.display()))
        })?;
        let free = volume.blocks_available().saturating_mul(volume.fragment_size());
        let needed = state.saturating_mul(copies).saturating_add(SPACE_LEFT_BYTES);
        if free >= needed {
            return Ok(());
        }
        let message = format!(
            "the trial needs {} MiB of free disk space in {} ({copies} times the state, and what stays free), and there \
             are {} MiB: free some, or ask another host",
            needed >> 20,
            data_dir.display(),
            free >> 20
        );
        Err(status(Code::ResourceExhausted, Reason::TrialFailed, Applied::No, "", message))
    }
}

/// Bytes of the files in a folder.
fn bytes_in(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(folder)? {
        // One that is gone in between needs no space.
        bytes += file?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}

/// A rehearsal's client, as the trial's thread talks to it.
struct Listener {
    events: mpsc::Sender<Result<RehearsalEvent, Status>>,
    read_time_max: Duration,
    does_not_read: AtomicBool,
    runtime: Handle,
}

impl Listener {
    /// Must be called within the runtime, which keeps the time.
    fn new(events: mpsc::Sender<Result<RehearsalEvent, Status>>, read_time_max: Duration) -> Self {
        Self { events, read_time_max, does_not_read: AtomicBool::new(false), runtime: Handle::current() }
    }

    /// Hands an event over; waits for the client where too many wait for it already, once for as long as it may take. For a thread
    /// outside of the runtime. Where nobody listens any more, [`Self::is_gone`] ends the trial.
    fn tell(&self, event: Event) {
        if self.is_gone() {
            return;
        }
        let event = Ok(RehearsalEvent { event: Some(event) });
        let sent = self.runtime.block_on(self.events.send_timeout(event, self.read_time_max));
        if matches!(sent, Err(SendTimeoutError::Timeout(_))) {
            tracing::warn!("a rehearsal's client did not read for {} s", self.read_time_max.as_secs());
            self.does_not_read.store(true, Relaxed);
        }
    }

    /// Whether it was given up, since it reads nothing.
    fn does_not_read(&self) -> bool {
        self.does_not_read.load(Relaxed)
    }

    /// Whether there is nobody to rehearse for.
    fn is_gone(&self) -> bool {
        self.does_not_read() || self.events.is_closed()
    }
}

/// Says that a call was given up, or has ended.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn busy() -> Status {
    let message = "another trial runs on this host, and one at a time is enough for the machine beside it: wait until it \
                   has ended, or ask another host";
    status(Code::ResourceExhausted, Reason::Overloaded, Applied::No, "", message)
}

fn not_read() -> Status {
    let message = format!(
        "the rehearsal was ended: nothing of what it had to say was read for {} s, and others wait for its place on this host; \
         begin it again, and read the answers as they come",
        READ_TIME_MAX.as_secs()
    );
    status(Code::DeadlineExceeded, Reason::Deadline, Applied::No, "", message)
}

fn panicked() -> Status {
    let message = "the trial panicked: this is a defect of Telegraft; the host's log has its trace";
    status(Code::Internal, Reason::TrialFailed, Applied::No, "", message)
}

fn refused(error: TrialError) -> Status {
    let (code, reason) = match &error {
        TrialError::Module(_) => (Code::FailedPrecondition, Reason::BadModule),
        TrialError::NoModule => (Code::FailedPrecondition, Reason::NoModule),
        TrialError::Halted(_)
        | TrialError::Stalled { .. }
        | TrialError::Compacted { .. }
        | TrialError::NoCommands { .. } => (Code::FailedPrecondition, Reason::TrialFailed),
        TrialError::Log(_) | TrialError::Fault(_) => (Code::Internal, Reason::TrialFailed),
        TrialError::Stopped => (Code::Cancelled, Reason::TrialFailed),
    };
    let message = match &error {
        TrialError::Log(_) | TrialError::Fault(_) => format!("the trial failed, the machine is untouched: {error}"),
        _ => error.to_string(),
    };
    status(code, reason, Applied::No, "", message)
}

fn dry_run_report(report: DryRun) -> DryRunReport {
    let DryRun { inspection, activation, index, database_bytes, copy_time, compile_time } = report;
    let (refused, refused_code) = match activation.refused {
        Some(rejection) => (rejection.message, rejection.code as i32),
        None => (String::new(), 0),
    };
    DryRunReport {
        digest: inspection.digest.to_string(),
        name: inspection.name,
        version: inspection.version,
        schema: inspection.schema,
        from_schema: activation.from_schema,
        init_runs: activation.init_runs,
        refused,
        refused_code,
        schema_changes: activation.schema_changes.into_iter().map(schema_change).collect(),
        table_changes: activation
            .table_changes
            .into_iter()
            .map(|(table, changes)| TableChange {
                table,
                inserted: changes.inserted,
                updated: changes.updated,
                deleted: changes.deleted,
            })
            .collect(),
        fuel: activation.cost.fuel,
        sql_steps: activation.cost.sql_steps,
        init_us: microseconds(activation.cost.time),
        copy_us: microseconds(copy_time),
        compile_us: microseconds(compile_time),
        index,
        database_bytes,
        service: inspection.service.into(),
    }
}

fn schema_change(change: trial::SchemaChange) -> SchemaChange {
    let name = match change.change {
        Change::Created => "created",
        Change::Dropped => "dropped",
        Change::Changed => "changed",
    };
    SchemaChange {
        change: name.to_owned(),
        kind: change.kind,
        name: change.name,
        before: change.before,
        after: change.after,
    }
}

fn rehearsal_event(event: trial::RehearsalEvent) -> Event {
    match event {
        trial::RehearsalEvent::Progress { stage, done, total } => {
            let stage = match stage {
                RehearsalStage::Compiling => "compiling",
                RehearsalStage::Rebuilding => "rebuilding the state",
                RehearsalStage::Copying => "copying the state",
                RehearsalStage::Replaying => "replaying",
            };
            Event::Progress(RehearsalProgress { stage: stage.to_owned(), done, total })
        }
        trial::RehearsalEvent::Module(active) => Event::Module(RehearsedModule {
            module: Some(module_info(&active.record, true)),
            service: active.service.clone().into(),
        }),
        trial::RehearsalEvent::Difference(difference) => {
            let Difference { index, method, payload, before, after } = *difference;
            let (before, after) = (Some(answer(before)), Some(answer(after)));
            Event::Difference(RehearsalDifference { index, method, payload, before, after })
        }
    }
}

fn answer(answer: Answer) -> RehearsedAnswer {
    let Answer { outcome, reply_bytes, cost } = answer;
    let (code, message, reply) = match outcome {
        Ok(reply) => (0, String::new(), reply),
        Err(rejection) => (rejection.code as i32, rejection.message, Bytes::new()),
    };
    let time_ns = u64::try_from(cost.time.as_nanos()).unwrap_or(u64::MAX);
    RehearsedAnswer { code, message, reply, reply_bytes, fuel: cost.fuel, sql_steps: cost.sql_steps, time_ns }
}

fn rehearsal_report(report: Rehearsal) -> RehearsalReport {
    RehearsalReport {
        activation: Some(dry_run_report(report.activation)),
        commands: report.commands,
        first_index: report.first_index,
        last_index: report.last_index,
        differing: report.differing,
        before: Some(rehearsal_cost(report.cost_before)),
        after: Some(rehearsal_cost(report.cost_after)),
        module_before: Some(module_info(&report.before, true)),
        service_before: report.service_before.into(),
        notes: report.notes,
    }
}

fn rehearsal_cost(cost: ReplayCost) -> RehearsalCost {
    RehearsalCost {
        replies: cost.replies,
        rejections: cost.rejections,
        traps: cost.traps,
        exhausted: cost.exhausted,
        fuel: cost.fuel,
        fuel_max: cost.fuel_max,
        sql_steps: cost.sql_steps,
        time_ns: cost.time_ns,
        time_ns_max: cost.time_ns_max,
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Event {
        Event::Progress(RehearsalProgress::default())
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_waited_for_once_and_then_gone() {
        let (events, mut stream) = mpsc::channel(1);
        let listener = Arc::new(Listener::new(events, Duration::from_millis(50)));
        let told = listener.clone();
        let thread = tokio::task::spawn_blocking(move || {
            told.tell(progress());
            let read = !told.is_gone();
            (0..1_000).for_each(|_| told.tell(progress()));
            read
        });
        // A thousand times the wait would be 50 s.
        let read = tokio::time::timeout(Duration::from_secs(20), thread).await;
        assert!(read.expect("it waits again and again").expect("a panic"), "there was room for the first");
        assert!(listener.is_gone() && listener.does_not_read());
        // What had been handed over stays.
        assert!(stream.recv().await.is_some() && stream.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_client_that_reads_is_told_everything_and_one_that_left_is_gone() {
        let (events, mut stream) = mpsc::channel(1);
        let listener = Arc::new(Listener::new(events, Duration::from_secs(60)));
        let told = listener.clone();
        let thread = tokio::task::spawn_blocking(move || (0..100).for_each(|_| told.tell(progress())));
        for number in 0..100 {
            assert!(stream.recv().await.is_some(), "event {number}");
        }
        thread.await.expect("a panic");
        assert!(!listener.is_gone());
        drop(stream);
        assert!(listener.is_gone() && !listener.does_not_read());
    }
}
