//! Who is compared, and the command line that gives each of them the same guest.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Guest memory, everywhere.
pub const GUEST_MIB: u64 = 128;

/// One of those who are compared. QEMU twice: the better figure of its two modes counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// The smallest program that runs the payload.
    Bare,
    /// quantix-vmm, sandbox on.
    Quantix,
    /// QEMU microvm, iothread, `aio=io_uring`.
    QemuUring,
    /// QEMU microvm, iothread, `aio=threads`.
    QemuThreads,
}

/// The programs.
pub struct Programs {
    /// This program, for its `bare` command.
    pub bench: PathBuf,
    /// quantix-vmm.
    pub vmm: PathBuf,
    /// The payload's ELF file.
    pub payload: PathBuf,
}

/// A guest as all get it.
#[derive(Clone, Copy, Default)]
pub struct Guest<'a> {
    /// vCPUs; 0 counts as 1.
    pub cpus: u32,
    /// Raw disk.
    pub disk: Option<&'a Path>,
    /// Tap of the only NIC.
    pub tap: Option<&'a str>,
    /// Unix socket of vsock (not QEMU).
    pub vsock: Option<&'a Path>,
    /// Words for the payload.
    pub words: &'a str,
}

impl Programs {
    /// The command that runs `guest` with its serial line on standard output.
    pub fn command(&self, contender: Contender, guest: &Guest<'_>) -> Command {
        match contender {
            Contender::Bare => self.bare(guest),
            Contender::Quantix => self.quantix(guest),
            Contender::QemuUring => self.qemu(guest, "io_uring"),
            Contender::QemuThreads => self.qemu(guest, "threads"),
        }
    }

    fn bare(&self, guest: &Guest<'_>) -> Command {
        let mut command = Command::new(&self.bench);
        command.arg("bare").arg("--payload").arg(&self.payload).args(["--cmdline", guest.words]);
        command.args(["--memory-mib", &GUEST_MIB.to_string()]);
        command
    }

    fn quantix(&self, guest: &Guest<'_>) -> Command {
        let mut command = Command::new(&self.vmm);
        command.args(["run", "--log-level", "error", "--cmdline", guest.words, "--kernel"]).arg(&self.payload);
        command.args(["--cpus", &guest.cpus.max(1).to_string(), "--memory", &format!("{GUEST_MIB}M")]);
        if let Some(disk) = guest.disk {
            command.args(["--disk", &format!("path={}", disk.display())]);
        }
        if let Some(tap) = guest.tap {
            command.args(["--net", &format!("tap={tap}")]);
        }
        if let Some(socket) = guest.vsock {
            command.args(["--vsock", &format!("cid=3,socket={}", socket.display())]);
        }
        command
    }

    fn qemu(&self, guest: &Guest<'_>, aio: &str) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "microvm,rtc=off,pcie=on,acpi=on", "-enable-kvm", "-cpu", "host,-arch-capabilities"]);
        command.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"]);
        command.args(["-m", &GUEST_MIB.to_string(), "-smp", &guest.cpus.max(1).to_string(), "-kernel"]);
        // It names no PCI configuration window in its tables.
        command.arg(&self.payload).args(["-append", &format!("ecam=0xe0000000 {}", guest.words)]);
        if let Some(disk) = guest.disk {
            let drive = format!("if=none,id=d0,file={},format=raw,aio={aio}", disk.display());
            command.args(["-object", "iothread,id=io0", "-drive", &drive]);
            command.args(["-device", "virtio-blk-pci,drive=d0,iothread=io0"]);
        }
        if let Some(tap) = guest.tap {
            command.args(["-netdev", &format!("tap,id=n0,ifname={tap},script=no,downscript=no")]);
            command.args(["-device", "virtio-net-pci,netdev=n0"]);
        }
        command
    }
}
