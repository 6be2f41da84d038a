//! A Debian server as users install it: systemd, cloud-init, an SSH server, Debian's own kernel and the initramfs that its
//! own tools make. One disk without a partition table (there is no firmware to boot from it), kernel and initramfs beside it.
//! Needs root, because the files have to belong to root. Runs on the caller's thread.

use crate::cache::{Cache, Recipe};
use crate::error::{IoContext, LabError};
use crate::tool::Tool;
use std::fs;
use std::path::{Path, PathBuf};

const SUITE: &str = "bookworm";
const SIZE: &str = "900M";
const BUILDER_VERSION: &str = "1";
/// The file system's time stamps, so that the same recipe gives the same disk.
const EPOCH: &str = "1735689600";

/// What the server has beside Debian's minimal base.
const PACKAGES: [&str; 12] = [
    "cloud-init",              // what users configure it by
    "dbus",                    // systemctl and networkctl speak it
    "iproute2",                // addresses, and `ss`
    "iputils-ping",            // ICMP
    "linux-image-cloud-amd64", // the kernel
    "lz4",                     // the initramfs unpacks fastest with it
    "openssh-server",          // how users come in
    "procps",                  // ps, free
    "socat",                   // TCP and vsock from a script
    "systemd-resolved",        // names from the network's DHCP
    "systemd-sysv",            // the init system
    "udev",                    // devices by name
];

/// Files that are there before the kernel's package makes its initramfs, or that a server's administrator would write.
const FILES: [(&str, &str); 4] = [
    // The drivers of a virtual machine and nothing else: half a minute of emulated unpacking less.
    ("etc/initramfs-tools/conf.d/virtual-machine", "MODULES=list\nCOMPRESS=lz4\n"),
    ("etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\nvirtio_net\next4\n"),
    ("etc/cloud/cloud.cfg.d/90-datasource.cfg", "datasource_list: [NoCloud, None]\nlocale: C.UTF-8\n"),
    ("etc/modules-load.d/vsock.conf", "vmw_vsock_virtio_transport\n"),
];

/// Timers and services that only cost an emulated machine time.
const MASKED: [&str; 6] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
];

/// The server's files.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its disk: qcow2, ext4 without a partition table.
    pub disk: PathBuf,
    /// Debian's kernel, a bzImage.
    pub kernel: PathBuf,
    /// The initramfs that Debian's tools made for it.
    pub initrd: PathBuf,
}

impl Server {
    /// What the kernel has to be told to start it.
    pub const CMDLINE: &str = "console=ttyS0 root=/dev/vda rw quiet";

    /// Takes it from the cache or builds it, which takes a minute or two.
    ///
    /// # Errors
    /// [`LabError::Tool`] when mmdebstrap, mke2fs or qemu-img fail.
    pub fn prepare(cache: &Cache) -> Result<Self, LabError> {
        let files: Vec<String> = FILES.iter().map(|(path, text)| format!("{path}={text}")).collect();
        let recipe = Recipe::new("server")
            .with("suite", SUITE)
            .with("packages", PACKAGES.join(" "))
            .with("files", files.join("\n"))
            .with("masked", MASKED.join(" "))
            .with("size", SIZE)
            .with("builder", BUILDER_VERSION);
        let directory = cache.entry(&recipe, build)?;
        Ok(Self {
            disk: directory.join("server.qcow2"),
            kernel: directory.join("vmlinuz"),
            initrd: directory.join("initrd.img"),
        })
    }
}

fn build(dir: &Path) -> Result<(), LabError> {
    let (tree, before) = (dir.join("tree"), dir.join("before"));
    for (path, text) in FILES {
        let file = before.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).on("create", parent)?;
        }
        fs::write(&file, text).on("write", file)?;
    }
    Tool::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--quiet"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .args(["man", "doc", "locale", "info"].map(|share| format!("--dpkgopt=path-exclude=/usr/share/{share}/*")))
        .arg("--dpkgopt=force-confold")
        .arg(format!("--essential-hook=cp -r --no-preserve=ownership {}/. \"$1\"", before.display()))
        .arg(format!("--customize-hook=chroot \"$1\" systemctl mask {}", MASKED.join(" ")))
        .arg("--customize-hook=chroot \"$1\" systemctl enable systemd-networkd")
        .arg("--customize-hook=rm -f \"$1\"/etc/ssh/ssh_host_* \"$1\"/etc/hostname; : >\"$1\"/etc/machine-id")
        .args([SUITE.as_ref(), tree.as_os_str()])
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .run()?;
    for name in ["vmlinuz", "initrd.img"] {
        take_newest(&tree.join("boot"), name, &dir.join(name))?;
    }
    let raw = dir.join("server.raw");
    Tool::new("mke2fs")
        .args(["-q", "-t", "ext4", "-L", "root", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
        .args(["-U", "5d3a7f0e-2f4b-4d8e-9c61-0b6f0c8d1a02", "-d"])
        .args([tree.as_os_str(), raw.as_os_str(), SIZE.as_ref()])
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .run()?;
    Tool::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "server.raw", "server.qcow2"])
        .in_directory(dir)
        .run()?;
    fs::remove_file(&raw).on("remove", raw)?;
    for directory in [tree, before] {
        fs::remove_dir_all(&directory).on("remove", directory)?;
    }
    Ok(())
}

/// Moves `name-VERSION` from `boot`: the server does not need it twice.
fn take_newest(boot: &Path, name: &'static str, to: &Path) -> Result<(), LabError> {
    let mut found: Vec<PathBuf> = fs::read_dir(boot)
        .on("read", boot)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-"))))
        .collect();
    found.sort();
    let newest =
        found.pop().ok_or_else(|| LabError::Image { what: name, reason: "the kernel's package made none".into() })?;
    fs::copy(&newest, to).on("copy", &newest)?;
    fs::remove_file(&newest).on("remove", newest)
}
