//! A module that passed inspection, and its service: JSON to protobuf and back, by the descriptors that it carries.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde_json::Value;
use telegraft_sandbox::Digest;
use telegraft_sim::machine::wasm::shared_sandbox;

use crate::failure::Failure;

/// google.protobuf.MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS.
const NO_SIDE_EFFECTS: i32 = 1;

/// A component that a cluster can run, checked as an upload checks it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    label: String,
    methods: Vec<Method>,
}

/// One method of a module's service.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    /// As the API wants it: `chat.v1.Chat/SendMessage`.
    pub name: String,
    /// Whether it is a read.
    pub query: bool,
    input: MessageDescriptor,
    output: MessageDescriptor,
}

/// Keeps compiled modules in a folder, for later processes: a large module takes a minute to compile. To be called first.
///
/// # Errors
/// Where the folder cannot be used.
pub fn keep_compiled_in(folder: &std::path::Path) -> Result<(), Failure> {
    Ok(telegraft_sim::machine::wasm::keep_compiled_in(folder)?)
}

impl Module {
    /// Checks a component and compiles it; the second time in one process that is done.
    ///
    /// # Errors
    /// Whatever makes a cluster refuse it.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, Failure> {
        let bytes = bytes.into();
        let seen = shared_sandbox()?.inspect(&bytes).map_err(|bad| Failure::Unable(bad.to_string()))?;
        let label = format!("{} {}", seen.name, seen.version);
        let methods = if seen.service.is_empty() {
            Vec::new()
        } else {
            let pool = DescriptorPool::decode(&*seen.service).map_err(|error| {
                Failure::Unable(format!("{label}: its service descriptors cannot be read: {error}"))
            })?;
            let all = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
            all.map(|method| Method::new(&method)).collect()
        };
        Ok(Module { bytes, digest: seen.digest, label, methods })
    }

    /// Name and version, as the module says them.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Finds a method by its full name, or by its bare name where only one is called so.
    pub(crate) fn method(&self, name: &str) -> Option<&Method> {
        let wanted = name.trim_start_matches('/');
        let full = self.methods.iter().find(|method| method.name == wanted);
        full.or_else(|| {
            let mut bare = self.methods.iter().filter(|method| method.name.rsplit('/').next() == Some(wanted));
            bare.next().filter(|_| bare.next().is_none())
        })
    }

    /// The methods, one a line, for a message.
    pub(crate) fn listing(&self) -> String {
        if self.methods.is_empty() {
            return format!("{} declares no service, so there is nothing that JSON could mean to it", self.label);
        }
        let line = |method: &Method| format!("\n  {}{}", method.name, if method.query { "  (query)" } else { "" });
        format!("{} has:{}", self.label, self.methods.iter().map(line).collect::<String>())
    }
}

impl Method {
    fn new(method: &MethodDescriptor) -> Self {
        let level = method.method_descriptor_proto().options.as_ref().and_then(|options| options.idempotency_level);
        Method {
            name: format!("{}/{}", method.parent_service().full_name(), method.name()),
            query: level == Some(NO_SIDE_EFFECTS),
            input: method.input(),
            output: method.output(),
        }
    }

    /// The request message of a JSON value.
    ///
    /// # Errors
    /// What does not fit, and which fields there are.
    pub fn encode(&self, request: &Value) -> Result<Bytes, String> {
        match DynamicMessage::deserialize(self.input.clone(), request) {
            Ok(message) => Ok(message.encode_to_vec().into()),
            Err(error) => {
                let fields: Vec<String> = self.input.fields().map(|field| field.json_name().to_owned()).collect();
                let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
                Err(format!("{request} is no {}: {error}\n  its fields: {fields}", self.input.full_name()))
            }
        }
    }

    /// The answer as JSON, with the fields that hold their defaults too.
    ///
    /// # Errors
    /// If the bytes are no such message.
    pub fn decode(&self, reply: Bytes) -> Result<Value, String> {
        let wrong = |error: String| format!("the answer of {} is no {}: {error}", self.name, self.output.full_name());
        let message = DynamicMessage::decode(self.output.clone(), reply).map_err(|error| wrong(error.to_string()))?;
        message
            .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new().skip_default_fields(false))
            .map_err(|error| wrong(error.to_string()))
    }
}
