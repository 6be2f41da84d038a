//! virtio-net (virtio 1.3 section 5.1): a network card on a tap.
//!
//! ```text
//!  transmit queue ─► Transmitter ─writev─► tap ─► host network
//!  receive queue  ◄─ Receiver   ◄─readv──  tap ◄─
//!  control queue  ─► Control    ─ioctl──►  tap (number of queue pairs)
//! ```
//!
//! Frames go between guest buffers and the tap without a copy; the kernel reads and writes the header before each frame.
//! One worker for each queue pair, one for the control queue if there is one. With vhost-net the host's kernel does the work of a
//! pair, and its worker passes interrupts on.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod attach;
mod control;
mod device;
mod receive;
mod transmit;
mod vhost;
mod worker;

pub use attach::attach;
pub use device::{MacAddress, Net};

#[cfg(test)]
mod tests;

/// Largest frame with its header, in bytes (section 5.1.6.3.1).
const MAX_FRAME: usize = 65_562;
/// Frames in one direction before the other devices of the thread get their turn.
const BUDGET: u32 = 128;

/// What one turn of work did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turn {
    /// Frames moved or dropped.
    frames: u32,
    /// Whether work is left that no event will announce.
    more: bool,
}
