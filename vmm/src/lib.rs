//! `quantix-vmm`: one sandboxed process per guest.

pub mod sandbox;
