//! The module's own gRPC service, served as if it were ours: an unmodified client calls `chat.v1.Chat/SendMessage` on any
//! host. Methods marked `idempotency_level = NO_SIDE_EFFECTS` are reads, the others writes.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes};
use telegraft_proto::v1::{Consistency, ReadCall, WriteCall};
use telegraft_sandbox::MachineReader;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    server::{Grpc, UnaryService},
};

use super::{
    client_api::{Calls, timeout},
    errors::{Applied, Reason, bad_call, halted, status},
};

/// Metadata of a call: who asks.
const CLIENT_ID: &str = "telegraft-client-id";
/// Metadata of a call: the client's number for it.
const REQUEST_ID: &str = "telegraft-request-id";
/// Metadata of a read: `local`, `linearizable` or `at-least:INDEX`.
const CONSISTENCY: &str = "telegraft-consistency";
/// Metadata of an answer: the log index it was applied or read at.
const INDEX: &str = "telegraft-index";

/// Takes every call whose service is not one of the host's own.
#[derive(Clone)]
pub struct NativeService {
    /// The way of calls.
    pub calls: Calls,
    /// Says which module is active, and what its methods are.
    pub machine: MachineReader,
}

impl<B> tower::Service<http::Request<B>> for NativeService
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
    B::Data: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        // The payload's limit is checked, and explained, behind this one.
        let limit = self.calls.shared.settings.requests.payload_bytes_max.saturating_mul(2).saturating_add(64 << 10);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let call = NativeCall { service: self.clone(), method };
        Box::pin(async move {
            let mut grpc = Grpc::new(BytesCodec).max_decoding_message_size(limit).max_encoding_message_size(usize::MAX);
            Ok(grpc.unary(call, request).await)
        })
    }
}

struct NativeCall {
    service: NativeService,
    method: String,
}

impl UnaryService<Bytes> for NativeCall {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let service = self.service.clone();
        let method = std::mem::take(&mut self.method);
        Box::pin(async move { service.answer(method, request).await })
    }
}

impl NativeService {
    async fn answer(&self, method: String, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let timeout = timeout(request.metadata());
        let reply = if self.is_query(&method)? {
            let (consistency, min_index) = consistency(request.metadata())?;
            let call = ReadCall {
                machine: String::new(),
                method,
                payload: request.into_inner(),
                consistency: consistency.into(),
                min_index,
            };
            self.calls.read(call, timeout).await?
        } else {
            let (client_id, request_id) = session(request.metadata())?;
            let call =
                WriteCall { machine: String::new(), method, payload: request.into_inner(), client_id, request_id };
            self.calls.write(call, timeout).await?
        };
        let mut response = Response::new(reply.payload);
        response.metadata_mut().insert(INDEX, reply.index.into());
        Ok(response)
    }

    fn is_query(&self, method: &str) -> Result<bool, Status> {
        // A write is carried to the leader all the same. What is a read, and what is no method, this host cannot know: the
        // module that it has may be an old one.
        if let Some(why) = self.calls.shared.halted()
            && self.machine.active().and_then(|active| active.is_query(method)) != Some(false)
        {
            let leader = self.calls.shared.leadership.borrow().leader;
            return Err(halted(&why, Applied::No, self.calls.shared.client_address(leader)));
        }
        let unimplemented = |message| Err(status(Code::Unimplemented, Reason::NotServed, Applied::No, "", message));
        let Some(active) = self.machine.active() else {
            return unimplemented(format!(
                "`{method}` is not a method of this host, and no module is active: upload and activate one"
            ));
        };
        match active.is_query(method) {
            Some(query) => Ok(query),
            None => unimplemented(format!(
                "neither this host nor the active module `{}` has a method `{method}`",
                active.record.name
            )),
        }
    }
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Result<Option<&'a str>, Status> {
    metadata
        .get(key)
        .map(|value| value.to_str().map_err(|_| bad_call(format!("the metadata `{key}` must be ASCII text"))))
        .transpose()
}

fn session(metadata: &MetadataMap) -> Result<(String, u64), Status> {
    let client_id = text(metadata, CLIENT_ID)?.unwrap_or_default().to_owned();
    let request_id = match text(metadata, REQUEST_ID)? {
        None if client_id.is_empty() => 0,
        None => return Err(bad_call(format!("the metadata `{CLIENT_ID}` needs `{REQUEST_ID}` beside it"))),
        Some(number) => number
            .parse()
            .map_err(|_| bad_call(format!("the metadata `{REQUEST_ID}` must be a whole number, not `{number}`")))?,
    };
    Ok((client_id, request_id))
}

fn consistency(metadata: &MetadataMap) -> Result<(Consistency, u64), Status> {
    match text(metadata, CONSISTENCY)? {
        None | Some("local") => Ok((Consistency::Local, 0)),
        Some("linearizable") => Ok((Consistency::Linearizable, 0)),
        Some(other) => match other.strip_prefix("at-least:").and_then(|index| index.parse().ok()) {
            Some(index) => Ok((Consistency::AtLeast, index)),
            None => Err(bad_call(format!(
                "the metadata `{CONSISTENCY}` must be `local`, `linearizable` or `at-least:INDEX`, not `{other}`"
            ))),
        },
    }
}

/// Messages as the bytes they are: the host does not look into what a module's clients say.
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (key, value) in pairs {
            map.insert(*key, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_session_needs_both_of_its_parts() {
        assert_eq!(session(&metadata(&[])).unwrap(), (String::new(), 0));
        assert_eq!(session(&metadata(&[(CLIENT_ID, "a"), (REQUEST_ID, "7")])).unwrap(), ("a".into(), 7));
        assert!(session(&metadata(&[(CLIENT_ID, "a")])).is_err());
        assert!(session(&metadata(&[(CLIENT_ID, "a"), (REQUEST_ID, "x")])).is_err());
    }

    #[test]
    fn consistency_is_read_from_metadata() {
        assert_eq!(consistency(&metadata(&[])).unwrap(), (Consistency::Local, 0));
        assert_eq!(consistency(&metadata(&[(CONSISTENCY, "at-least:9")])).unwrap(), (Consistency::AtLeast, 9));
        assert_eq!(consistency(&metadata(&[(CONSISTENCY, "linearizable")])).unwrap(), (Consistency::Linearizable, 0));
        assert!(consistency(&metadata(&[(CONSISTENCY, "at-least:")])).is_err());
        assert!(consistency(&metadata(&[(CONSISTENCY, "eventually")])).is_err());
    }
}
