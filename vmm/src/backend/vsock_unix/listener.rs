//! The unix socket at which host programs ask for a connection into the guest.
//!
//! Bound by the main thread before the sandbox; accepted from on a reactor thread.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::Stream;

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("Socket {path}: {reason}", path = path.display())]
pub struct SocketError {
    /// Where it was to be.
    pub path: PathBuf,
    /// What is wrong, and what to do about it.
    pub reason: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// A listening unix socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
}

impl Listener {
    /// Listens at `path`. A socket that a dead process left there is replaced.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source: io::Error| SocketError { path: path.to_owned(), reason: reason(&source), source };
        let socket = match UnixListener::bind(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                std::fs::remove_file(path).map_err(failed)?;
                UnixListener::bind(path)
            }
            other => other,
        };
        Self::from_fd(socket.map_err(failed)?.into()).map_err(failed)
    }

    /// Takes a listening socket that was passed in.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let socket = UnixListener::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// The fd, for waiting on it.
    pub fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next connection; `WouldBlock` when there is none.
    pub fn accept(&self) -> io::Result<Stream> {
        // The standard library's accept writes the peer's address to memory that nobody reads, and makes the
        // stream blocking.
        // SAFETY: no pointers are passed.
        let fd = unsafe {
            libc::accept4(
                self.socket.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(Stream::new(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

/// Whether a socket is there that nobody listens on any more. Anything else at this path is the user's: it is left alone.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there, or it is not a socket; choose another path",
        io::ErrorKind::NotFound => "its directory does not exist",
        io::ErrorKind::PermissionDenied => "permission denied; check owner and mode of its directory",
        io::ErrorKind::InvalidInput => "the path is too long for a socket",
        _ => "it cannot be listened at",
    }
}
