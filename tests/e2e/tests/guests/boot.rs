//! The stock kernel, by every protocol, on several vCPUs, and with memory on both sides of the 4 GiB hole.

use anyhow::Result;
use quantix_e2e::{Bench, Case, Expect, case};
use quantix_lab::BootFile;

const FILES: [(&str, BootFile); 3] =
    [("pvh", BootFile::PvhElf), ("elf64", BootFile::PlainElf), ("bzimage", BootFile::BzImage)];

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![case("boot::memory_above_the_hole", memory_above_the_hole)];
    for (name, file) in FILES {
        for cpus in [1, 2, 4] {
            cases.push((format!("boot::{name}_{cpus}_cpus"), Box::new(move |bench| boots(bench, file, cpus))));
        }
    }
    cases
}

fn boots(bench: &Bench, file: BootFile, cpus: u32) -> Result<()> {
    let guest = bench.guest().boot(file).cpus(cpus).test("kernel");
    let report = bench.run(&guest)?.powered_off()?;
    report.told("kernel", &bench.images.kernel.version)?.told("cpus", &cpus.to_string())?.told("clock", "kvm-clock")?;
    Ok(())
}

fn memory_above_the_hole(bench: &Bench) -> Result<()> {
    let count = "fact above $($b grep -c '^1[0-9a-f]*-.*System RAM' /proc/iomem)";
    let report = bench.run(&bench.guest().memory_mib(6144).test("kernel").script(count))?;
    report.powered_off()?.told_number("memory_kib", |kib| kib > 5_900_000)?.told_number("above", |areas| areas > 0)?;
    Ok(())
}
