//! The public API of a Quantix node, package `quantix.node.v1`: the protos in `proto/` are its only source. This crate
//! holds what is generated from them, their descriptors, and the canonical JSON of messages.

#![forbid(unsafe_code)]

pub mod json;

/// Messages, clients and servers of `quantix.node.v1`.
#[allow(missing_docs, clippy::pedantic, clippy::all)]
pub mod v1 {
    tonic::include_proto!("quantix.node.v1");
}

/// All files of the API and what they import, with comments and HTTP annotations, as a `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
