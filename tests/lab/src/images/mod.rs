//! Everything that is booted: the kernel, L1's initramfs, the guests' initramfs and disks. All of it comes from Debian
//! packages and the scripts in `guest/`, and is cached by the hash of its recipe. Runs on the caller's thread.

pub mod cpio;
pub mod disk;
pub mod kernel;
pub mod modules;
pub mod server;

use crate::cache::{Cache, Recipe};
use crate::error::{IoContext, LabError};
use cpio::Archive;
use kernel::Kernel;
use std::fs;
use std::path::{Path, PathBuf};

/// The static agent, built by `build.rs`.
pub(crate) const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lab-agent"));
const L1_INIT: &str = include_str!("../../guest/l1-init.sh");
const GUEST_INIT: &str = include_str!("../../guest/guest-init.sh");
const BUSYBOX: &str = "/bin/busybox";
/// A dynamic program names its loader.
const LOADER: &[u8] = b"/lib64/ld-linux";

/// What L1 needs before it has the host's root; the rest is loaded from there.
const L1_MODULES: [&str; 5] = [
    "virtio_pci",     // every device of L1
    "virtio_console", // the agent's ports
    "virtiofs",       // the root
    "overlay",        // a writable layer over the root
    "virtio_rng",     // entropy, or the first TLS server waits for it
];

/// What a guest needs.
const GUEST_MODULES: [&str; 12] = [
    "virtio_pci",                 // every device
    "virtio_blk",                 // disks
    "ext4",                       // their file system
    "virtio_net",                 // the NIC
    "vmw_vsock_virtio_transport", // vsock
    "virtio_rng",                 // entropy
    "virtio_console",             // hvc0
    "virtio_balloon",             // memory given back
    "button",                     // the power button
    "evdev",                      // its events for user space
    "pvpanic-mmio",               // a panic is told to the VMM (ACPI device QEMU0001)
    "pvpanic-pci",                // the same as a PCI device
];

/// The images that every use of the lab needs.
#[derive(Debug, Clone)]
pub struct Images {
    /// Debian's kernel, for L1 and for guests.
    pub kernel: Kernel,
    /// L1's initramfs.
    pub l1_initramfs: PathBuf,
    /// The guests' initramfs; a case may append its own archive with a `/script`.
    pub guest_initramfs: PathBuf,
}

impl Images {
    /// Takes them from the cache or builds them.
    ///
    /// # Errors
    /// [`LabError::Tool`] or [`LabError::Image`], naming what is missing on this machine.
    pub fn prepare(cache: &Cache) -> Result<Self, LabError> {
        let kernel = Kernel::fetch(cache)?;
        Ok(Self {
            l1_initramfs: l1_initramfs(cache, &kernel)?,
            guest_initramfs: guest_initramfs(cache, &kernel)?,
            kernel,
        })
    }
}

/// An archive that adds `/script` to the guests' initramfs: append its bytes to that file.
pub fn script_archive(script: &str) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file("script", 0o755, script.as_bytes());
    archive.finish()
}

fn l1_initramfs(cache: &Cache, kernel: &Kernel) -> Result<PathBuf, LabError> {
    let recipe = initramfs_recipe("l1", kernel, &L1_MODULES)?.with("init", L1_INIT).with("agent", AGENT);
    build(cache, &recipe, || l1_archive(kernel, &L1_MODULES))
}

/// L1's initramfs with these modules; more may be added.
pub(crate) fn l1_archive(kernel: &Kernel, modules: &[&str]) -> Result<Archive, LabError> {
    let mut archive = Archive::default();
    archive.file("bin/lab-agent", 0o755, AGENT);
    add_base(&mut archive, L1_INIT)?;
    modules::pack(&mut archive, &kernel.module_tree(), modules)?;
    Ok(archive)
}

fn guest_initramfs(cache: &Cache, kernel: &Kernel) -> Result<PathBuf, LabError> {
    let recipe = initramfs_recipe("guest", kernel, &GUEST_MODULES)?.with("init", GUEST_INIT);
    build(cache, &recipe, || guest_archive(kernel, &GUEST_MODULES))
}

/// A guest's initramfs with these modules.
pub(crate) fn guest_archive(kernel: &Kernel, modules: &[&str]) -> Result<Archive, LabError> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "dev", "mnt", "tmp"] {
        archive.directory(directory);
    }
    add_base(&mut archive, GUEST_INIT)?;
    modules::pack(&mut archive, &kernel.module_tree(), modules)?;
    Ok(archive)
}

fn initramfs_recipe(name: &'static str, kernel: &Kernel, modules: &[&str]) -> Result<Recipe, LabError> {
    Ok(Recipe::new(name)
        .with("kernel", kernel.directory.as_os_str().as_encoded_bytes())
        .with("modules", modules.join(" "))
        .with("busybox", fs::read(BUSYBOX).on("read", BUSYBOX)?))
}

fn add_base(archive: &mut Archive, init: &str) -> Result<(), LabError> {
    let busybox = fs::read(BUSYBOX).on("read", BUSYBOX)?;
    // The package `busybox` puts a dynamic program there, which no initramfs here could start.
    if busybox.windows(LOADER.len()).any(|window| window == LOADER) {
        let reason = format!("{BUSYBOX} is not static; install busybox-static in its place");
        return Err(LabError::Image { what: "initramfs", reason });
    }
    archive.file("bin/busybox", 0o755, &busybox);
    archive.symlink("bin/sh", "busybox");
    archive.file("init", 0o755, init.as_bytes());
    Ok(())
}

fn build(
    cache: &Cache,
    recipe: &Recipe,
    make: impl FnOnce() -> Result<Archive, LabError>,
) -> Result<PathBuf, LabError> {
    let write = |dir: &Path| {
        let file = dir.join("initramfs.cpio");
        fs::write(&file, make()?.finish()).on("write", file)
    };
    Ok(cache.entry(recipe, write)?.join("initramfs.cpio"))
}
