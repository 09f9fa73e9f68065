//! JSON to protobuf and back, by the descriptors that a module carries.

use bytes::Bytes;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, SerializeOptions,
};
use serde_json::Value;
use telegraft_proto::v1::DescribeModule;

use super::{connect::Connection, failure::Failure};

/// google.protobuf.MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS.
const NO_SIDE_EFFECTS: i32 = 1;

/// What a module's service offers.
pub struct Service {
    pool: DescriptorPool,
}

/// One method.
pub struct Method {
    /// As the API wants it: `chat.v1.Chat/SendMessage`.
    pub name: String,
    /// Whether it is a read.
    pub query: bool,
    input: MessageDescriptor,
    output: MessageDescriptor,
}

impl Service {
    /// From a serialized `google.protobuf.FileDescriptorSet`.
    ///
    /// # Errors
    ///
    /// If the bytes are none.
    pub fn decode(descriptors: &[u8]) -> Result<Self, String> {
        DescriptorPool::decode(descriptors).map(|pool| Self { pool }).map_err(|error| error.to_string())
    }

    /// The active module's service, asked of the cluster. None where the module declares none.
    ///
    /// # Errors
    ///
    /// The cluster's refusal, or descriptors that cannot be read.
    pub async fn active(connection: &Connection) -> Result<Option<Self>, Failure> {
        let request = connection.request(DescribeModule { machine: String::new() });
        let description = connection
            .modules()
            .describe(request)
            .await
            .map_err(|status| Failure::of_status("asking for the active module", &status))?
            .into_inner();
        if description.service.is_empty() {
            return Ok(None);
        }
        Self::decode(&description.service)
            .map(Some)
            .map_err(|error| Failure::refused(format!("the active module's descriptors cannot be read: {error}")))
    }

    /// Every method, in the order of declaration.
    pub fn methods(&self) -> impl Iterator<Item = Method> + '_ {
        self.pool
            .services()
            .flat_map(|service| service.methods().map(|method| Method::new(&method)).collect::<Vec<_>>())
    }

    /// Finds a method by its full name (`chat.v1.Chat/SendMessage`, a leading slash or a dot instead of the slash do no
    /// harm), or by its bare name where only one is called so.
    ///
    /// # Errors
    ///
    /// Lists the methods there are.
    pub fn method(&self, name: &str) -> Result<Method, Failure> {
        let wanted = name.trim_start_matches('/');
        let mut same_bare_name = Vec::new();
        for method in self.methods() {
            if method.name == wanted || method.name.replace('/', ".") == wanted {
                return Ok(method);
            }
            if method.name.rsplit('/').next() == Some(wanted) {
                same_bare_name.push(method);
            }
        }
        match same_bare_name.pop() {
            Some(method) if same_bare_name.is_empty() => Ok(method),
            _ => Err(Failure::usage(format!("the active module has no method {name:?}; there are:{}", self.listing()))),
        }
    }

    /// The methods, one a line, for a message.
    fn listing(&self) -> String {
        let listing: String = self
            .methods()
            .map(|method| format!("\n  {}{}", method.name, if method.query { "  (query)" } else { "" }))
            .collect();
        if listing.is_empty() { " none".to_owned() } else { listing }
    }
}

impl Method {
    fn new(method: &MethodDescriptor) -> Self {
        let level = method.method_descriptor_proto().options.as_ref().and_then(|options| options.idempotency_level);
        Self {
            name: format!("{}/{}", method.parent_service().full_name(), method.name()),
            query: level == Some(NO_SIDE_EFFECTS),
            input: method.input(),
            output: method.output(),
        }
    }

    /// A request to begin from: each field of a plain kind with a value that fits it.
    pub fn example(&self) -> String {
        let value = |field: &FieldDescriptor| match field.kind() {
            // Two, and different: a list often wants that.
            Kind::String if field.is_list() => Some(Value::from(vec!["one", "two"])),
            _ if field.is_list() || field.is_map() => None,
            Kind::String if field.name() == "name" => Some(Value::from("alice")),
            Kind::String => Some(Value::from("…")),
            Kind::Bool => Some(Value::from(false)),
            Kind::Bytes => Some(Value::from("")),
            Kind::Message(_) | Kind::Enum(_) => None,
            _ => Some(Value::from(0)),
        };
        let fields: Vec<String> = self
            .input
            .fields()
            .filter_map(|field| Some(format!("\"{}\": {}", field.json_name(), value(&field)?)))
            .collect();
        format!("{{{}}}", fields.join(", "))
    }

    /// The request message of a JSON text.
    ///
    /// # Errors
    ///
    /// What does not fit, and which fields there are.
    pub fn encode(&self, json: &str) -> Result<Bytes, Failure> {
        let wrong = |error: serde_json::Error| {
            let fields: Vec<String> = self.input.fields().map(|field| field.json_name().to_owned()).collect();
            let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
            Failure::usage(format!("this is no {} in JSON: {error}\n  its fields: {fields}", self.input.full_name()))
        };
        let mut reader = serde_json::Deserializer::from_str(json);
        let message = DynamicMessage::deserialize(self.input.clone(), &mut reader).map_err(wrong)?;
        reader.end().map_err(wrong)?;
        Ok(message.encode_to_vec().into())
    }

    /// The answer as JSON, with the fields that hold their defaults too.
    ///
    /// # Errors
    ///
    /// If the bytes are no such message.
    pub fn decode(&self, payload: Bytes) -> Result<Value, Failure> {
        self.json(&self.output, payload)
    }

    /// A request as JSON, likewise.
    ///
    /// # Errors
    ///
    /// If the bytes are no such message.
    pub fn decode_request(&self, payload: Bytes) -> Result<Value, Failure> {
        self.json(&self.input, payload)
    }

    fn json(&self, message: &MessageDescriptor, payload: Bytes) -> Result<Value, Failure> {
        let wrong = |error: String| {
            Failure::refused(format!(
                "the answer is no {}: {error}\n  what to do: --raw shows its bytes",
                message.full_name()
            ))
        };
        let message = DynamicMessage::decode(message.clone(), payload).map_err(|error| wrong(error.to_string()))?;
        message
            .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new().skip_default_fields(false))
            .map_err(|error| wrong(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use telegraft_proto::chat::{FILE_DESCRIPTOR_SET, GetMessagesReply, SendMessageReply, SendMessageRequest};

    use super::*;

    fn chat() -> Service {
        Service::decode(FILE_DESCRIPTOR_SET).unwrap()
    }

    #[test]
    fn a_method_is_found_by_each_of_its_names() {
        for name in ["chat.v1.Chat/SendMessage", "/chat.v1.Chat/SendMessage", "chat.v1.Chat.SendMessage", "SendMessage"]
        {
            let method = chat().method(name).unwrap();
            assert_eq!((method.name.as_str(), method.query), ("chat.v1.Chat/SendMessage", false), "{name}");
        }
        assert!(chat().method("GetMessages").unwrap().query);
    }

    #[test]
    fn an_unknown_method_lists_those_there_are() {
        let Err(failure) = chat().method("chat.v1.Chat/Shout") else { panic!("found") };
        assert_eq!(failure.kind.exit_code(), 2);
        assert!(
            failure.message.contains("chat.v1.Chat/SendMessage") && failure.message.contains("GetMessages  (query)")
        );
    }

    #[test]
    fn json_becomes_the_message_by_either_spelling_of_a_field() {
        let method = chat().method("SendMessage").unwrap();
        for json in [
            r#"{"userId": "u", "chatId": "c", "content": "hi"}"#,
            r#"{"user_id": "u", "chat_id": "c", "content": "hi"}"#,
        ] {
            let message = SendMessageRequest::decode(method.encode(json).unwrap()).unwrap();
            assert_eq!(message, SendMessageRequest { user_id: "u".into(), chat_id: "c".into(), content: "hi".into() });
        }
    }

    #[test]
    fn an_example_is_a_request_that_fits() {
        assert_eq!(chat().method("CreateUser").unwrap().example(), r#"{"name": "alice"}"#);
        for method in chat().methods() {
            assert!(method.encode(&method.example()).is_ok(), "{}", method.name);
        }
    }

    #[test]
    fn json_that_does_not_fit_names_the_fields() {
        let method = chat().method("SendMessage").unwrap();
        for json in ["", "{", r#"{"user": "u"}"#, r#"{"content": 3}"#, "{} {}", "[]"] {
            let failure = method.encode(json).unwrap_err();
            assert!(failure.message.contains("userId, chatId, content"), "{json}: {}", failure.message);
        }
    }

    #[test]
    fn an_answer_shows_defaults_and_long_numbers_whole() {
        let reply = SendMessageReply { message_id: "m".into(), time_us: 1 << 60 };
        let shown = chat().method("SendMessage").unwrap().decode(reply.encode_to_vec().into()).unwrap();
        assert_eq!(shown, serde_json::json!({ "messageId": "m", "timeUs": "1152921504606846976" }));
        let empty = GetMessagesReply::default().encode_to_vec();
        let shown = chat().method("GetMessages").unwrap().decode(empty.into()).unwrap();
        assert_eq!(shown, serde_json::json!({ "messages": [], "nextPageToken": "" }));
    }

    #[test]
    fn bytes_that_are_no_answer_are_said_to_be() {
        let failure = chat().method("SendMessage").unwrap().decode(Bytes::from_static(&[0xff, 0xff])).unwrap_err();
        assert!(failure.message.contains("chat.v1.SendMessageReply"), "{}", failure.message);
    }

    #[test]
    fn what_is_no_descriptor_set_is_refused() {
        assert!(Service::decode(&[1, 2, 3]).is_err());
    }
}
