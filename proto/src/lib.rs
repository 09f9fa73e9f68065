//! The types generated from the .proto files beside this crate. Owns no logic. With the feature `grpc`, clients and
//! servers too; guests use the messages alone.

#![forbid(unsafe_code)]

/// What clients use; every host serves it.
pub mod v1 {
    #![allow(clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/telegraft.v1.rs"));
    /// The package's serialized `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/telegraft.bin"));
}

/// What stands in log entries, and what hosts say to each other.
pub mod internal {
    #![allow(clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/telegraft.internal.v1.rs"));
}

/// The flagship module's service.
pub mod chat {
    #![allow(clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/chat.v1.rs"));
    /// The package's serialized `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chat.bin"));
}

/// The key-value module's service.
pub mod kv {
    #![allow(clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/kv.v1.rs"));
    /// The package's serialized `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kv.bin"));
}
