//! `telegraft.v1.Modules`: upload, activation, the way back, listing. A module is checked whole on the host that takes it, before
//! anything is replicated; its bytes then travel through the log in chunks.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use telegraft_node::ports::MachineFault;
use telegraft_proto::{
    internal::{Activate, Command, ModuleChunk, Rollback, command::Body, rollback::Way},
    v1::{
        ActivateModule, ActivatedModule, DescribeModule, DryRunReport, ListModules, ModuleDescription, ModuleInfo,
        ModuleList, RollbackModule, RolledBack, TryModule, UploadModule, UploadedModule, modules_server::Modules,
    },
};
use telegraft_sandbox::{Digest, MachineReader, ModuleRecord, Sandbox, engine_name};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    client_api::{Calls, check_machine, timeout},
    errors::{Applied, Reason, bad_call, status},
    readiness::Readiness,
    trial::{RehearsalStream, Trials},
};

/// Bytes of a module in one log entry.
const CHUNK_BYTES: usize = 256 << 10;
/// Fewest digits of a digest that may name a module.
const PREFIX_DIGITS_MIN: usize = 8;

/// Serves modules.
#[derive(Clone)]
pub struct ModulesService {
    /// The way of writes.
    pub calls: Calls,
    /// Checks modules.
    pub sandbox: Sandbox,
    /// Knows the modules that have been applied here.
    pub machine: MachineReader,
    /// Tries modules.
    pub trials: Trials,
    /// Knows whether all hosts have compiled a module.
    pub readiness: Readiness,
}

#[tonic::async_trait]
impl Modules for ModulesService {
    async fn upload(&self, request: Request<Streaming<UploadModule>>) -> Result<Response<UploadedModule>, Status> {
        let timeout = timeout(request.metadata());
        self.calls.check_goes_on()?;
        let bytes = self.receive(request.into_inner()).await?;
        let sandbox = self.sandbox.clone();
        let checked = bytes.clone();
        let inspection = tokio::task::spawn_blocking(move || sandbox.inspect(&checked))
            .await
            .map_err(|_| Status::internal("the check of the module panicked: this is a defect of Telegraft"))?
            .map_err(|bad| {
                status(
                    Code::FailedPrecondition,
                    Reason::BadModule,
                    Applied::No,
                    "",
                    format!("the module is refused: {bad}"),
                )
            })?;

        let mut uploaded = UploadedModule {
            digest: inspection.digest.to_string(),
            size: inspection.size,
            name: inspection.name.clone(),
            version: inspection.version.clone(),
            schema: inspection.schema,
            existed: false,
            index: 0,
        };
        if let Some(known) = self.records()?.into_iter().find(|record| record.digest == inspection.digest) {
            uploaded.existed = true;
            uploaded.index = known.uploaded_index;
            return Ok(Response::new(uploaded));
        }
        let digest = Bytes::copy_from_slice(&inspection.digest.0);
        for (number, start) in (0..bytes.len()).step_by(CHUNK_BYTES).enumerate() {
            let chunk = ModuleChunk {
                digest: digest.clone(),
                size: inspection.size,
                offset: (number * CHUNK_BYTES) as u64,
                data: bytes.slice(start..bytes.len().min(start + CHUNK_BYTES)),
                name: inspection.name.clone(),
                version: inspection.version.clone(),
                schema: inspection.schema,
            };
            let command = Command { body: Some(Body::ModuleChunk(chunk)), ..Command::default() };
            (uploaded.index, _) = self.calls.writes.submit(command, self.calls.writes.deadline(timeout)).await?;
        }
        Ok(Response::new(uploaded))
    }

    async fn activate(&self, request: Request<ActivateModule>) -> Result<Response<ActivatedModule>, Status> {
        let timeout = timeout(request.metadata());
        let ActivateModule { machine, digest, reuse } = request.into_inner();
        check_machine(&machine)?;
        self.calls.check_goes_on()?;
        let digest = self.resolve(&digest, "digest")?;
        self.readiness.wait(digest, timeout).await;
        let activate = Activate {
            digest: Bytes::copy_from_slice(&digest.0),
            reuse,
            limits: Some(self.calls.shared.settings.machine.limits()),
            engine: engine_name().to_owned(),
        };
        let command = Command { body: Some(Body::Activate(activate)), ..Command::default() };
        let deadline = self.calls.writes.deadline(timeout);
        let (index, _) = self.calls.writes.submit(command, deadline).await?;
        // The answer comes from the leader; this host says what was activated once it has done so itself.
        self.calls.wait_for(index, deadline).await;
        let module =
            self.records()?.into_iter().find(|record| record.digest == digest).map(|record| self.info(&record));
        Ok(Response::new(ActivatedModule { module, index }))
    }

    async fn rollback(&self, request: Request<RollbackModule>) -> Result<Response<RolledBack>, Status> {
        let timeout = timeout(request.metadata());
        let RollbackModule { machine, discard_since_activation, from_digest } = request.into_inner();
        check_machine(&machine)?;
        self.calls.check_goes_on()?;
        // Before the other: where both change in between, one of them is not what the machine finds.
        let from = match from_digest.as_str() {
            "" => self.machine.active().map(|active| active.record.digest),
            digest => Some(self.resolve(digest, "from_digest")?),
        };
        let to = self.module_before(from)?;
        let way = if discard_since_activation { Way::KeptState } else { Way::Unspecified };
        let rollback = Rollback {
            digest: Bytes::copy_from_slice(&to.0),
            way: way.into(),
            engine: engine_name().to_owned(),
            from: from.map(|from| Bytes::copy_from_slice(&from.0)).unwrap_or_default(),
        };
        let command = Command { body: Some(Body::Rollback(rollback)), ..Command::default() };
        let deadline = self.calls.writes.deadline(timeout);
        let (index, reply) = self.calls.writes.submit(command, deadline).await?;
        let mut done = RolledBack::decode(reply)
            .map_err(|e| Status::internal(format!("the machine's answer cannot be decoded: {e}")))?;
        self.calls.wait_for(index, deadline).await;
        done.module = self.records()?.into_iter().find(|record| record.digest == to).map(|record| self.info(&record));
        done.index = index;
        Ok(Response::new(done))
    }

    async fn dry_run(&self, request: Request<Streaming<TryModule>>) -> Result<Response<DryRunReport>, Status> {
        self.trials.dry_run(request.into_inner()).await.map(Response::new)
    }

    type RehearseStream = RehearsalStream;

    async fn rehearse(&self, request: Request<Streaming<TryModule>>) -> Result<Response<RehearsalStream>, Status> {
        self.trials.rehearse(request.into_inner()).await.map(Response::new)
    }

    async fn list(&self, request: Request<ListModules>) -> Result<Response<ModuleList>, Status> {
        check_machine(&request.get_ref().machine)?;
        let modules = self.records()?.iter().map(|record| self.info(record)).collect();
        Ok(Response::new(ModuleList { modules }))
    }

    async fn describe(&self, request: Request<DescribeModule>) -> Result<Response<ModuleDescription>, Status> {
        check_machine(&request.get_ref().machine)?;
        let Some(active) = self.machine.active() else {
            return Err(status(
                Code::FailedPrecondition,
                Reason::NoModule,
                Applied::No,
                "",
                "no module is active: upload and activate one",
            ));
        };
        Ok(Response::new(ModuleDescription {
            module: Some(self.info(&active.record)),
            service: Bytes::copy_from_slice(&active.service),
        }))
    }
}

impl ModulesService {
    async fn receive(&self, mut stream: Streaming<UploadModule>) -> Result<Bytes, Status> {
        let limit = self.calls.shared.settings.machine.module_bytes_max;
        let mut bytes = BytesMut::new();
        let mut first = true;
        while let Some(part) = stream.message().await? {
            if first {
                check_machine(&part.machine)?;
                first = false;
            }
            if (bytes.len() + part.data.len()) as u64 > limit {
                return Err(status(
                    Code::InvalidArgument,
                    Reason::BadModule,
                    Applied::No,
                    "",
                    format!("the module is larger than {limit} bytes (machine.module_bytes_max)"),
                ));
            }
            bytes.extend_from_slice(&part.data);
        }
        Ok(bytes.freeze())
    }

    fn resolve(&self, text: &str, field: &str) -> Result<Digest, Status> {
        let text = text.to_ascii_lowercase();
        if text.len() < PREFIX_DIGITS_MIN || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad_call(format!(
                "`{field}` must be a module's SHA-256 in hexadecimal, or at least {PREFIX_DIGITS_MIN} digits of it"
            )));
        }
        if let Ok(digest) = text.parse() {
            return Ok(digest);
        }
        let found: Vec<_> =
            self.records()?.into_iter().filter(|record| record.digest.to_string().starts_with(&text)).collect();
        let refuse = |message| Err(status(Code::NotFound, Reason::NoModule, Applied::No, "", message));
        match found.as_slice() {
            [record] => Ok(record.digest),
            [] => refuse(format!(
                "no module's digest begins with `{text}`: `telegraft module list` shows those there are"
            )),
            several => refuse(format!("{} modules' digests begin with `{text}`: give more digits", several.len())),
        }
    }

    /// The module that a rollback from `from` would go back to, as this host has applied it.
    fn module_before(&self, from: Option<Digest>) -> Result<Digest, Status> {
        let found = self.machine.module_before().map_err(unreadable)?;
        found.map(|record| record.digest).ok_or_else(|| {
            let active = self.machine.active();
            let message = nothing_before(active.as_ref().map(|active| &active.record), from);
            status(Code::FailedPrecondition, Reason::NoModule, Applied::No, "", message)
        })
    }

    fn records(&self) -> Result<Vec<ModuleRecord>, Status> {
        self.machine.modules().map_err(unreadable)
    }

    fn info(&self, record: &ModuleRecord) -> ModuleInfo {
        let active = self.machine.active().is_some_and(|active| active.record.digest == record.digest);
        module_info(record, active)
    }
}

/// Why there is no module to go back to: first that another is active than the one to be left, where that is so.
fn nothing_before(active: Option<&ModuleRecord>, from: Option<Digest>) -> String {
    let other = active.filter(|active| from.is_some_and(|from| from != active.digest)).zip(from);
    let first = other.map_or_else(String::new, |(active, from)| {
        let ModuleRecord { name, version, digest, .. } = active;
        format!("the active module is {name} {version} {digest}, and not the one that the rollback is to leave, {from}; and ")
    });
    format!("{first}there is no module to go back to: `telegraft machine history` shows what was active")
}

/// The machine's database cannot be read.
pub fn unreadable(fault: MachineFault) -> Status {
    status(Code::DataLoss, Reason::Stopping, Applied::No, "", format!("the machine cannot be read: {fault}"))
}

/// A module as clients see it.
pub fn module_info(record: &ModuleRecord, active: bool) -> ModuleInfo {
    ModuleInfo {
        digest: record.digest.to_string(),
        name: record.name.clone(),
        version: record.version.clone(),
        schema: record.schema,
        size: record.size,
        active,
        uploaded_index: record.uploaded_index,
        activated_index: record.activated_index,
        reuse: record.reuse,
        engine: record.engine.clone(),
    }
}
