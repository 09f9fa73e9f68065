//! Calls to hosts: one host's client, and a session that carries a write from host to host until it is answered.

use std::{
    collections::HashMap,
    error::Error as _,
    future::Future,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use prost::Message;
use telegraft_proto::{
    chat::chat_client::ChatClient,
    v1::{
        CallReply, Consistency, GetStatus, HostStatus, ReadCall, WriteCall, cluster_client::ClusterClient,
        machines_client::MachinesClient, modules_client::ModulesClient, telegraft_client::TelegraftClient,
    },
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// How long one attempt of a write may take before the next host is tried.
pub const ATTEMPT: Duration = Duration::from_secs(3);

/// Largest message a client takes; modules' descriptors and pages of messages are large.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// An answer, and the log index it was applied or read at.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The decoded message.
    pub message: T,
    /// The index.
    pub index: u64,
}

/// One host, as a client sees it. Connects when first used, and again after the host was away.
#[derive(Clone, Debug)]
pub struct HostClient {
    address: SocketAddr,
    channel: Channel,
}

impl HostClient {
    /// A client of the host at `address`. Must be called within a tokio runtime.
    pub fn new(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap_or_else(|_| unreachable_address());
        let channel = endpoint.connect_timeout(Duration::from_secs(1)).tcp_nodelay(true).connect_lazy();
        Self { address, channel }
    }

    /// Where the host serves clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connection, for clients that this type does not offer.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The chat module's own service, as any gRPC client would call it.
    pub fn chat(&self) -> ChatClient<Channel> {
        ChatClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Uploading and activating modules.
    pub fn modules(&self) -> ModulesClient<Channel> {
        ModulesClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Machines' budgets and past.
    pub fn machines(&self) -> MachinesClient<Channel> {
        MachinesClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// What the host says of itself.
    ///
    /// # Errors
    ///
    /// Those of the call, and DEADLINE_EXCEEDED where it takes longer than a second (a minute with `digest`).
    pub async fn status(&self, digest: bool) -> Result<HostStatus, Status> {
        let within = Duration::from_secs(if digest { 60 } else { 1 });
        let mut client = ClusterClient::new(self.channel());
        answered(within, client.status(GetStatus { digest })).await
    }

    /// A write with everything said by the caller; the deadline goes along with the call.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub async fn request(&self, call: WriteCall, within: Duration) -> Result<CallReply, Status> {
        let mut request = tonic::Request::new(call);
        request.set_timeout(within);
        answered(within + Duration::from_secs(1), TelegraftClient::new(self.channel()).client_request(request)).await
    }

    /// A write without a deadline of its own: the host's limit is in force.
    ///
    /// # Errors
    ///
    /// Those of the call, and DEADLINE_EXCEEDED where the host leaves us waiting for a whole minute.
    pub async fn request_without_deadline(&self, call: WriteCall) -> Result<CallReply, Status> {
        let mut client = TelegraftClient::new(self.channel());
        answered(Duration::from_secs(60), client.client_request(call)).await
    }

    /// A read with everything said by the caller.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub async fn query(&self, call: ReadCall, within: Duration) -> Result<CallReply, Status> {
        let mut request = tonic::Request::new(call);
        request.set_timeout(within);
        let mut client = TelegraftClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        answered(within + Duration::from_secs(1), client.client_query(request)).await
    }

    /// A read that reflects at least `index`; 0 is a local read.
    ///
    /// # Errors
    ///
    /// Those of the call; INTERNAL where the answer is not the message expected.
    pub async fn read<T: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
        index: u64,
    ) -> Result<Answer<T>, Status> {
        let consistency = if index == 0 { Consistency::Local } else { Consistency::AtLeast };
        let call = ReadCall {
            machine: String::new(),
            method: method.to_owned(),
            payload: message.encode_to_vec().into(),
            consistency: consistency.into(),
            min_index: index,
        };
        decoded(self.query(call, Duration::from_secs(10)).await?)
    }
}

/// An address always makes an endpoint; this is what would be called if one day it did not.
fn unreachable_address() -> Endpoint {
    Endpoint::from_static("http://127.0.0.1:1")
}

/// A client's session: with it, a write may be sent again and elsewhere, and is applied once.
#[derive(Clone, Debug)]
pub struct Session {
    client_id: String,
    next_request: u64,
}

impl Session {
    /// A session of its own, under a name that tells whose it is.
    pub fn new(name: &str) -> Self {
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        Self { client_id: format!("{name}-{}-{number}", std::process::id()), next_request: 1 }
    }

    /// Sends one write to `hosts[first]`, and to the next host and the next for as long as the outcome is unknown or
    /// nobody leads, up to `within`.
    ///
    /// # Errors
    ///
    /// What the module or a host answered, where another attempt could not change it; else the last attempt's error.
    pub async fn write<T: Message + Default>(
        &mut self,
        hosts: &[HostClient],
        first: usize,
        method: &str,
        message: &impl Message,
        within: Duration,
    ) -> Result<Answer<T>, Status> {
        let call = WriteCall {
            machine: String::new(),
            method: method.to_owned(),
            payload: message.encode_to_vec().into(),
            client_id: self.client_id.clone(),
            request_id: self.next_request,
        };
        self.next_request += 1;
        let begun = Instant::now();
        let mut last = Status::unavailable("no host to ask");
        for host in hosts.iter().cycle().skip(first % hosts.len().max(1)) {
            let left = within.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            last = match host.request(call.clone(), left.min(ATTEMPT)).await {
                Ok(reply) => return decoded(reply),
                Err(status) if !may_try_again(&status) => return Err(status),
                Err(status) => status,
            };
            tokio::time::sleep(crate::polling::INTERVAL).await;
        }
        Err(last)
    }
}

/// Whether another attempt may fare better: nobody answered, or whoever answered could not carry the write out *now*.
pub fn may_try_again(status: &Status) -> bool {
    // What the transport says has an error underneath; what a host says has none.
    status.source().is_some()
        || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
        || reason(status).is_some_and(|(reason, _)| reason == "OVERLOADED")
}

/// The machine-readable half of an error of ours: the reason and its metadata.
pub fn reason(status: &Status) -> Option<(String, HashMap<String, String>)> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == "telegraft")?;
    Some((info.reason.clone(), info.metadata.clone()))
}

/// Decodes the payload of a reply.
///
/// # Errors
///
/// INTERNAL where it is not the message expected.
pub fn decoded<T: Message + Default>(reply: CallReply) -> Result<Answer<T>, Status> {
    let CallReply { payload, index } = reply;
    let length = payload.len();
    match T::decode(payload) {
        Ok(message) => Ok(Answer { message, index }),
        Err(error) => Err(Status::internal(format!("the answer of {length} bytes does not decode: {error}"))),
    }
}

/// Bounds a call from outside: a host that is paused neither answers nor hangs up.
async fn answered<T>(within: Duration, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(within, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("the host has not answered within {within:?}"))),
    }
}
