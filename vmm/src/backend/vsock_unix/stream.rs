//! One connected unix stream: bytes between a host program and guest RAM.
//!
//! Used by one reactor thread. No call blocks, whatever mode the socket is in, and none raises a signal.

use std::ffi::c_int;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use crate::backend::IoVecs;

const RECEIVE: c_int = libc::MSG_DONTWAIT;
const SEND: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A connected stream.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
}

fn result(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// A message of these vectors, without address and control data.
fn message(vectors: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: `msghdr` is a plain C struct of integers and pointers: all zeros is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_ptr().cast_mut();
    message.msg_iovlen = vectors.len();
    message
}

impl Stream {
    /// Takes a connected stream socket.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The fd, for waiting on it.
    pub fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Reads what is there into guest RAM; zero at the end of the stream (or when `room` is empty).
    pub fn receive(&self, room: &IoVecs) -> io::Result<usize> {
        if let [one] = room.as_slice() {
            // SAFETY: the vector leads into guest RAM, mapped as long as the process lives (`IoVecs`).
            return result(unsafe { libc::recv(self.as_raw_fd(), one.iov_base, one.iov_len, RECEIVE) });
        }
        let mut message = message(room.as_slice());
        // SAFETY: the vectors lead into guest RAM, mapped as long as the process lives; `message` and the list of
        // vectors live through the call.
        result(unsafe { libc::recvmsg(self.as_raw_fd(), &raw mut message, RECEIVE) })
    }

    /// Writes bytes from guest RAM; returns how many were taken.
    pub fn send(&self, bytes: &IoVecs) -> io::Result<usize> {
        if let [one] = bytes.as_slice() {
            // SAFETY: the vector leads into guest RAM, mapped as long as the process lives; the kernel only reads.
            return result(unsafe { libc::send(self.as_raw_fd(), one.iov_base, one.iov_len, SEND) });
        }
        let message = message(bytes.as_slice());
        // SAFETY: as above; `message` and the list of vectors live through the call.
        result(unsafe { libc::sendmsg(self.as_raw_fd(), &raw const message, SEND) })
    }

    /// Writes bytes of ours; returns how many were taken.
    pub fn send_bytes(&self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the pointer and the length are those of `bytes`.
        result(unsafe { libc::send(self.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), SEND) })
    }

    /// Reads bytes for ourselves; with `peek` they stay to be read again.
    pub fn receive_bytes(&self, bytes: &mut [u8], peek: bool) -> io::Result<usize> {
        let flags = RECEIVE | if peek { libc::MSG_PEEK } else { 0 };
        // SAFETY: the pointer and the length are those of `bytes`.
        result(unsafe { libc::recv(self.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) })
    }

    /// Whether the far side reads no more: it has closed the stream, or its reading half.
    pub fn is_deaf(&self) -> bool {
        // Sending nothing fails when, and only when, sending something would fail for ever.
        self.send_bytes(&[]).is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Ends one direction or both. Errors mean that the far side did so before.
    pub fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        // SAFETY: no pointers are passed.
        unsafe { libc::shutdown(self.as_raw_fd(), how) };
    }
}
