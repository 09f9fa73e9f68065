//! `request`, `query` and `call`: one write or read, with JSON in and out.

use std::{io::Read, str::FromStr};

use bytes::{Buf, BufMut, Bytes};
use clap::Args;
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use telegraft_proto::v1::{CallReply, Consistency, ReadCall, WriteCall};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
};

use super::{
    connect::Connection,
    descriptors::{Method, Service},
    failure::Failure,
    output::Output,
};

/// Longest session name, as the API allows it.
const CLIENT_ID_BYTES_MAX: usize = 64;

/// What to send.
#[derive(Args, Debug)]
pub struct Body {
    /// Method, as chat.v1.Chat/SendMessage (or SendMessage where only one is called so)
    method: String,
    /// The request in JSON, or @FILE, or @- for standard input
    #[arg(value_name = "JSON|@FILE", default_value = "{}")]
    message: String,
}

/// Bytes instead of JSON.
#[derive(Args, Debug)]
pub struct Raw {
    /// Send these bytes (hexadecimal) as they are, and print the answer's bytes
    #[arg(long, value_name = "HEX", conflicts_with = "message")]
    raw: Option<Hex>,
}

/// Who asks, so that a retry is applied once.
#[derive(Args, Debug)]
pub struct Session {
    /// Session: with it and --request-id a retry is applied once and answered as the first time
    #[arg(long, value_name = "NAME", requires = "request_id", value_parser = client_id)]
    client_id: Option<String>,
    /// Number of the request, unique for the client
    #[arg(long, value_name = "N", requires = "client_id", value_parser = clap::value_parser!(u64).range(1..))]
    request_id: Option<u64>,
}

/// How fresh a read must be.
#[derive(Args, Debug)]
pub struct Freshness {
    /// local (at once, may be stale), at-least:INDEX (waits for that log index) or linearizable (reflects every write
    /// answered before, anywhere)
    #[arg(long, value_name = "LEVEL")]
    consistency: Option<Level>,
}

/// `telegraft request`
#[derive(Args, Debug)]
pub struct RequestArgs {
    #[command(flatten)]
    body: Body,
    #[command(flatten)]
    raw: Raw,
    #[command(flatten)]
    session: Session,
}

/// `telegraft query`
#[derive(Args, Debug)]
pub struct QueryArgs {
    #[command(flatten)]
    body: Body,
    #[command(flatten)]
    raw: Raw,
    #[command(flatten)]
    freshness: Freshness,
}

/// `telegraft call`
#[derive(Args, Debug)]
pub struct CallArgs {
    #[command(flatten)]
    body: Body,
    #[command(flatten)]
    session: Session,
    #[command(flatten)]
    freshness: Freshness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Local,
    Linearizable,
    AtLeast(u64),
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "local" => Ok(Self::Local),
            None if text == "linearizable" => Ok(Self::Linearizable),
            Some(("at-least", index)) => {
                index.parse().map(Self::AtLeast).map_err(|_| format!("{index:?} is not a log index: write at-least:42"))
            }
            _ => Err("must be local, linearizable or at-least:INDEX".to_owned()),
        }
    }
}

impl Level {
    fn text(self) -> String {
        match self {
            Self::Local => "local".to_owned(),
            Self::Linearizable => "linearizable".to_owned(),
            Self::AtLeast(index) => format!("at-least:{index}"),
        }
    }

    fn fields(self) -> (Consistency, u64) {
        match self {
            Self::Local => (Consistency::Local, 0),
            Self::Linearizable => (Consistency::Linearizable, 0),
            Self::AtLeast(index) => (Consistency::AtLeast, index),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hex(Bytes);

impl FromStr for Hex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Option<Vec<u8>> =
            text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.ok_or("must be hexadecimal digits")?;
        if !digits.len().is_multiple_of(2) {
            return Err("must be an even number of hexadecimal digits".to_owned());
        }
        Ok(Self(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()))
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn client_id(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > CLIENT_ID_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("must be 1 to {CLIENT_ID_BYTES_MAX} letters, digits or signs of ASCII"));
    }
    Ok(text.to_owned())
}

impl Body {
    fn text(&self) -> Result<String, Failure> {
        match self.message.strip_prefix('@') {
            None => Ok(self.message.clone()),
            Some("-") => {
                let mut text = String::new();
                let read = std::io::stdin().lock().read_to_string(&mut text);
                read.map(|_| text).map_err(|error| Failure::usage(format!("standard input cannot be read: {error}")))
            }
            Some(file) => {
                std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("{file} cannot be read: {error}")))
            }
        }
    }

    /// The payload, and the method by which the answer is read; none where bytes go as they are.
    async fn payload(&self, connection: &Connection, raw: &Raw) -> Result<(String, Bytes, Option<Method>), Failure> {
        if let Some(Hex(bytes)) = &raw.raw {
            return Ok((self.method.trim_start_matches('/').to_owned(), bytes.clone(), None));
        }
        let text = self.text()?;
        let method = typed(connection, &self.method).await?;
        let payload = method.encode(&text)?;
        Ok((method.name.clone(), payload, Some(method)))
    }
}

/// The method, by the active module's descriptors.
async fn typed(connection: &Connection, name: &str) -> Result<Method, Failure> {
    let service = Service::active(connection).await?.ok_or_else(|| {
        Failure::usage("the active module declares no service, so JSON means nothing to it; send bytes with --raw HEX")
    })?;
    service.method(name)
}

/// A write through `ClientRequest`.
pub async fn request(
    hosts: &[String],
    timeout: std::time::Duration,
    args: &RequestArgs,
    output: Output,
) -> Result<(), Failure> {
    let connection = Connection::to_any(hosts, timeout).await?;
    let (name, payload, method) = args.body.payload(&connection, &args.raw).await?;
    if method.as_ref().is_some_and(|method| method.query) {
        return Err(Failure::usage(format!(
            "{name} is a query: use `telegraft query`, or `telegraft call` for either"
        )));
    }
    let call = WriteCall {
        machine: String::new(),
        method: name.clone(),
        payload,
        client_id: args.session.client_id.clone().unwrap_or_default(),
        request_id: args.session.request_id.unwrap_or_default(),
    };
    let reply = connection.telegraft().client_request(connection.request(call)).await;
    print_reply(&name, reply.map(tonic::Response::into_inner), method.as_ref(), output)
}

/// A read through `ClientQuery`.
pub async fn query(
    hosts: &[String],
    timeout: std::time::Duration,
    args: &QueryArgs,
    output: Output,
) -> Result<(), Failure> {
    let connection = Connection::to_any(hosts, timeout).await?;
    let (name, payload, method) = args.body.payload(&connection, &args.raw).await?;
    if method.as_ref().is_some_and(|method| !method.query) {
        return Err(Failure::usage(format!("{name} writes: use `telegraft request`, or `telegraft call` for either")));
    }
    let (consistency, min_index) = args.freshness.consistency.unwrap_or(Level::Local).fields();
    let call =
        ReadCall { machine: String::new(), method: name.clone(), payload, consistency: consistency.into(), min_index };
    let reply = connection.telegraft().client_query(connection.request(call)).await;
    print_reply(&name, reply.map(tonic::Response::into_inner), method.as_ref(), output)
}

fn print_reply(
    name: &str,
    reply: Result<CallReply, Status>,
    method: Option<&Method>,
    output: Output,
) -> Result<(), Failure> {
    let reply = reply.map_err(|status| Failure::of_status(name, &status))?;
    let answer = match method {
        Some(method) => method.decode(reply.payload)?,
        None => Value::String(to_hex(&reply.payload)),
    };
    if output.json {
        return output.json(&json!({ "index": reply.index, "reply": answer }));
    }
    print_answer(&answer, output)?;
    eprintln!("index {}", reply.index);
    Ok(())
}

fn print_answer(answer: &Value, output: Output) -> Result<(), Failure> {
    match answer {
        Value::String(bytes) => output.line(bytes),
        message => {
            let text = serde_json::to_string_pretty(message);
            output.line(&text.map_err(|error| Failure::refused(format!("the answer cannot be printed: {error}")))?);
        }
    }
    Ok(())
}

/// The module's own method, as any gRPC client calls it.
pub async fn call(
    hosts: &[String],
    timeout: std::time::Duration,
    args: &CallArgs,
    output: Output,
) -> Result<(), Failure> {
    let connection = Connection::to_any(hosts, timeout).await?;
    let text = args.body.text()?;
    let method = typed(&connection, &args.body.method).await?;
    let mut request = connection.request(method.encode(&text)?);
    if let Some(client_id) = &args.session.client_id {
        set_metadata(&mut request, "telegraft-client-id", client_id)?;
        set_metadata(&mut request, "telegraft-request-id", &args.session.request_id.unwrap_or_default().to_string())?;
    }
    if let Some(level) = args.freshness.consistency {
        set_metadata(&mut request, "telegraft-consistency", &level.text())?;
    }
    let path = PathAndQuery::try_from(format!("/{}", method.name))
        .map_err(|error| Failure::usage(format!("{} cannot be a path: {error}", method.name)))?;
    let mut client = Grpc::new(connection.channel.clone()).max_decoding_message_size(usize::MAX);
    let reply = async {
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        client.unary(request, path, Bare).await
    };
    let reply = reply.await.map_err(|status| Failure::of_status(&method.name, &status))?;
    let index = reply.metadata().get("telegraft-index").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let answer = method.decode(reply.into_inner())?;
    if output.json {
        return output.json(&json!({ "index": index, "reply": answer }));
    }
    print_answer(&answer, output)?;
    if let Some(index) = index {
        eprintln!("index {index}");
    }
    Ok(())
}

fn set_metadata<T>(request: &mut Request<T>, key: &'static str, value: &str) -> Result<(), Failure> {
    let value =
        MetadataValue::try_from(value).map_err(|_| Failure::usage(format!("{value:?} cannot travel as metadata")))?;
    request.metadata_mut().insert(key, value);
    Ok(())
}

/// Messages as the bytes they are: what they mean is the descriptors' business.
struct Bare;

impl Codec for Bare {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Bare;
    type Decoder = Bare;

    fn encoder(&mut self) -> Bare {
        Bare
    }

    fn decoder(&mut self) -> Bare {
        Bare
    }
}

impl Encoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_as_they_print() {
        for level in [Level::Local, Level::Linearizable, Level::AtLeast(42)] {
            assert_eq!(level.text().parse(), Ok(level));
        }
        for text in ["", "strong", "at-least", "at-least:", "at-least:x", "local:3"] {
            assert!(text.parse::<Level>().is_err(), "{text}");
        }
    }

    #[test]
    fn hexadecimal_is_read_and_printed() {
        assert_eq!("0aFF 10".parse(), Ok(Hex(Bytes::from_static(&[0x0a, 0xff, 0x10]))));
        assert_eq!("".parse(), Ok(Hex(Bytes::new())));
        assert_eq!(to_hex(&[0x0a, 0xff]), "0aff");
        for text in ["0", "0g", "0x10", "ä"] {
            assert!(text.parse::<Hex>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_session_name_fits_in_metadata() {
        assert!(client_id("alice-1").is_ok());
        for name in ["", "two words", "ä", &"x".repeat(65)] {
            assert!(client_id(name).is_err(), "{name:?}");
        }
    }
}
