//! virtio-vsock (virtio 1.3 section 5.10): stream sockets between the guest and host programs, in the VMM.
//!
//! ```text
//!  transmit queue ─► Worker ─► Connection (what does it mean?) ─► Stream, or its backlog while the host is slow
//!  receive queue  ◄─ Worker ◄─ Connection (what is owed?)      ◄─ Stream
//! ```
//!
//! Data goes between guest buffers and unix sockets without a copy, but for what a slow host program leaves behind:
//! that waits in a backlog as long as the credit that the guest was given.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod attach;
mod connection;
mod device;
mod link;
mod packet;
mod table;
mod worker;

pub use attach::attach;
pub use device::Vsock;

#[cfg(test)]
mod tests;
