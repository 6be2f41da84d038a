//! The descriptor table of a VMM: which file was given under which name, which it made itself, which should not be there.
//!
//! A number is no proof, since the VMM closes and reuses numbers: a file is known by device and inode. What it made
//! itself is known by its kind: the kernel's names for files that no path leads to. Reading and judging are apart.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::FdFact;
use crate::vm::launch::{FileIdentity, Grant};

/// What a VMM makes for itself, as links of `/proc/PID/fd` begin.
const OWN: [(&str, &str); 7] = [
    ("anon_inode:[eventfd]", "doorbells and wake-ups"),
    ("anon_inode:[eventpoll]", "waiting"),
    ("anon_inode:[timerfd]", "deadlines, rate limits"),
    ("anon_inode:[io_uring]", "disks"),
    ("anon_inode:kvm-vm", "the machine"),
    ("anon_inode:kvm-vcpu:", "its vCPUs"),
    ("/memfd:guest-ram", "guest memory"),
];

/// One descriptor as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawFd {
    pub(super) number: i32,
    pub(super) target: String,
    pub(super) identity: Option<FileIdentity>,
}

/// The unix sockets of the host's network namespace: inode, type, and path of those that have one.
#[derive(Clone, Debug, Default)]
pub(super) struct UnixSockets(HashMap<u64, (u32, String)>);

/// `SOCK_STREAM`.
const STREAM: u32 = 1;

impl UnixSockets {
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/net/unix")?))
    }

    /// `Num RefCount Protocol Flags Type St Inode Path`, all but the last two in hexadecimal.
    pub(super) fn parse(text: &str) -> Self {
        let row = |line: &str| {
            let mut fields = line.split_whitespace();
            let kind = u32::from_str_radix(fields.nth(4)?, 16).ok()?;
            let inode = fields.nth(1)?.parse().ok()?;
            Some((inode, (kind, fields.next().unwrap_or_default().to_owned())))
        };
        Self(text.lines().skip(1).filter_map(row).collect())
    }

    fn of(&self, target: &str) -> Option<&(u32, String)> {
        let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        self.0.get(&inode)
    }
}

/// Reads a directory `/proc/PID/fd`, in the order of the numbers.
pub(super) fn read(directory: &Path) -> io::Result<Vec<RawFd>> {
    let mut fds = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Closed since the directory was read: then it is not open now.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let identity =
            fs::metadata(entry.path()).ok().map(|found| FileIdentity { device: found.dev(), inode: found.ino() });
        fds.push(RawFd { number, target: target.to_string_lossy().into_owned(), identity });
    }
    fds.sort_by_key(|fd| fd.number);
    Ok(fds)
}

/// Names every descriptor, and finds those that should not be there.
pub(super) fn judge(fds: &[RawFd], grants: &[Grant], sockets: &UnixSockets) -> Vec<FdFact> {
    let directories: Vec<String> = grants.iter().filter_map(|grant| directory_of(grant, sockets)).collect();
    let judged = |fd: &RawFd| {
        let name = granted(fd, grants).map(|grant| grant.name.clone());
        let expected = name.is_some() || is_own(&fd.target) || is_stream(&fd.target, sockets, &directories);
        let name = name.unwrap_or_default();
        FdFact { number: fd.number, target: fd.target.clone(), name, unexpected: !expected }
    };
    fds.iter().map(judged).collect()
}

fn granted<'a>(fd: &RawFd, grants: &'a [Grant]) -> Option<&'a Grant> {
    grants.iter().find(|grant| match &grant.identity {
        Some(identity) => {
            // Files without a path share one inode: only their names tell them apart, and those they do not have.
            Some(identity) == fd.identity.as_ref()
                && grant.target.starts_with("anon_inode:") == fd.target.starts_with("anon_inode:")
        }
        None => grant.target == fd.target,
    })
}

fn is_own(target: &str) -> bool {
    OWN.iter().any(|(kind, _)| target.starts_with(kind))
}

/// The VM's run directory, by a listener that was granted.
fn directory_of(grant: &Grant, sockets: &UnixSockets) -> Option<String> {
    let (_, path) = sockets.of(&grant.target)?;
    let directory = Path::new(path).parent()?.to_str()?;
    (!directory.is_empty()).then(|| format!("{directory}/"))
}

/// A connection: one that a listener of the VM accepted (it has the listener's path), or a stream without a name that the
/// daemon passed (a console, the host's end of a vsock connection). A socket that the VMM made itself would be in its own
/// network namespace, and so not in this list.
fn is_stream(target: &str, sockets: &UnixSockets, directories: &[String]) -> bool {
    sockets.of(target).is_some_and(|(kind, path)| {
        if path.is_empty() { *kind == STREAM } else { directories.iter().any(|directory| path.starts_with(directory)) }
    })
}
