//! What was launched, written down beside the VM's sockets: how a daemon that starts again finds its VMMs, and what the
//! isolation receipt is measured against.
//!
//! Blocking file system calls of microseconds. The file is written whole and renamed, so it is never half there.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::Id;

/// Name of the file in a VM's run directory.
const FILE: &str = "launch.json";

/// A file of the kernel, by what cannot be forged: two descriptors with equal values lead to the same file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Device that the file is on.
    pub device: u64,
    /// Number on that device.
    pub inode: u64,
}

impl FileIdentity {
    /// Of an open file.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let found = rustix::fs::fstat(file)?;
        Ok(Self { device: found.st_dev, inode: found.st_ino })
    }
}

/// One descriptor that a VMM was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Number in the VMM, when it started.
    pub number: i32,
    /// Name under which it was given.
    pub name: String,
    /// What the kernel calls it, with paths of the host.
    pub target: String,
    /// Which file it is; absent for a file of `/proc`, which has no lasting identity.
    pub identity: Option<FileIdentity>,
}

impl Grant {
    /// The status file that a VMM finds open when it starts.
    pub(super) fn status(pid: u32) -> Self {
        let number = super::jail::STATUS_NUMBER;
        Self { number, name: super::STATUS_FD.to_owned(), target: format!("/proc/{pid}/status"), identity: None }
    }

    pub(super) fn of(number: i32, name: &str, file: BorrowedFd<'_>) -> io::Result<Self> {
        let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let target = link.to_string_lossy().into_owned();
        Ok(Self { number, name: name.to_owned(), target, identity: Some(FileIdentity::of(file)?) })
    }
}

/// A resource limit of the VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// Name as in `/proc/PID/limits`.
    pub name: String,
    /// Largest value, soft and hard; the kernel may have been given less.
    pub value: u64,
}

/// Everything that was decided at the launch of one VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// Whose it is.
    pub vm: Id,
    /// Process id in the daemon's pid namespace.
    pub pid: u32,
    /// When the process started, in the kernel's ticks since boot: with the id it names one process for ever.
    pub start_ticks: u64,
    /// The only user and group of its namespace, as the host sees them.
    pub owner: u32,
    /// Its control group's name; `None` on a host without cgroup v2.
    pub cgroup: Option<String>,
    /// Limits of the control group that were asked for and that this host cannot set.
    pub missing_limits: Vec<String>,
    /// Its resource limits.
    pub resource_limits: Vec<ResourceLimit>,
    /// Who goes first when memory runs out.
    pub oom_score_adj: i32,
    /// The program.
    pub program: FileIdentity,
    /// What it was given.
    pub grants: Vec<Grant>,
}

impl LaunchRecord {
    /// Writes it into the VM's run directory.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let (file, draft) = (directory.join(FILE), directory.join("launch.json.new"));
        fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&draft, &file)
    }

    /// Reads it back; `None` where there is none, or none that can be read.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        let bytes = fs::read(directory.join(FILE)).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(
                |error| tracing::warn!(directory = %directory.display(), "A launch record cannot be read: {error}"),
            )
            .ok()
    }

    /// The files of a VM that a launch makes in its run directory.
    pub(super) const FILES: [&str; 4] = [FILE, "launch.json.new", super::CONTROL_SOCKET, crate::vm::vsock::SOCKET];
}

/// When a process started, in ticks since boot; `None` when there is no such process.
pub(in crate::vm) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the 22nd field is the 20th after it.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
