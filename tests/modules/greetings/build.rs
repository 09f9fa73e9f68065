//! Makes Rust of the service that the module implements.

fn main() -> Result<(), telegraft_guest_build::Error> {
    telegraft_guest_build::compile("proto/greetings.proto")
}
