//! Waiting for a descriptor in the async runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor.
///
/// # Errors
/// There is no runtime here, or the kernel cannot watch this sort of file.
pub(in crate::vm) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives out one number for all its life, and keeps it open; `AsyncFd` owns it and takes it off the
    // runtime's list before it is closed. Nobody here takes it out or puts another one in.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
