//! The host's side of devices: what moves bytes between guest buffers and a file, a tap or a socket.
//!
//! Opened by the main thread before the sandbox is entered, used by reactor threads. Knows neither descriptors nor
//! guest-physical addresses.

pub mod disk;
pub mod entropy;
