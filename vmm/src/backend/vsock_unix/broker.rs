//! The broker: a child process that connects to `PATH_<port>` when the sandboxed VMM asks for it.
//!
//! Forked by the main thread before the sandbox, and before any other thread. It keeps one descriptor, its end of the
//! socket to the VMM, and may make the handful of calls below. It ends, and removes `PATH`, when the VMM has ended, however
//! that came about. It must never act on anything but a port number.
//!
//! A fork and not a program of its own: it starts in a tenth of a millisecond, beside the VMM's own start, and shares its
//! pages. Guest RAM is not inherited (`MADV_DONTFORK`).

use std::ffi::{CString, c_int};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::sandbox::drop_capabilities;

use super::connector::{Connector, give_answer, next_request};

/// What the broker may ask of the kernel, and why.
const CALLS: [(i64, &str); 10] = [
    (libc::SYS_recvmsg, "a request comes"),
    (libc::SYS_connect, "its purpose"),
    (libc::SYS_sendmsg, "the answer, with the connected stream"),
    (libc::SYS_close, "the stream is the VMM's now"),
    (libc::SYS_newfstatat, "is the socket to remove still the one that was made?"),
    (libc::SYS_unlink, "the socket is removed when the VMM has ended"),
    (libc::SYS_exit_group, "the VMM has ended"),
    (libc::SYS_brk, "the allocator"),
    (libc::SYS_munmap, "the allocator"),
    (libc::SYS_fcntl, "debug builds check descriptors before they close them"),
];

/// What was bound at the path: so that a successor's socket is never removed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }
}

/// Starts the broker for the listener that was just bound at `path`.
pub(super) fn spawn(path: &Path) -> io::Result<Connector> {
    let identity = Identity::of(path)?;
    let prefix = path.as_os_str().as_bytes().to_vec();
    // The longest port has ten digits; a path that leaves no room for it would fail only later.
    address(&prefix, u32::MAX)?;
    let c_path = CString::new(prefix.clone())?;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: this process has one thread (the caller's promise), so the child may do what any process may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(ours);
            serve(theirs, &prefix);
            remove(&c_path, identity);
            // SAFETY: ends the process without running what the VMM registered to run at its end.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(Connector::new(ours)),
    }
}

/// Answers requests until the VMM is gone.
fn serve(socket: OwnedFd, prefix: &[u8]) {
    let Ok(socket) = keep_only(socket).and_then(|socket| confine().map(|()| socket)) else { return };
    while let Ok((id, port)) = next_request(&socket) {
        if give_answer(&socket, id, &connect(prefix, port)).is_err() {
            return;
        }
    }
}

/// Closes every descriptor but `socket`, and goes deaf for signals that a terminal sends to both processes.
fn keep_only(socket: OwnedFd) -> io::Result<OwnedFd> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: no handler is installed, the signals are ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: the strings and numbers are constants; the descriptors that end here belong to the VMM, whose copies stay. What
    // this process still holds of them as Rust values is never dropped: it ends by `_exit`.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"vsock-broker".as_ptr());
        if libc::dup2(socket.as_raw_fd(), 0) < 0 || libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(socket);
        Ok(OwnedFd::from_raw_fd(0))
    }
}

/// Gives up every capability, and every system call but the few that are needed.
fn confine() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    // SAFETY: prctl takes numbers here.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    drop_capabilities().map_err(io::Error::other)?;
    seccompiler::apply_filter(&filter).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let stream = SeccompRule::new(vec![
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?,
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, STREAM as u64)?,
    ])?;
    let mut rules: std::collections::BTreeMap<_, _> = CALLS.iter().map(|(number, _)| (*number, vec![])).collect();
    rules.insert(libc::SYS_socket, vec![stream]);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

const STREAM: c_int = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

/// The address `prefix_port`.
fn address(prefix: &[u8], port: u32) -> io::Result<libc::sockaddr_un> {
    // SAFETY: `sockaddr_un` is a plain C struct of integers: all zeros is a valid value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let suffix = format!("_{port}");
    // The last byte stays zero.
    if prefix.len() + suffix.len() >= address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(prefix.iter().chain(suffix.as_bytes())) {
        *to = from.cast_signed();
    }
    Ok(address)
}

/// Connects without blocking: a listener whose backlog is full counts as refusing.
fn connect(prefix: &[u8], port: u32) -> io::Result<OwnedFd> {
    let address = address(prefix, port)?;
    // SAFETY: no pointers are passed.
    let raw = unsafe { libc::socket(libc::AF_UNIX, STREAM, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is a complete `sockaddr_un` of `len` bytes.
    match unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Removes the listener's socket, if it is still the one that this process was started for.
fn remove(path: &CString, identity: Identity) {
    // Not the standard library's metadata: it prefers statx, for which the filter has no entry.
    // SAFETY: `stat` is a plain C struct of integers, for which zeros are valid; lstat fills it and reads a C string.
    let found = unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        (libc::lstat(path.as_ptr(), &raw mut found) == 0).then_some(found)
    };
    if found.is_some_and(|f| Identity { device: f.st_dev, inode: f.st_ino } == identity) {
        // SAFETY: the path is a NUL-terminated string.
        unsafe { libc::unlink(path.as_ptr()) };
    }
}
