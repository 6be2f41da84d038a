//! Guest disks: a small Debian as ext4 in a raw file, and a qcow2 overlay on it. No loop device, no mount: `mke2fs -d`
//! fills the file system from a directory. Needs root, because the files have to belong to root.

use crate::cache::{Cache, Recipe};
use crate::error::LabError;
use crate::tool::Tool;
use std::fs;
use std::path::{Path, PathBuf};

const SUITE: &str = "bookworm";
const SIZE: &str = "560M";
const BUILDER_VERSION: &str = "1";
/// The file system's time stamps, so that the same recipe gives the same disk.
const EPOCH: &str = "1735689600";

/// What the disk has beside Debian's essential packages.
const PACKAGES: [&str; 7] = [
    "fio",               // disk I/O with verification
    "iperf3",            // TCP streams
    "iproute2",          // addresses, and `ss`
    "iputils-ping",      // ICMP
    "nfs-kernel-server", // an NFS server in L1, for the node's pools
    "openssh-client",    // into the guests of the node
    "socat",             // vsock and TCP from a script
];

/// The disk images.
#[derive(Debug, Clone)]
pub struct Disks {
    /// ext4 without a partition table.
    pub raw: PathBuf,
    /// An empty qcow2 file whose backing file is [`Disks::raw`], by relative name.
    pub qcow2: PathBuf,
}

impl Disks {
    /// Takes them from the cache or builds them, which takes about a minute.
    ///
    /// # Errors
    /// [`LabError::Tool`] when mmdebstrap, mke2fs or qemu-img fail.
    pub fn prepare(cache: &Cache) -> Result<Self, LabError> {
        let recipe = Recipe::new("disk")
            .with("suite", SUITE)
            .with("packages", PACKAGES.join(" "))
            .with("size", SIZE)
            .with("builder", BUILDER_VERSION);
        let directory = cache.entry(&recipe, build)?;
        Ok(Self { raw: directory.join("root.raw"), qcow2: directory.join("root.qcow2") })
    }
}

fn build(dir: &Path) -> Result<(), LabError> {
    let tree = dir.join("tree");
    Tool::new("mmdebstrap")
        .args(["--mode=root", "--variant=essential", "--quiet"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg("--dpkgopt=path-exclude=/usr/share/man/*")
        .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
        .args([SUITE.as_ref(), tree.as_os_str()])
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .run()?;
    let raw = dir.join("root.raw");
    Tool::new("mke2fs")
        .args(["-q", "-t", "ext4", "-L", "guest-root", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
        .args(["-U", "5d3a7f0e-2f4b-4d8e-9c61-0b6f0c8d1a01", "-d"])
        .args([tree.as_os_str(), raw.as_os_str(), SIZE.as_ref()])
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .run()?;
    Tool::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "root.raw", "root.qcow2"])
        .in_directory(dir)
        .run()?;
    fs::remove_dir_all(&tree).map_err(|source| LabError::Io { action: "remove", path: tree, source })
}
