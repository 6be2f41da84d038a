//! How a VMM ended: heard by its pidfd, whoever its parent is.
//!
//! Async; any task. A VMM that this daemon started is its child, so status and signal are known. One that was adopted has
//! another parent: its end is seen all the same, and a kernel of 6.15 or newer still tells how it ended.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use super::watched::watched;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// It is gone; how it ended is not known, because another process was its parent.
    Unknown,
}

/// Waits until the process has ended, and takes its status if it is a child of this one. May be dropped and called again.
///
/// # Errors
/// The descriptor is no pidfd.
pub async fn exit_of(pidfd: &OwnedFd) -> io::Result<Exit> {
    let watched = watched(pidfd.try_clone()?, Interest::READABLE)?;
    drop(watched.readable().await?);
    // An adopted VMM's parent may not have taken notice yet; until then the kernel keeps the status to itself.
    for _ in 0..20 {
        match exit_now(pidfd.as_fd())? {
            Some(exit) => return Ok(exit),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    Ok(Exit::Unknown)
}

/// How the process ended, if that is known by now.
pub(super) fn exit_now(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(Some(status)) => Ok(Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Status(code),
            (_, Some(signal)) => Exit::Signal(signal),
            _ => Exit::Unknown,
        })),
        Ok(None) => Ok(None),
        Err(rustix::io::Errno::CHILD) => exit_info(pidfd),
        Err(error) => Err(error.into()),
    }
}

/// `struct pidfd_info` of <linux/pidfd.h>, as far as it was when it could first tell an exit.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, and the eight user and group ids.
    ids: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`, with the size of ours.
const PIDFD_GET_INFO: u64 = 3 << 30 | (size_of::<PidfdInfo>() as u64) << 16 | 0xff << 8 | 0x0b;
/// The exit status is asked for; in the answer: it is there.
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// What the kernel kept of a process that was somebody else's child. `Unknown` where it keeps nothing.
fn exit_info(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request's number says how many bytes the kernel may write, and `info` has as many.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) } != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // A kernel without the request, or one that forgets a process when it is gone.
            Some(libc::ENOTTY | libc::EINVAL | libc::ESRCH) => Ok(Some(Exit::Unknown)),
            _ => Err(error),
        };
    }
    if info.mask & PIDFD_INFO_EXIT == 0 {
        return Ok(None);
    }
    let code = info.exit_code;
    Ok(Some(match code & 0x7f {
        0 => Exit::Status(code >> 8 & 0xff),
        signal => Exit::Signal(signal),
    }))
}
