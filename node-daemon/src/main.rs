//! The `quantix-node` program.

fn main() {}
