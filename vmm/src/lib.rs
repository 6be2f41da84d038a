//! `quantix-vmm`: one sandboxed process per guest, on KVM.
//!
//! The rooms are described in `vmm/README.md`; each module's own header says which thread runs it and what it must not do.

pub mod arch;
pub mod backend;
pub mod board;
pub mod bus;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod ctl;
pub mod devices;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod reactor;
pub mod sandbox;
pub mod telemetry;
pub mod virtio;
