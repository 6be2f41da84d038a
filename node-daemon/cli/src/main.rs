//! `qx`: the command line of a Quantix node. Everything is in the library, so that tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    quantix_cli::main()
}
