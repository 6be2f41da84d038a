//! The host's side of devices: disks, taps, sockets.
//!
//! Everything here is opened by the main thread before the sandbox is entered and used by a reactor thread after it.
//! A back end knows neither guest addresses nor descriptors: it is given checked pieces of guest RAM.

pub mod disk;
pub mod entropy;
pub mod iovecs;
pub mod tap;
pub mod vhost_net;
pub mod vsock_unix;

pub use iovecs::IoVecs;
