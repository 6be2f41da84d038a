//! The payload in `quantix-vmm`, on this host's own KVM. Each module below has the cases of one subject.

mod boot;
mod devices;
mod hostile;
mod jail;
mod lifecycle;
mod refusals;
mod sandbox;

use std::process::ExitCode;

fn main() -> ExitCode {
    let groups = [
        boot::cases(),
        devices::cases(),
        hostile::cases(),
        jail::cases(),
        lifecycle::cases(),
        refusals::cases(),
        sandbox::cases(),
    ];
    quantix_e2e::native::main(groups.into_iter().flatten().collect())
}
