//! The control protocol of `quantix-vmm`.
//!
//! [`v1`] are the messages, [`transport`] moves one of them in each packet of a `SOCK_SEQPACKET` socket with file
//! descriptors beside it, [`call`] pairs every command with its answer. [`blocking`] is a small client for programs
//! without an async runtime; `client` (a feature of that name) is the one for the node daemon.
//!
//! Every byte that a peer sent is hostile here: lengths are bounded before anything is decoded, descriptors that were
//! not asked for are closed, and nothing that a peer can send makes this crate panic.
#![forbid(unsafe_code)]

pub mod blocking;
pub mod call;
#[cfg(feature = "client")]
pub mod client;
pub mod transport;

/// The messages of package `quantix.vmm.v1`, made from `proto/quantix/vmm/v1/control.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/quantix.vmm.v1.rs"));
}
