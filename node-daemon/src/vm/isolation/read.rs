//! What the kernel says of a process: files of `/proc`, as values. Judges nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::fds::{RawFd, UnixSockets};
use crate::vm::launch::FileIdentity;

/// The namespaces that a VMM has for itself.
pub(super) const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// The process cannot be measured.
#[derive(Debug, thiserror::Error)]
#[error("Process {pid} cannot be measured: {file} of /proc: {source}")]
pub struct IsolationError {
    /// Which process.
    pub pid: u32,
    /// Which file.
    pub file: &'static str,
    /// What the kernel said; `NotFound` and `ESRCH` when the process has ended.
    pub source: io::Error,
}

impl IsolationError {
    /// The process is gone, and there is nothing to measure.
    pub fn is_gone(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound || self.source.raw_os_error() == Some(libc::ESRCH)
    }
}

/// The namespaces of a process, as `/proc/PID/ns` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(BTreeMap<&'static str, String>);

impl Namespaces {
    /// Kind and link text, such as `net` and `net:[4026531840]`.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(kind, link)| (*kind, link.as_str()))
    }

    /// The link text of one kind; empty when it was not read.
    pub fn get(&self, kind: &str) -> &str {
        self.0.get(kind).map_or("", String::as_str)
    }

    #[cfg(test)]
    pub(super) fn of(links: &[(&'static str, &str)]) -> Self {
        Self(links.iter().map(|(kind, link)| (*kind, (*link).to_owned())).collect())
    }
}

/// A thread's line values in `/proc/PID/task/TID/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ThreadStatus {
    /// Real, effective, saved, file system.
    pub(super) uids: String,
    pub(super) gids: String,
    pub(super) groups: String,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub(super) capabilities: [u64; 5],
    pub(super) no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter.
    pub(super) seccomp_mode: u32,
    pub(super) seccomp_filters: u32,
}

/// Everything that is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) threads: Vec<ThreadStatus>,
    pub(super) uid_map: String,
    pub(super) gid_map: String,
    pub(super) setgroups: String,
    /// File system type and options of each mount.
    pub(super) mounts: Vec<(String, String)>,
    /// How many names its root directory holds.
    pub(super) root_entries: usize,
    pub(super) namespaces: Namespaces,
    pub(super) cgroup: Option<String>,
    /// Name, soft, hard.
    pub(super) limits: Vec<(String, String, String)>,
    pub(super) session: u32,
    pub(super) environment_bytes: usize,
    pub(super) program: Option<FileIdentity>,
    pub(super) program_name: String,
    pub(super) oom_score_adj: String,
    /// Whom its files of `/proc` belong to: root when it cannot be dumped.
    pub(super) proc_owner: u32,
    pub(super) fds: Vec<RawFd>,
    pub(super) sockets: UnixSockets,
}

/// The daemon's own namespaces: the host's.
pub(super) fn own_namespaces() -> Result<Namespaces, IsolationError> {
    namespaces(Path::new("/proc/self")).map_err(|source| IsolationError { pid: std::process::id(), file: "ns", source })
}

/// Reads a process.
pub(super) fn read(pid: u32) -> Result<Measured, IsolationError> {
    let at = |file| move |source| IsolationError { pid, file, source };
    let proc = Path::new("/proc").join(pid.to_string());
    let text = |file: &'static str| fs::read_to_string(proc.join(file)).map_err(at(file));
    let fds = super::fds::read(&proc.join("fd")).map_err(at("fd"))?;
    let any_socket = fds.iter().any(|fd| fd.target.starts_with("socket:"));
    Ok(Measured {
        threads: threads(&proc).map_err(at("task"))?,
        uid_map: words(&text("uid_map")?),
        gid_map: words(&text("gid_map")?),
        setgroups: words(&text("setgroups")?),
        mounts: text("mountinfo")?.lines().filter_map(mount).collect(),
        root_entries: fs::read_dir(proc.join("root/")).map_err(at("root"))?.count(),
        namespaces: namespaces(&proc).map_err(at("ns"))?,
        cgroup: text("cgroup")?.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned)),
        limits: text("limits")?.lines().skip(1).filter_map(limit).collect(),
        session: session(&text("stat")?),
        environment_bytes: fs::read(proc.join("environ")).map_err(at("environ"))?.len(),
        program: fs::metadata(proc.join("exe"))
            .map(|found| Some(FileIdentity { device: found.dev(), inode: found.ino() }))
            .map_err(at("exe"))?,
        program_name: fs::read_link(proc.join("exe")).map_err(at("exe"))?.to_string_lossy().into_owned(),
        oom_score_adj: words(&text("oom_score_adj")?),
        proc_owner: fs::metadata(proc.join("stat")).map_err(at("stat"))?.uid(),
        sockets: if any_socket { UnixSockets::read().map_err(at("net/unix"))? } else { UnixSockets::default() },
        fds,
    })
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn threads(proc: &Path) -> io::Result<Vec<ThreadStatus>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(proc.join("task"))? {
        match fs::read_to_string(task?.path().join("status")) {
            Ok(text) => threads.push(status(&text)),
            // This thread ended meanwhile; the others are there.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) || error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if threads.is_empty() { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(threads) }
}

/// A status file. A line that is missing counts as the worst that it could say.
pub(super) fn status(text: &str) -> ThreadStatus {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(words);
    let bits = |name: &str| value(name).and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or(u64::MAX);
    let number = |name: &str| value(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let mode = number("Seccomp");
    ThreadStatus {
        uids: value("Uid").unwrap_or_default(),
        gids: value("Gid").unwrap_or_default(),
        groups: value("Groups").unwrap_or_else(|| "unknown".to_owned()),
        capabilities: ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(bits),
        no_new_privs: number("NoNewPrivs") == 1,
        seccomp_mode: mode,
        // The count is newer (Linux 5.9) than the mode.
        seccomp_filters: value("Seccomp_filters").map_or(u32::from(mode == 2), |count| count.parse().unwrap_or(0)),
    }
}

/// `ID PARENT MAJ:MIN ROOT POINT OPTIONS … - TYPE SOURCE OPTIONS`: type, and both sets of options.
pub(super) fn mount(line: &str) -> Option<(String, String)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (kind, of_file_system) = (after.next()?, after.nth(1).unwrap_or_default());
    Some((kind.to_owned(), format!("{},{of_file_system}", before.split(' ').nth(5)?)))
}

/// `Max open files            4096                 4096                 files`.
pub(super) fn limit(line: &str) -> Option<(String, String, String)> {
    let (name, rest) = line.split_at_checked(26)?;
    let mut values = rest.split_whitespace();
    Some((name.trim().to_owned(), values.next()?.to_owned(), values.next()?.to_owned()))
}

fn session(stat: &str) -> u32 {
    // The name, in parentheses, may hold anything; the sixth field is the fourth after it.
    let field = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3));
    field.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn namespaces(proc: &Path) -> io::Result<Namespaces> {
    let mut links = BTreeMap::new();
    for kind in NAMESPACES {
        let link = fs::read_link(proc.join("ns").join(kind))?;
        links.insert(kind, link.to_string_lossy().into_owned());
    }
    Ok(Namespaces(links))
}
