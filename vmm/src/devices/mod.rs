//! The virtio devices: a folder each.
//!
//! A device names no transport, spawns no thread, registers no fd, allocates no address and writes no ACPI: it describes
//! itself, and others act (see [`crate::virtio::Device`]).

#![forbid(unsafe_code)]

pub mod net;
