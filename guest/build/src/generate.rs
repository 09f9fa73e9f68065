//! The Rust of a service: a trait with its methods, and the type that finds a method by its name.
//!
//! Every name is written in full: a message may be called `Option` or `Result`.

use std::fmt::Write as _;

use prost_build::{Method, Service, ServiceGenerator};

use crate::service::{Services, dispatcher, is_query};

/// Where the description of a package's services lies, beside its Rust.
pub(crate) fn descriptors_file(package: &str) -> String {
    format!("{package}.bin")
}

pub(crate) struct Generator {
    services: Services,
}

impl Generator {
    pub(crate) fn new(services: Services) -> Self {
        Self { services }
    }
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, buf: &mut String) {
        if self.services.contains(&service.package, &service.proto_name) {
            write_trait(&service, buf);
            write_dispatch(&service, buf);
        }
    }

    fn finalize_package(&mut self, package: &str, buf: &mut String) {
        if self.services.packages().any(|own| own == package) {
            let file = descriptors_file(package);
            buf.push_str("/// The serialized `google.protobuf.FileDescriptorSet` of the module's services.\n");
            push(
                buf,
                format_args!(
                    "pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\"));\n"
                ),
            );
        }
    }
}

fn write_trait(service: &Service, buf: &mut String) {
    service.comments.append_with_indent(0, buf);
    push(buf, format_args!("///\n/// The methods of `{}.{}`.\n", service.package, service.proto_name));
    push(buf, format_args!("pub trait {} {{\n", service.name));
    for method in &service.methods {
        method.comments.append_with_indent(1, buf);
        let (name, request, reply) = (&method.name, &method.input_type, &method.output_type);
        let (call, context) = if reads(method) { ("query", "Query") } else { ("command", "Command") };
        push(
            buf,
            format_args!(
                "    fn {name}({call}: &::telegraft_guest::{context}<'_>, request: {request}) \
                 -> ::core::result::Result<{reply}, ::telegraft_guest::Failure>;\n"
            ),
        );
    }
    buf.push_str("}\n");
}

fn write_dispatch(service: &Service, buf: &mut String) {
    let (name, dispatcher) = (&service.name, dispatcher(&service.name));
    push(
        buf,
        format_args!(
            "/// Finds the methods of [`{name}`] by their full names; for `telegraft_guest::module!`.\n\
             pub struct {dispatcher};\n\
             impl<M: {name}> ::telegraft_guest::Service<M> for {dispatcher} {{\n    \
             const FILE_DESCRIPTOR_SET: &'static [u8] = FILE_DESCRIPTOR_SET;\n"
        ),
    );
    write_function(service, buf, "apply", "command", "Command", |method| !reads(method));
    write_function(service, buf, "query", "query", "Query", reads);
    buf.push_str("}\n");
}

fn write_function(
    service: &Service,
    buf: &mut String,
    function: &str,
    call: &str,
    context: &str,
    is_one: impl Fn(&Method) -> bool,
) {
    let methods: Vec<&Method> = service.methods.iter().filter(|method| is_one(method)).collect();
    // Without a method there is nothing to hand them to.
    let unused = if methods.is_empty() { "    #[allow(unused_variables)]\n" } else { "" };
    push(
        buf,
        format_args!(
            "{unused}    fn {function}({call}: &::telegraft_guest::{context}<'_>, method: &str, request: &[u8]) \
             -> ::core::option::Option<::core::result::Result<::std::vec::Vec<u8>, ::telegraft_guest::Failure>> {{\n"
        ),
    );
    if methods.is_empty() {
        buf.push_str("        ::core::option::Option::None\n    }\n");
        return;
    }
    buf.push_str("        ::core::option::Option::Some(match method {\n");
    for method in methods {
        let path = format!("{}.{}/{}", service.package, service.proto_name, method.proto_name);
        push(
            buf,
            format_args!(
                "            \"{path}\" => ::telegraft_guest::answer(request, |request| M::{}({call}, request)),\n",
                method.name
            ),
        );
    }
    buf.push_str("            _ => return ::core::option::Option::None,\n        })\n    }\n");
}

fn reads(method: &Method) -> bool {
    is_query(Some(&method.options))
}

/// Writing into a string cannot fail.
fn push(buf: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = buf.write_fmt(text);
}
