//! The `quantix-vmm` program.

fn main() {}
