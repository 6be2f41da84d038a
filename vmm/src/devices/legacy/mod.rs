//! Devices from before PCI that guests still expect. Called by vCPU threads on exits.

#![forbid(unsafe_code)]

pub mod serial;
