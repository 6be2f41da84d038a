//! virtio-blk: a disk for the guest (virtio 1.3 section 5.2).
//!
//! ```text
//!  Chain ──request::parse──► Request ──► DiskQueue (raw or qcow2, opened before the sandbox)
//!    ▲                                        │ at once, or later by its completion fd
//!    └──── status byte, used ring ◄───────────┘
//! ```
//!
//! One worker a queue, on its own I/O thread where there are several. The [`crate::backend::disk::DiskQueue`] of a queue, its
//! timer and its buffers exist before the guest runs; a worker borrows them from a shelf and puts them back when it is dropped.
//! Nothing needs saving: a quiesced queue has nothing in flight, and its indices are the transport's.

mod attach;
mod device;
mod request;
mod worker;

pub use attach::attach;
pub use device::{Block, BlockError, BlockOptions};

#[cfg(test)]
mod tests;

/// Entries of each queue.
pub const QUEUE_SIZE: u16 = 256;
/// Length of the serial number in bytes (section 5.2.6.1).
pub const SERIAL_BYTES: usize = 20;
