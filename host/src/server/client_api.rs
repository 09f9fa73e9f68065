//! `telegraft.v1.Telegraft`: writes and reads by method name and bytes. Checks calls at the boundary.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use telegraft_proto::{
    internal::{Call, Command, command::Body},
    v1::{CallReply, Consistency, ReadCall, WriteCall, telegraft_server::Telegraft},
};
use telegraft_raft::Index;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    errors::{self, Applied, Reason, bad_call, status},
    reads::Reads,
    shared::{MACHINE, Shared},
    submit::Writes,
};

/// Longest `client_id`, bytes.
const CLIENT_ID_BYTES_MAX: usize = 64;
/// Longest method name, bytes.
const METHOD_BYTES_MAX: usize = 256;

/// Serves calls, in both of their forms.
#[derive(Clone)]
pub struct Calls {
    /// This host.
    pub shared: Arc<Shared>,
    /// The way of writes.
    pub writes: Writes,
    /// The way of reads.
    pub reads: Reads,
}

impl Calls {
    /// A checked write.
    pub async fn write(&self, call: WriteCall, timeout: Option<Duration>) -> Result<CallReply, Status> {
        let deadline = self.writes.deadline(timeout);
        self.check(&call.machine, &call.method, call.payload.len())?;
        if call.client_id.len() > CLIENT_ID_BYTES_MAX {
            return Err(bad_call(format!(
                "`client_id` is {} bytes long, at most {CLIENT_ID_BYTES_MAX} are taken",
                call.client_id.len()
            )));
        }
        if call.client_id.is_empty() != (call.request_id == 0) {
            return Err(bad_call(
                "a session is a `client_id` and a `request_id` greater than 0, another for each write: set both, or neither",
            ));
        }
        let command = Command {
            client_id: call.client_id,
            request_id: call.request_id,
            body: Some(Body::Call(Call { method: call.method, payload: call.payload })),
            ..Command::default()
        };
        let (index, payload) = self.writes.submit(command, deadline).await?;
        Ok(CallReply { payload, index })
    }

    /// A checked read.
    pub async fn read(&self, call: ReadCall, timeout: Option<Duration>) -> Result<CallReply, Status> {
        let deadline = self.writes.deadline(timeout);
        self.check(&call.machine, &call.method, call.payload.len())?;
        let consistency = Consistency::try_from(call.consistency)
            .map_err(|_| bad_call(format!("`consistency` has no value {}", call.consistency)))?;
        let (index, payload) =
            self.reads.read(call.method, call.payload, consistency, call.min_index, deadline).await?;
        Ok(CallReply { payload, index })
    }

    /// Waits until this host has applied `index`, for what it then says of its own machine; no longer than to the deadline,
    /// nor beyond the moment at which the machine halts.
    pub async fn wait_for(&self, index: Index, deadline: Instant) {
        let mut applied = self.shared.applied.subscribe();
        tokio::select! {
            _ = tokio::time::timeout_at(deadline.into(), applied.wait_for(|applied| *applied >= index)) => {}
            _ = self.shared.until_halted() => {}
        }
    }

    /// Refuses what this host would have to say in the machine's name while that has halted.
    pub fn check_goes_on(&self) -> Result<(), Status> {
        let leader = self.shared.leadership.borrow().leader;
        let refuse = |why: Arc<str>| errors::halted(&why, Applied::No, self.shared.client_address(leader));
        self.shared.halted().map_or(Ok(()), |why| Err(refuse(why)))
    }

    fn check(&self, machine: &str, method: &str, payload_bytes: usize) -> Result<(), Status> {
        check_machine(machine)?;
        let well_formed = method.split('/').count() == 2 && !method.starts_with('/') && !method.ends_with('/');
        if !well_formed || method.len() > METHOD_BYTES_MAX {
            return Err(bad_call(format!(
                "`method` must be a full gRPC method name of at most {METHOD_BYTES_MAX} bytes, such as \
                 `chat.v1.Chat/SendMessage`"
            )));
        }
        let limit = self.shared.settings.requests.payload_bytes_max;
        if payload_bytes as u64 > limit {
            return Err(bad_call(format!(
                "the payload is {payload_bytes} bytes long, at most {limit} are taken (requests.payload_bytes_max)"
            )));
        }
        Ok(())
    }
}

/// Refuses machines this cluster does not carry.
pub fn check_machine(machine: &str) -> Result<(), Status> {
    if machine.is_empty() || machine == MACHINE {
        return Ok(());
    }
    let message = format!("there is no machine `{machine}` here: this cluster carries `{MACHINE}`");
    Err(status(tonic::Code::NotFound, Reason::BadCall, Applied::No, "", message))
}

#[tonic::async_trait]
impl Telegraft for Calls {
    async fn client_request(&self, request: Request<WriteCall>) -> Result<Response<CallReply>, Status> {
        let timeout = timeout(request.metadata());
        self.write(request.into_inner(), timeout).await.map(Response::new)
    }

    async fn client_query(&self, request: Request<ReadCall>) -> Result<Response<CallReply>, Status> {
        let timeout = timeout(request.metadata());
        self.read(request.into_inner(), timeout).await.map(Response::new)
    }
}

/// The client's `grpc-timeout` (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit. None where absent or
/// malformed, as the specification has it.
pub fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Duration> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        timeout(&metadata)
    }

    #[test]
    fn timeouts_are_read_as_the_specification_writes_them() {
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(parse("7S"), Some(Duration::from_secs(7)));
        assert_eq!(parse("250000u"), Some(Duration::from_millis(250)));
    }

    #[test]
    fn malformed_timeouts_are_none() {
        for text in ["", "m", "100", "100x", "123456789m", "-1S", "1.5S", "+1S"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_machines_there_are_are_served() {
        assert!(check_machine("").is_ok());
        assert!(check_machine("main").is_ok());
        assert_eq!(check_machine("other").unwrap_err().code(), tonic::Code::NotFound);
    }
}
