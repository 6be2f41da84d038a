//! A run in deterministic time: one emulated CPU, QEMU counts instructions instead of looking at a clock, L1 is one
//! self-contained initramfs. The same binaries give the same figures to the last digit on any machine, however busy, so a
//! change in them is a change of ours. They are instructions, not cycles: right for a regression test, not for a benchmark.

use crate::cache::Cache;
use crate::error::{IoContext, LabError};
use crate::images::{self, Images};
use crate::machine::KERNEL_WORDS;
use crate::tool::Tool;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A change of more than this is a regression until the baseline is changed on purpose.
pub const ALLOWED_PERCENT: u64 = 3;
const AUTO: &str = include_str!("../guest/exact.sh");
/// The image needs the KVM under test and nothing else.
const MODULES: [&str; 1] = ["kvm_amd"];
/// The guest's modules: those of the initramfs with which other VMMs were measured, so that figures compare. None is
/// loaded before `/init`, but the kernel unpacks them.
const GUEST_MODULES: [&str; 6] =
    ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "vmw_vsock_virtio_transport", "virtio_rng"];
const TIMEOUT: Duration = Duration::from_mins(8);
/// Counters that are kept; the others say little or follow from these.
const COUNTERS: [&str; 7] =
    ["exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits", "insn_emulation", "pf_taken"];

/// What a run in deterministic time gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// The guest kernel's version: another kernel gives other figures.
    pub kernel: String,
    /// From the VMM's start to the guest's `/init`, in microseconds of virtual time.
    pub init_microseconds: u64,
    /// KVM's exit counts at that moment, by kind.
    pub exits: BTreeMap<String, u64>,
}

impl Figures {
    /// What differs from `baseline` by more than `percent`, one sentence each. Counts below 20 may differ by one.
    pub fn differences(&self, baseline: &Self, percent: u64) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |name: &str, now: u64, before: u64| {
            let allowed = if before < 20 { 1 } else { before.saturating_mul(percent) / 100 };
            if now.abs_diff(before) > allowed {
                differences.push(format!("{name} is {now}, the baseline says {before}"));
            }
        };
        compare("init_microseconds", self.init_microseconds, baseline.init_microseconds);
        let names = self.exits.keys().chain(baseline.exits.keys()).collect::<std::collections::BTreeSet<_>>();
        for name in names {
            let count = |figures: &Self| figures.exits.get(name).copied().unwrap_or_default();
            compare(name, count(self), count(baseline));
        }
        differences
    }

    /// Reads a baseline file.
    ///
    /// # Errors
    /// [`LabError::Io`] when it is not there or not one.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let text = fs::read(path).on("read", path)?;
        serde_json::from_slice(&text).map_err(std::io::Error::from).on("parse", path)
    }

    /// Writes a baseline file.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LabError> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from).on("encode", path)?;
        fs::write(path, text + "\n").on("write", path)
    }
}

/// Boots the stock kernel in `vmm` and counts. Takes one to three minutes.
///
/// # Errors
/// [`LabError::Image`] with the end of L1's console when the guest does not reach its `/init`.
pub fn run(cache: &Cache, images: &Images, vmm: &Path) -> Result<Figures, LabError> {
    let place = cache.root().join(format!("exact.{}", std::process::id()));
    fs::create_dir_all(&place).on("create", &place)?;
    let console = boot(&place, images, vmm);
    fs::remove_dir_all(&place).on("remove", &place)?;
    let console = console?;
    parse(&console, &images.kernel.version).ok_or_else(|| LabError::Image {
        what: "figures",
        reason: format!("the guest did not reach its /init; L1 said:\n{console}"),
    })
}

fn boot(place: &Path, images: &Images, vmm: &Path) -> Result<String, LabError> {
    let initramfs = place.join("initramfs.cpio");
    fs::write(&initramfs, archive(images, vmm)?).on("write", &initramfs)?;
    let seconds = TIMEOUT.as_secs().to_string();
    let console = place.join("console.log");
    let ended = Tool::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "timeout", "--signal=KILL", &seconds, "qemu-system-x86_64"])
        .args(
            "-nodefaults -no-user-config -display none -no-reboot -M q35 -cpu max,+svm,+npt -smp 1 -m 2048".split(' '),
        )
        .args("-accel tcg,thread=single -icount shift=0,sleep=off,align=off -seed 1".split(' '))
        .args("-rtc base=2026-01-01T00:00:00,clock=vm".split(' '))
        .args(["-serial", &format!("file:{}", console.display())])
        .arg("-kernel")
        .arg(&images.kernel.vmlinux)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", &format!("{KERNEL_WORDS} nokaslr lab.auto")])
        .run();
    let said = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    // Without figures the console tells why; only when there is none, QEMU does.
    if said.is_empty() { ended } else { Ok(said) }
}

/// L1's initramfs with the VMM, its libraries, the guest's kernel and initramfs.
fn archive(images: &Images, vmm: &Path) -> Result<Vec<u8>, LabError> {
    let mut archive = images::l1_archive(&images.kernel, &MODULES)?;
    let mut add = |path: &str, from: &Path, mode| {
        archive.file(path, mode, &fs::read(from).on("read", from)?);
        Ok::<_, LabError>(())
    };
    add("vmm", vmm, 0o755)?;
    for library in libraries(vmm)? {
        add(library.display().to_string().trim_start_matches('/'), &library, 0o755)?;
    }
    add("guest/vmlinux", &images.kernel.vmlinux, 0o644)?;
    let initramfs = images::guest_archive(&images.kernel, &GUEST_MODULES)?;
    archive.file("guest/initramfs.cpio", 0o644, &initramfs.finish());
    archive.file("auto", 0o755, AUTO.as_bytes());
    Ok(archive.finish())
}

/// The shared libraries of a program, by `ldd`; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, LabError> {
    let list = match Tool::new("ldd").arg(program).run() {
        Err(LabError::Tool { stderr, .. }) if stderr.contains("not a dynamic executable") => String::new(),
        other => other?,
    };
    Ok(list.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn parse(console: &str, kernel: &str) -> Option<Figures> {
    let line = console.lines().find_map(|line| line.trim().strip_prefix("MEASURED "))?;
    let pairs: BTreeMap<&str, u64> = line
        .split(' ')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(k, v)| Some((k, v.parse().ok()?)))
        .collect();
    let exits = COUNTERS.iter().map(|name| ((*name).into(), pairs.get(name).copied().unwrap_or_default())).collect();
    Some(Figures { kernel: kernel.into(), init_microseconds: pairs.get("nanoseconds")? / 1000, exits })
}

#[cfg(test)]
mod tests {
    use super::parse;

    const CONSOLE: &str =
        "noise\r\nMEASURED nanoseconds=1500000999 exits=1000 io_exits=300 mmio_exits=5 odd=7\r\nENDED";

    #[test]
    fn figures_are_found_in_the_console() {
        let figures = parse(CONSOLE, "6.1").expect("they are there");
        assert_eq!(figures.init_microseconds, 1_500_000);
        assert_eq!(figures.exits["io_exits"], 300);
        assert_eq!(parse("noise", "6.1"), None);
    }

    #[test]
    fn only_changes_above_the_limit_are_told() {
        let baseline = parse(CONSOLE, "6.1").expect("they are there");
        let mut now = baseline.clone();
        now.exits.insert("io_exits".into(), 309);
        now.exits.insert("mmio_exits".into(), 6);
        assert_eq!(now.differences(&baseline, 3), Vec::<String>::new());
        now.exits.insert("io_exits".into(), 290);
        now.init_microseconds = 1_546_000;
        assert_eq!(now.differences(&baseline, 3).len(), 2);
    }
}
