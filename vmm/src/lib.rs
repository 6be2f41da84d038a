//! `quantix-vmm`: one sandboxed process per guest.
pub mod cli;
pub mod config;
