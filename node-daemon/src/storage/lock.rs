//! Locks on whole files, against double use: shared for readers, exclusive for writers.
//!
//! They are open-file-description locks, the same that the VMM takes on what it is given: an fd that is passed carries the lock of
//! its description along, so what the daemon locks before a VM starts stays locked until the VMM is gone. Runs on a pool's threads.

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, fcntl};

/// What a lock allows others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// To read as well.
    Readers,
    /// Nothing.
    Nobody,
}

/// Whether a file is ours to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// It is, for as long as the description is open.
    Taken,
    /// Somebody else has it.
    Held,
    /// This file system has no locks; then only records protect the file.
    Unsupported,
}

/// Tries to lock all of `file`, without waiting.
///
/// # Errors
/// What the kernel said, when that is neither yes nor no.
pub fn try_lock(file: &File, sharing: Sharing) -> io::Result<Lock> {
    let kind = match sharing {
        Sharing::Readers => libc::F_RDLCK,
        Sharing::Nobody => libc::F_WRLCK,
    };
    let whence = libc::SEEK_SET as libc::c_short;
    let whole = libc::flock { l_type: kind as libc::c_short, l_whence: whence, l_start: 0, l_len: 0, l_pid: 0 };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(Lock::Taken),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(Lock::Held),
        Err(
            nix::errno::Errno::ENOLCK
            | nix::errno::Errno::ENOSYS
            | nix::errno::Errno::EOPNOTSUPP
            | nix::errno::Errno::EINVAL,
        ) => Ok(Lock::Unsupported),
        Err(errno) => Err(errno.into()),
    }
}
