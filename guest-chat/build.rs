//! Makes Rust of the service that the module implements.

fn main() -> Result<(), telegraft_guest_build::Error> {
    telegraft_guest_build::Builder::new().include("../proto").compile(&["../proto/chat/v1/chat.proto"])
}
