//! `qx`: the command line of a Quantix node.

fn main() {}
