//! `quantix-vmm`: one sandboxed process per guest, on KVM.
//!
//! The rooms are described in `vmm/README.md`; each module's own header says which thread runs it and what it must not do.

pub mod board;
pub mod bus;
pub mod cli;
pub mod config;
pub mod memory;
pub mod telemetry;
pub mod virtio;
