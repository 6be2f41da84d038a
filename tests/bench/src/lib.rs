//! Measures VMMs with the freestanding payload.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod bare;
pub mod compare;
pub mod elf;
pub mod frames;
pub mod node;
pub mod start;
pub mod vsock_peer;
