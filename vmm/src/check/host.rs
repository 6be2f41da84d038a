//! What this host has besides KVM: the processor, devices, kernel features. Facts only.
//!
//! Runs on the main thread of `quantix-vmm check`. Must not change anything, and must not judge.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

use io_uring::IoUring;
use serde::Serialize;

use crate::sandbox::landlock_of_this_kernel;

/// Whether a device file can be used by this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It opens for reading and writing.
    Usable,
    /// It is there, and this user may not open it.
    Forbidden,
    /// It is not there, or nothing is behind it.
    Absent,
}

/// Huge pages of one size that were set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HugePages {
    /// Size of one page.
    pub size_bytes: u64,
    /// How many are set aside.
    pub total: u64,
    /// How many of them are not in use.
    pub free: u64,
}

/// What the host has.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// `vmx` or `svm`, when the processor shows hardware virtualisation to this kernel.
    pub virtualization: Option<String>,
    /// This host is a virtual machine itself.
    pub is_virtual: bool,
    /// Loaded modules whose names begin with `kvm_`.
    pub kvm_modules: Vec<String>,
    /// `/dev/net/tun`.
    pub tun: Access,
    /// `/dev/vhost-net`.
    pub vhost_net: Access,
    /// Smallest size first.
    pub huge_pages: Vec<HugePages>,
    /// The mode of transparent huge pages for ordinary memory; `None` without support.
    pub transparent_huge_pages: Option<String>,
    /// The same for shared memory.
    pub transparent_huge_pages_shared: Option<String>,
    /// A ring could be made.
    pub io_uring: bool,
    /// The version of Landlock; 0 without it.
    pub landlock_abi: u32,
    /// Seccomp filters can end a process.
    pub seccomp: bool,
}

impl Host {
    /// Looks around.
    pub fn look() -> Self {
        let cpuinfo = text("/proc/cpuinfo").unwrap_or_default();
        Self {
            kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            virtualization: ["vmx", "svm"].into_iter().find(|flag| has_flag(&cpuinfo, flag)).map(str::to_owned),
            is_virtual: has_flag(&cpuinfo, "hypervisor"),
            kvm_modules: names("/sys/module").into_iter().filter(|name| name.starts_with("kvm_")).collect(),
            tun: access("/dev/net/tun"),
            vhost_net: access("/dev/vhost-net"),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            transparent_huge_pages: mode("/sys/kernel/mm/transparent_hugepage/enabled"),
            transparent_huge_pages_shared: mode("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            io_uring: IoUring::new(1).is_ok(),
            landlock_abi: landlock_of_this_kernel().abi,
            seccomp: text("/proc/sys/kernel/seccomp/actions_avail").is_some_and(|all| all.contains("kill_process")),
        }
    }
}

/// A file's text without white space at its ends.
fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The names in a directory, sorted; none when it cannot be read.
fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Whether the first processor in `/proc/cpuinfo` has a flag.
fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.trim_start().strip_prefix(':'));
    flags.is_some_and(|flags| flags.split_whitespace().any(|word| word == flag))
}

fn access(device: &str) -> Access {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Access::Usable,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Access::Forbidden,
        Err(_) => Access::Absent,
    }
}

fn huge_pages(directory: &Path) -> Vec<HugePages> {
    let mut all: Vec<_> = names(directory)
        .iter()
        .filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = |file| text(directory.join(name).join(file))?.parse().ok();
            Some(HugePages { size_bytes: kib << 10, total: count("nr_hugepages")?, free: count("free_hugepages")? })
        })
        .collect();
    all.sort();
    all
}

/// The word in brackets, which is the one in force.
fn mode(path: &str) -> Option<String> {
    let text = text(path)?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words_of_the_flags_line() {
        let cpuinfo = "processor\t: 0\nmodel name\t: vmx machine\nflags\t\t: fpu avx512_vmx svm\n";
        assert!(has_flag(cpuinfo, "svm"));
        assert!(!has_flag(cpuinfo, "vmx"));
        assert!(!has_flag("", "svm"));
    }

    #[test]
    fn huge_pages_are_read_from_their_directories() {
        let root = tempfile::tempdir().unwrap();
        for (name, total, free) in
            [("hugepages-1048576kB", "1", "0"), ("hugepages-2048kB", "8\n", "3\n"), ("x", "", "")]
        {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("nr_hugepages"), total).unwrap();
            fs::write(root.path().join(name).join("free_hugepages"), free).unwrap();
        }
        let expected = [
            HugePages { size_bytes: 2 << 20, total: 8, free: 3 },
            HugePages { size_bytes: 1 << 30, total: 1, free: 0 },
        ];
        assert_eq!(huge_pages(root.path()), expected);
        assert_eq!(huge_pages(Path::new("/nowhere")), []);
    }
}
