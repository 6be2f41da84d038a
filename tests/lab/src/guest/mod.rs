//! A guest in L1: what it is to be, how a VMM is told, and what it said. The verbs of the end-to-end cases and of the
//! demonstration. Runs on the caller's thread.

mod running;
mod vmm;

pub use running::{Report, RunningGuest};
pub use vmm::{Vmm, target_directory};

use crate::error::LabError;
use crate::images::disk::Disks;
use crate::images::kernel::Kernel;
use crate::images::{Images, script_archive};
use crate::machine::Lab;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// L1's end of the guests' network.
pub const HOST_ADDRESS: &str = "172.16.0.1";
/// The guest's end.
pub const GUEST_ADDRESS: &str = "172.16.0.2";
/// Where in L1 the guest's vsock device has its unix socket; for port N the host listens on this name and `_N`.
pub const VSOCK_SOCKET: &str = "/dev/shm/guest-vsock";
/// Where in L1 a guest's other sockets and files are, in memory.
const PLACE: &str = "/dev/shm/guest";
/// Where L1 has the guests' Debian, for programs that the machine below has not; see [`tool`].
pub const TOOLS: &str = "/run/lab/tools";

/// How the kernel is handed to the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootFile {
    /// An ELF file with a PVH note.
    PvhElf,
    /// An ELF file without it: the 64-bit Linux protocol.
    PlainElf,
    /// A compressed bzImage.
    BzImage,
}

impl BootFile {
    fn path(self, kernel: &Kernel) -> &Path {
        match self {
            Self::PvhElf => &kernel.vmlinux,
            Self::PlainElf => &kernel.vmlinux_without_pvh,
            Self::BzImage => &kernel.bzimage,
        }
    }
}

/// A guest's disk.
#[derive(Debug, Clone)]
pub(crate) struct GuestDisk {
    pub(crate) path: String,
    pub(crate) format: &'static str,
    pub(crate) readonly: bool,
}

/// A guest to start.
#[derive(Debug, Clone)]
pub struct Guest {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) words: Vec<String>,
    pub(crate) disks: Vec<GuestDisk>,
    pub(crate) net: bool,
    pub(crate) vhost: &'static str,
    pub(crate) vsock: bool,
    pub(crate) balloon: bool,
    pub(crate) options: Vec<String>,
    under: Vec<String>,
    script: Option<String>,
    timeout: Duration,
    images: Images,
}

impl Guest {
    /// One vCPU, 512 MiB, by PVH, no devices but the serial port.
    pub fn new(images: &Images) -> Self {
        Self {
            kernel: images.kernel.vmlinux.clone(),
            initramfs: images.guest_initramfs.clone(),
            cpus: 1,
            memory_mib: 512,
            words: ["console=ttyS0", "quiet", "panic=-1"].map(String::from).to_vec(),
            disks: Vec::new(),
            net: false,
            vhost: "auto",
            vsock: false,
            balloon: false,
            options: Vec::new(),
            under: Vec::new(),
            script: None,
            timeout: Duration::from_secs(150),
            images: images.clone(),
        }
    }

    /// Starts from this file.
    #[must_use]
    pub fn boot(mut self, file: BootFile) -> Self {
        self.kernel = file.path(&self.images.kernel).to_path_buf();
        self
    }

    /// The number of vCPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The memory in MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory: u32) -> Self {
        self.memory_mib = memory;
        self
    }

    /// Adds words to the kernel's command line.
    #[must_use]
    pub fn words(mut self, words: &str) -> Self {
        self.words.extend(words.split_whitespace().map(String::from));
        self
    }

    /// Runs these verbs of `guest-init.sh`, separated by commas.
    #[must_use]
    pub fn test(self, verbs: &str) -> Self {
        self.words(&format!("lab.test={verbs}"))
    }

    /// Runs this script in the guest, with the functions of `guest-init.sh` at hand.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.script = Some(script.into());
        self
    }

    /// Adds Debian's root disk, read-only, and has the guest mount it.
    #[must_use]
    pub fn root(self, disks: &Disks) -> Self {
        self.disk(&disks.raw.display().to_string(), "raw", true).mount_first_disk()
    }

    /// Has the guest mount its first disk as the Debian root.
    #[must_use]
    pub fn mount_first_disk(self) -> Self {
        self.words("lab.root=/dev/vda")
    }

    /// Adds a disk; `format` is `raw` or `qcow2`.
    #[must_use]
    pub fn disk(mut self, path: &str, format: &'static str, readonly: bool) -> Self {
        self.disks.push(GuestDisk { path: path.into(), format, readonly });
        self
    }

    /// Adds a NIC on L1's tap, with addresses at both ends.
    #[must_use]
    pub fn net(mut self) -> Self {
        self.net = true;
        self.words(&format!("lab.ip={GUEST_ADDRESS} lab.gw={HOST_ADDRESS}"))
    }

    /// Whether L1's kernel moves the NIC's frames: `auto`, `on` or `off`.
    #[must_use]
    pub fn vhost(mut self, mode: &'static str) -> Self {
        self.vhost = mode;
        self
    }

    /// Adds a vsock device with context id 3.
    #[must_use]
    pub fn vsock(mut self) -> Self {
        self.vsock = true;
        self
    }

    /// Adds a balloon.
    #[must_use]
    pub fn balloon(mut self) -> Self {
        self.balloon = true;
        self
    }

    /// Adds options to the VMM's command line.
    #[must_use]
    pub fn option(mut self, words: &str) -> Self {
        self.options.extend(words.split_whitespace().map(String::from));
        self
    }

    /// Starts the VMM under another program, such as `strace`.
    #[must_use]
    pub fn under(mut self, words: &str) -> Self {
        self.under.extend(words.split_whitespace().map(String::from));
        self
    }

    /// How long it may live; it is killed after that.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The command line, for a person to read.
    pub fn shown(&self, vmm: &Vmm) -> String {
        let quoted = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
        vmm.command_line(self, PLACE).iter().map(quoted).collect::<Vec<_>>().join(" ").replace(" --", " \\\n    --")
    }

    /// Starts it in `lab`.
    ///
    /// # Errors
    /// As [`Lab::spawn`].
    pub fn start<'lab>(&self, lab: &'lab Lab, vmm: &Vmm) -> Result<RunningGuest<'lab>, LabError> {
        let place = PLACE;
        lab.script(&format!("rm -rf {place} {VSOCK_SOCKET} && mkdir {place}"), Duration::from_secs(20))?;
        let mut guest = self.clone();
        if let Some(script) = &self.script {
            let initramfs = format!("{place}/initramfs.cpio");
            let archive = format!("{place}/script.cpio");
            lab.put(&archive, &script_archive(script))?;
            let join = format!("cat {} {archive} > {initramfs}", self.initramfs.display());
            lab.script(&join, Duration::from_secs(20))?;
            guest.initramfs = initramfs.into();
        }
        let mut argv = self.under.clone();
        argv.extend(vmm.command_line(&guest, place));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        Ok(RunningGuest::new(lab, vmm, place, lab.spawn(&argv, self.timeout)?))
    }

    /// Starts it and waits for its end.
    ///
    /// # Errors
    /// As [`Guest::start`] and [`RunningGuest::end`].
    pub fn run(&self, lab: &Lab, vmm: &Vmm) -> Result<Report, LabError> {
        self.start(lab, vmm)?.end()
    }
}

/// Makes L1 ready for guests: a tap with an address, and the guests' Debian for its programs (see [`tool`]).
/// May be called again at any time.
///
/// # Errors
/// As [`Lab::script`].
pub fn prepare_host(lab: &Lab, disks: &Disks) -> Result<(), LabError> {
    let disk = disks.raw.display();
    let script = format!(
        "if ! [ -e {TOOLS}/bin ]; then
            modprobe -a loop vhost_net || true
            mkdir -p {TOOLS}
            mount -o loop,ro,noload {disk} {TOOLS}
            mount -t tmpfs tmp {TOOLS}/tmp
            mount -t tmpfs nfs {TOOLS}/var/lib/nfs
            for d in dev dev/shm proc run; do mount --bind /$d {TOOLS}/$d; done
        fi
        if ! [ -d /sys/class/net/tap0 ]; then
            chroot {TOOLS} ip tuntap add tap0 mode tap
            chroot {TOOLS} ip address add {HOST_ADDRESS}/24 dev tap0
            chroot {TOOLS} ip link set tap0 up
        fi"
    );
    lab.script(&script, Duration::from_mins(1)).map(drop)
}

/// The command line of a program of the guests' Debian, to be run in L1 after [`prepare_host`].
pub fn tool<'a>(argv: &[&'a str]) -> Vec<&'a str> {
    ["chroot", TOOLS].into_iter().chain(argv.iter().copied()).collect()
}
