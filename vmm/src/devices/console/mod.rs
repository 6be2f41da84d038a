//! virtio-console: one port (virtio 1.3 section 5.3).
//!
//! ```text
//!  guest ──transmitq──► ConsoleWorker ──► ConsoleSink   (never blocks: a ring that forgets its oldest bytes)
//!  guest ◄──receiveq─── ConsoleWorker ◄── ConsoleInput  (bounded: a guest that does not read holds its input back)
//! ```
//!
//! Features: the window's size, and a byte written before there are queues (emergency write). No multiport.

mod device;
mod input;
mod worker;

pub use device::{Console, ConsoleHandle, ConsoleSize};
pub use input::{ConsoleInput, INPUT_BYTES};

/// Where the guest's output goes.
///
/// Called by the device's worker and, for an emergency write, by a vCPU thread. It must not block, and its memory must
/// be bounded: a guest may write for ever.
pub trait ConsoleSink: Send + Sync {
    /// Takes what the guest printed.
    fn write(&self, bytes: &[u8]);
}

#[cfg(test)]
mod tests;
