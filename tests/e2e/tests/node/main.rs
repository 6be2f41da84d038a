//! The node daemon in the lab, with unmodified Debian guests, driven by `qx` as its users do. Each module below has the
//! cases of one subject.

mod faults;
mod networks;
mod pools;
mod vms;

use std::process::ExitCode;

fn main() -> ExitCode {
    let groups = [vms::cases(), networks::cases(), pools::cases(), faults::cases()];
    quantix_e2e::main(groups.into_iter().flatten().collect())
}
