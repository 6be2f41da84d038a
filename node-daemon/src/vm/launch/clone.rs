//! The one system call that makes a VMM's process: in all its namespaces and in its control group at once.
//!
//! Only the launcher stage comes here: it has one thread, so the child may do what any process may.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use libc::c_int;

/// Everything that the child has for itself. The cgroup namespace is not among them: its root would be the group of
/// the stage, so the child makes it when it is in its own group.
const NAMESPACES: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// `CLONE_INTO_CGROUP`: too large for the `int` that the other flags are.
const INTO_CGROUP: u64 = 1 << 33;

/// Who goes on after the call.
pub(super) enum Side {
    /// The stage.
    Parent {
        /// The child, in the stage's pid namespace.
        pid: i32,
        /// The child, as a descriptor.
        pidfd: OwnedFd,
    },
    /// The child.
    Child,
}

/// Makes the child. Its parent is the stage's own parent, the daemon (`CLONE_PARENT`): the daemon hears of its end with
/// status and signal, and the stage may end at any time.
pub(super) fn clone(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    let flags = NAMESPACES | libc::CLONE_PIDFD | libc::CLONE_PARENT;
    // SAFETY: `clone_args` is a plain C struct of integers, for which zeros are valid and mean "not asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.pidfd = (&raw mut pidfd) as u64;
    args.flags = flags.cast_unsigned().into();
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd().cast_unsigned().into();
    }
    // SAFETY: no stack is given and memory is not shared, so the child goes on here with a copy of everything, as after
    // fork. The process has one thread (its caller's promise), so no lock is held by a thread that the child lacks.
    // `args` and `pidfd` live until after the call.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        // SAFETY: the kernel wrote a descriptor of ours there (CLONE_PIDFD); nothing else owns it.
        pid => Ok(Side::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}
