//! From a method's bytes to its handler and back.

use prost::Message;

use crate::Failure;

/// Decodes the request, runs the handler, encodes its reply.
///
/// # Errors
///
/// INVALID_ARGUMENT for bytes that are no such message; else what the handler says.
pub fn answer<Request: Message + Default, Reply: Message>(
    request: &[u8],
    handler: impl FnOnce(Request) -> Result<Reply, Failure>,
) -> Result<Vec<u8>, Failure> {
    let request = Request::decode(request)
        .map_err(|error| Failure::invalid_argument(format!("the request is malformed: {error}")))?;
    Ok(handler(request)?.encode_to_vec())
}

/// The refusal of a method that `module` does not have among its `kind` ("commands" or "queries").
pub fn unknown_method(module: &str, kind: &str, method: &str) -> Failure {
    // The name comes from outside; a message is no place for a megabyte of it.
    let shown: String = method.chars().take(128).collect();
    Failure::unimplemented(format!("module {module} has no method {shown:?} among its {kind}"))
}
