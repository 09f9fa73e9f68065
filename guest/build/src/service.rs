//! What a service must be like so that a module can serve it.

use std::collections::BTreeSet;

use prost_types::{
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
    method_options::IdempotencyLevel,
};

use crate::Error;

/// The services to generate: those of the files that were named, not of their imports. Full names ("poll.v1.Polls").
pub(crate) struct Services {
    names: BTreeSet<String>,
    packages: BTreeSet<String>,
}

impl Services {
    pub(crate) fn contains(&self, package: &str, service: &str) -> bool {
        self.names.contains(&format!("{package}.{service}"))
    }

    /// Packages that have one of them.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().map(String::as_str)
    }
}

/// Finds the services of the files `own`, and refuses what a module cannot serve.
pub(crate) fn check(descriptors: &FileDescriptorSet, own: &[String]) -> Result<Services, Error> {
    let mut services = Services { names: BTreeSet::new(), packages: BTreeSet::new() };
    let own_files = || descriptors.file.iter().filter(|file| own.iter().any(|name| name == file.name()));
    for file in own_files() {
        let wrong = |what: String| Error::Service { file: file.name().to_owned(), what };
        if file.package().is_empty() {
            return Err(wrong("there is no package: write one below the syntax, as in `package poll.v1;`".to_owned()));
        }
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            check_service(descriptors, file, service, &name).map_err(wrong)?;
            services.names.insert(name);
            services.packages.insert(file.package().to_owned());
        }
    }
    if services.names.is_empty() {
        let file = own_files().map(FileDescriptorProto::name).collect::<Vec<_>>().join(", ");
        let what = "there is no service: a module's methods are the rpcs of one, as in `service Polls { rpc Vote(VoteRequest) \
                    returns (VoteReply); }`";
        return Err(Error::Service { file, what: what.to_owned() });
    }
    Ok(services)
}

fn check_service(
    descriptors: &FileDescriptorSet,
    file: &FileDescriptorProto,
    service: &ServiceDescriptorProto,
    name: &str,
) -> Result<(), String> {
    if service.method.is_empty() {
        return Err(format!("the service {name} has no rpc: there is nothing a client could call"));
    }
    for method in &service.method {
        let streams = match (method.client_streaming(), method.server_streaming()) {
            (false, false) => continue,
            (true, false) => "streams its requests",
            (false, true) => "streams its replies",
            (true, true) => "streams both ways",
        };
        return Err(format!(
            "the method {name}/{} {streams}: a module answers one request with one reply; leave out `stream`, and give a \
             long listing pages",
            method.name()
        ));
    }
    for (number, method) in service.method.iter().enumerate() {
        let same = |other: &&MethodDescriptorProto| snake(other.name()) == snake(method.name());
        if let Some(other) = service.method.iter().take(number).find(same) {
            let (first, second) = (other.name(), method.name());
            return Err(format!(
                "the methods {first} and {second} of {name} would be one function in Rust: rename one"
            ));
        }
    }
    // The trait and the type are generated beside the messages, in one namespace.
    let generated = [upper_camel(service.name()), dispatcher(&upper_camel(service.name()))];
    let siblings = descriptors.file.iter().filter(|other| other.package() == file.package());
    for sibling in siblings {
        let messages = sibling.message_type.iter().map(|message| message.name());
        let mut types = messages.chain(sibling.enum_type.iter().map(|item| item.name()));
        if let Some(taken) = types.find(|taken| generated.contains(&upper_camel(taken))) {
            return Err(format!(
                "the message {taken} has the name of what is generated for the service {name}: rename it"
            ));
        }
    }
    Ok(())
}

/// Whether the method only reads, and so never goes through the log.
pub(crate) fn is_query(options: Option<&prost_types::MethodOptions>) -> bool {
    options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects)
}

/// The type beside the trait.
pub(crate) fn dispatcher(service: &str) -> String {
    format!("{service}Service")
}

/// For comparisons only: equal where prost's names would be.
fn snake(name: &str) -> String {
    name.chars().filter(|letter| *letter != '_').map(|letter| letter.to_ascii_lowercase()).collect()
}

fn upper_camel(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).filter(|c| *c != '_').collect()
}
