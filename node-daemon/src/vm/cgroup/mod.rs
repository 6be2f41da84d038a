//! The control groups of the VMMs: one a VM under `quantix.slice`, with the VM's limits; made, removed, swept.
//!
//! Only cgroup v2. Where the hierarchy or a controller is missing (a hybrid host whose controllers belong to v1) a VM runs
//! without that limit: one line in the log says so when the daemon starts, and the VM's isolation receipt repeats it.
//!
//! Blocking file system calls, each of some microseconds: run by `spawn_blocking`. Must not know what a VMM is, and must
//! not touch a group that is not below its own slice.

#![forbid(unsafe_code)]

mod limits;
#[cfg(test)]
mod tests;

pub use limits::{BlockLimit, CgroupLimits, Setting};

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::model::Id;

/// Controllers that limits need, each with what is lost without it.
const CONTROLLERS: [(&str, &str); 5] = [
    ("cpu", "CPU weights and quotas"),
    ("cpuset", "pinning to CPUs"),
    ("memory", "memory limits"),
    ("io", "I/O limits of devices"),
    ("pids", "limits on the number of threads"),
];

/// Name of a VM's group before its id.
const PREFIX: &str = "vm-";

/// How long a killed group may take to become empty.
const EMPTYING: Duration = Duration::from_secs(5);

/// Something about a group did not work.
#[derive(Debug, thiserror::Error)]
#[error("Control group {}: {doing}", path.display())]
pub struct CgroupError {
    /// The group or file.
    pub path: PathBuf,
    /// What was tried.
    pub doing: String,
    /// What the kernel said.
    pub source: io::Error,
}

fn failed(path: &Path, doing: impl Into<String>) -> impl FnOnce(io::Error) -> CgroupError {
    let (path, doing) = (path.to_owned(), doing.into());
    move |source| CgroupError { path, doing, source }
}

/// The slice in which all VMs' groups are.
#[derive(Debug, Clone)]
pub struct CgroupTree {
    /// Mount point of the hierarchy; `None` where there is no cgroup v2.
    mount: Option<PathBuf>,
    /// Directory of the slice, below the mount point.
    slice: PathBuf,
    controllers: BTreeSet<&'static str>,
}

impl CgroupTree {
    /// Finds the hierarchy, makes the slice `name` in it and switches the controllers on. What is missing is logged, once.
    ///
    /// # Errors
    /// The slice cannot be made, although there is a hierarchy.
    pub fn open(name: &str) -> Result<Self, CgroupError> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let Some(mount) = mount_point(&table) else {
            tracing::warn!("VMs run without limits: cgroup v2 is not mounted on this host; mount it at /sys/fs/cgroup");
            return Ok(Self { mount: None, slice: PathBuf::new(), controllers: BTreeSet::new() });
        };
        let slice = mount.join(name);
        fs::create_dir_all(&slice).map_err(failed(&slice, "make the slice of all VMs"))?;
        for group in [mount.as_path(), slice.as_path()] {
            switch_on(group);
        }
        let offered = fs::read_to_string(slice.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |wanted: &str| offered.split_whitespace().any(|one| one == wanted);
        let (there, missing): (Vec<_>, Vec<_>) = CONTROLLERS.into_iter().partition(|(controller, _)| has(controller));
        if !missing.is_empty() {
            let lost: Vec<&str> = missing.iter().map(|(_, lost)| *lost).collect();
            let names: Vec<&str> = missing.iter().map(|(controller, _)| *controller).collect();
            let (lost, names) = (lost.join(", "), names.join(" "));
            tracing::warn!(slice = %slice.display(), "VMs run without {lost}: cgroup v2 has no controller {names} here");
        }
        Ok(Self {
            mount: Some(mount),
            slice,
            controllers: there.into_iter().map(|(controller, _)| controller).collect(),
        })
    }

    /// Makes the group of a VM and sets its limits. A group that is left over from an earlier run is taken down first.
    ///
    /// # Errors
    /// The group cannot be made, or the kernel refuses a limit that it knows; then nothing is left behind.
    pub fn create(&self, vm: &Id, limits: &CgroupLimits) -> Result<Option<Cgroup>, CgroupError> {
        let Some(mount) = &self.mount else { return Ok(None) };
        let path = self.slice.join(format!("{PREFIX}{vm}"));
        let group = Cgroup { name: relative(mount, &path), path, missing: self.missing(limits) };
        match fs::create_dir(&group.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                group.remove()?;
                fs::create_dir(&group.path).map_err(failed(&group.path, "make it again"))?;
            }
            other => other.map_err(failed(&group.path, "make it"))?,
        }
        for setting in limits.settings().iter().filter(|setting| self.controllers.contains(setting.controller)) {
            let file = group.path.join(setting.file);
            if let Err(source) = fs::write(&file, &setting.value) {
                // A file that is newer than the kernel is worth no refusal.
                if source.kind() == io::ErrorKind::NotFound && setting.optional {
                    continue;
                }
                let _ = fs::remove_dir(&group.path);
                return Err(CgroupError { path: file, doing: format!("set it to {}", setting.value), source });
            }
        }
        Ok(Some(group))
    }

    /// The group of a VM, as it was made by an earlier daemon; `None` when it is not there.
    pub fn find(&self, vm: &Id, limits: &CgroupLimits) -> Option<Cgroup> {
        let path = self.slice.join(format!("{PREFIX}{vm}"));
        let name = relative(self.mount.as_ref()?, &path);
        path.is_dir().then(|| Cgroup { name, path, missing: self.missing(limits) })
    }

    /// Removes the groups of all VMs but these, with the processes in them. Returns how many there were.
    pub fn sweep(&self, keep: &BTreeSet<Id>) -> usize {
        let Some(mount) = &self.mount else { return 0 };
        let Ok(entries) = fs::read_dir(&self.slice) else { return 0 };
        let mut count = 0;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            if Id::try_from(id).is_ok_and(|id| keep.contains(&id)) {
                continue;
            }
            let path = entry.path();
            let group = Cgroup { name: relative(mount, &path), path, missing: Vec::new() };
            match group.remove() {
                Ok(()) => count += 1,
                Err(error) => tracing::warn!("A left-over group stays: {error}: {}", error.source),
            }
        }
        count
    }

    /// The limits that are asked for and cannot be set here, in words.
    fn missing(&self, limits: &CgroupLimits) -> Vec<&'static str> {
        let mut missing: Vec<_> = limits
            .settings()
            .iter()
            .filter(|setting| !self.controllers.contains(setting.controller))
            .map(|setting| setting.file)
            .collect();
        missing.dedup();
        missing
    }
}

/// The group of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Its directory.
    pub path: PathBuf,
    /// Its name within the hierarchy, as `/proc/PID/cgroup` shows it.
    pub name: String,
    /// Limits that were asked for and that this host cannot set.
    pub missing: Vec<&'static str>,
}

impl Cgroup {
    /// Its directory as a descriptor, for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// It is gone.
    pub fn open(&self) -> Result<OwnedFd, CgroupError> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|e| failed(&self.path, "open it")(e.into()))
    }

    /// Kills what is in it, waits until it is empty, removes it. A group that is not there is no error.
    ///
    /// # Errors
    /// It is still not empty after some seconds: a process hangs in the kernel.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + EMPTYING;
        loop {
            match fs::remove_dir(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() >= deadline => {
                    return Err(failed(&self.path, "remove it")(error));
                }
                Err(_) => self.kill_and_wait(deadline)?,
            }
        }
    }

    fn kill_and_wait(&self, deadline: Instant) -> Result<(), CgroupError> {
        let file = self.path.join("cgroup.events");
        let events = fs::File::open(&file).map_err(failed(&file, "open it"))?;
        // ENOENT before Linux 5.14, where the caller has killed the VMM and the wait is enough.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let text = fs::read_to_string(&file).map_err(failed(&file, "read it"))?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        // The kernel marks the file as exceptional whenever a line of it changes.
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left)) {
            Err(error) if error != rustix::io::Errno::INTR => Err(failed(&file, "wait for it")(error.into())),
            _ => Ok(()),
        }
    }
}

/// Switches on, for the groups below `group`, what it offers. Each controller on its own: one that is refused (because
/// processes sit in the group itself) must not keep the others off.
fn switch_on(group: &Path) {
    let offered = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for (controller, _) in CONTROLLERS.iter().filter(|(wanted, _)| offered.split_whitespace().any(|one| one == *wanted))
    {
        if let Err(error) = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!("{}: controller {controller} stays off: {error}", group.display());
        }
    }
}

/// Where cgroup v2 is mounted, by `/proc/self/mountinfo`: `… - cgroup2 SOURCE OPTIONS`.
fn mount_point(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next()? == "cgroup2").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The name of a group within the hierarchy.
fn relative(mount: &Path, path: &Path) -> String {
    format!("/{}", path.strip_prefix(mount).unwrap_or(path).display())
}
