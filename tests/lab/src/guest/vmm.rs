//! How each VMM is told what guest to start. Ours is the one under test; QEMU's stands in for it, so that the lab and the
//! cases can be tried without ours, and its exit counts be compared. Pure, but for looking where the binary is.

use super::{Guest, GuestDisk, VSOCK_SOCKET};
use crate::error::LabError;
use crate::machine::Machine;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const MAC: &str = "52:54:00:12:34:56";

/// A virtual machine monitor, by its path in L1 (which is its path on this machine).
#[derive(Debug, Clone)]
pub enum Vmm {
    /// Ours.
    Quantix(PathBuf),
    /// QEMU with KVM, machine q35.
    Qemu,
}

impl Vmm {
    /// `$QUANTIX_VMM` (a path, or `qemu`), else what `cargo build --profile vmm -p quantix-vmm` made.
    ///
    /// # Errors
    /// [`LabError::Image`] when it is not built.
    pub fn find() -> Result<Self, LabError> {
        match env::var_os("QUANTIX_VMM") {
            Some(word) if word == "qemu" => Ok(Self::Qemu),
            Some(path) => Ok(Self::Quantix(path.into())),
            None => {
                let path = target_directory()?.join("vmm/quantix-vmm");
                if path.exists() {
                    return Ok(Self::Quantix(path));
                }
                let reason = format!(
                    "{} is not there; `cargo build --profile vmm -p quantix-vmm` makes it, $QUANTIX_VMM names another",
                    path.display()
                );
                Err(LabError::Image { what: "quantix-vmm", reason })
            }
        }
    }

    /// Where its guests can run: [`Machine::Here`] when `quantix-vmm check` says that ordinary kernels can, and its verdict
    /// in words. `$QUANTIX_LAB` (`here` or `emulated`) overrides it.
    ///
    /// # Errors
    /// [`LabError::Io`] when the VMM cannot be started.
    pub fn where_to_run(&self) -> Result<(Machine, String), LabError> {
        let Self::Quantix(path) = self else { return Ok((Machine::Emulated, "QEMU stands in".into())) };
        let check = Command::new(path).arg("check").output();
        let check = check.map_err(|source| LabError::Io { action: "start", path: path.clone(), source })?;
        let words = String::from_utf8_lossy(&check.stdout);
        let verdict = words.lines().rfind(|line| !line.is_empty()).unwrap_or("nothing").to_string();
        let machine = match env::var("QUANTIX_LAB").as_deref() {
            Ok("here") => Machine::Here,
            Ok("emulated") => Machine::Emulated,
            _ if check.status.success() => Machine::Here,
            _ => Machine::Emulated,
        };
        Ok((machine, verdict))
    }

    /// The program and its arguments; its sockets go into `place`.
    pub(super) fn command_line(&self, guest: &Guest, place: &str) -> Vec<String> {
        match self {
            Self::Quantix(path) => quantix(path, guest, place),
            Self::Qemu => qemu(guest),
        }
    }
}

/// Cargo's target directory, in which this program was built.
///
/// # Errors
/// [`LabError::Image`] when this program was moved out of it.
pub fn target_directory() -> Result<PathBuf, LabError> {
    let program = env::current_exe().map_err(|source| LabError::Io {
        action: "find",
        path: "this program's file".into(),
        source,
    })?;
    let is_target = |directory: &&Path| directory.join("CACHEDIR.TAG").exists();
    program.ancestors().find(is_target).map(Path::to_path_buf).ok_or_else(|| LabError::Image {
        what: "quantix-vmm",
        reason: format!("{} is not inside a cargo target directory; set $QUANTIX_VMM", program.display()),
    })
}

fn quantix(path: &Path, guest: &Guest, place: &str) -> Vec<String> {
    let mut line = vec![path.display().to_string(), "run".into()];
    let mut add = |name: &str, value: String| line.extend([name.to_string(), value]);
    add("--kernel", guest.kernel.display().to_string());
    add("--initrd", guest.initramfs.display().to_string());
    add("--cmdline", guest.words.join(" "));
    add("--cpus", guest.cpus.to_string());
    add("--memory", format!("{}M", guest.memory_mib));
    add("--serial", "stdio".into());
    add("--api-socket", format!("{place}/api.sock"));
    for GuestDisk { path, format, readonly } in &guest.disks {
        add("--disk", format!("path={path},format={format}{}", if *readonly { ",readonly" } else { "" }));
    }
    if guest.net {
        add("--net", format!("tap=tap0,mac={MAC},vhost={}", guest.vhost));
    }
    if guest.vsock {
        add("--vsock", format!("cid=3,socket={VSOCK_SOCKET}"));
    }
    if guest.balloon {
        line.push("--balloon".into());
    }
    line.extend(guest.options.iter().cloned());
    line
}

fn qemu(guest: &Guest) -> Vec<String> {
    let words = "qemu-system-x86_64 -M q35 -accel kvm -cpu host -nodefaults -no-user-config -display none -no-reboot \
                 -serial stdio -device pvpanic-pci";
    let mut line: Vec<String> = words.split_whitespace().map(String::from).collect();
    let mut add = |name: &str, value: String| line.extend([name.to_string(), value]);
    add("-kernel", guest.kernel.display().to_string());
    add("-initrd", guest.initramfs.display().to_string());
    add("-append", guest.words.join(" "));
    add("-smp", guest.cpus.to_string());
    add("-m", guest.memory_mib.to_string());
    for (index, GuestDisk { path, format, readonly }) in guest.disks.iter().enumerate() {
        let readonly = if *readonly { "on" } else { "off" };
        add("-drive", format!("if=none,id=d{index},file={path},format={format},readonly={readonly}"));
        add("-device", format!("virtio-blk-pci,drive=d{index}"));
    }
    if guest.net {
        add("-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no".into());
        add("-device", format!("virtio-net-pci,netdev=n0,mac={MAC},romfile="));
    }
    if guest.balloon {
        add("-device", "virtio-balloon-pci".into());
    }
    line
}
