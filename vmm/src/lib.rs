//! `quantix-vmm`: one sandboxed process per guest.
