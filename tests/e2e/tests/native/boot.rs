//! Both protocols, several CPUs, interrupts, and what is said when KVM gives up.

use anyhow::{Result, ensure};
use quantix_bench::elf::without_pvh;
use quantix_e2e::native::{Case, Native, case};

use crate::refusals::elf;

const X86_64: u16 = 62;
/// `mov edi, 0xfeb00000; cmpxchg16b [rdi]`: on a device's address KVM has to emulate it everywhere, and cannot.
const NOT_EMULATED: &[u8] = &[0xbf, 0x00, 0x00, 0xb0, 0xfe, 0x48, 0x0f, 0xc7, 0x0f];

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("boot::pvh", |native| protocol(native, native.vm(), "Pvh")),
        case("boot::linux_64_bit", linux_64_bit),
        case("boot::two_cpus", |native| passes(native.vm().option("--cpus", "2"), "smp")),
        case("boot::four_cpus", |native| passes(native.vm().option("--cpus", "4"), "smp")),
        case("boot::interrupts_by_msix", |native| passes(native.vm().flag("--rng"), "msix")),
        case("boot::kvm_gives_up", kvm_gives_up),
    ]
}

/// The guest does `test` well and powers off.
pub fn passes(vm: quantix_e2e::native::Vm<'_>, test: &str) -> Result<()> {
    vm.does(&format!("test={test}")).run()?.exited(0)?.passed(test)?;
    Ok(())
}

fn protocol(_: &Native, vm: quantix_e2e::native::Vm<'_>, expected: &str) -> Result<()> {
    let ended = vm.does("info=1").run()?.exited(0)?;
    let told = ended.line("event", "info")?;
    ensure!(told["protocol"] == expected, "{told}");
    Ok(())
}

fn linux_64_bit(native: &Native) -> Result<()> {
    let kernel = native.file("without-pvh", &without_pvh(std::fs::read(&native.payload)?)?)?;
    protocol(native, native.vm().kernel(kernel), "Linux")
}

fn kvm_gives_up(native: &Native) -> Result<()> {
    let kernel = native.file("kernel", &elf(X86_64, NOT_EMULATED))?;
    let ended = native.vm().kernel(kernel).run()?.exited(1)?;
    for part in
        ["KVM gave up", "rip 0000000000100005", "rdi 00000000feb00000", "instruction bytes 48 0f c7 0f", "Use a host"]
    {
        ensure!(ended.errors.contains(part), "{part:?} is missing{}", ended.words());
    }
    Ok(())
}
