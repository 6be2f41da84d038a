//! virtio-rng: entropy for the guest (virtio 1.3 section 5.4).
//!
//! One queue; its buffers are filled by getrandom(2). A guest gets at most [`REQUEST_BYTES`] a request and
//! [`WINDOW_BYTES`] in each [`WINDOW`] (5 MiB a second): making random bytes is work of the host's CPU, and a
//! guest must not be able to order any amount of it. What is beyond the bound waits for the next window.

mod device;
mod worker;

pub use device::Rng;
pub use worker::{REQUEST_BYTES, WINDOW, WINDOW_BYTES};

#[cfg(test)]
mod tests;
