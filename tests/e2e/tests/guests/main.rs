//! Unmodified Debian guests in `quantix-vmm`, on the lab's KVM. Each module below has the cases of one subject.

mod boot;
mod devices;
mod isolation;
mod power;

use std::process::ExitCode;

fn main() -> ExitCode {
    let groups = [boot::cases(), devices::cases(), isolation::cases(), power::cases()];
    quantix_e2e::main(groups.into_iter().flatten().collect())
}
