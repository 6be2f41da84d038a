//! Files by name: how resources reach a process that may open nothing.
//!
//! The node daemon opens disks, taps, `/dev/kvm` and sockets, and passes them: inherited across `exec`
//! (`--fd NAME=NUMBER`), in one packet on a socket at start ([`FdStore::receive`]), or one by one with control
//! requests. A configuration then says `fd:NAME`. Each file is taken out once, by the part that will own it.
//!
//! Runs on the main thread. Must not open anything, and must not know what a file is for.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

#[cfg(test)]
mod tests;

/// Most files in one packet: the kernel's own limit (`SCM_MAX_FD`).
const MOST_FILES: usize = 253;

/// The name of a file: `[a-z0-9][-a-z0-9._]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdName(Box<str>);

impl FdName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FdName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FdName {
    type Err = FdStoreError;

    fn from_str(text: &str) -> Result<Self, FdStoreError> {
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let valid = text.as_bytes().split_first().is_some_and(|(first, rest)| {
            plain(first) && rest.len() <= 62 && rest.iter().all(|byte| plain(byte) || b"-._".contains(byte))
        });
        if valid { Ok(Self(text.into())) } else { Err(FdStoreError::Name(text.chars().take(80).collect())) }
    }
}

/// Why a file is not in the store, or not to be had from it.
#[derive(Debug, thiserror::Error)]
pub enum FdStoreError {
    /// The name breaks the rule.
    #[error("File name {0:?} is not of the form [a-z0-9][-a-z0-9._]{{0,62}}")]
    Name(String),
    /// A file of this name is there already.
    #[error("A file named {0} was passed already")]
    Taken(FdName),
    /// No file of this name is there, or it was taken out.
    #[error("No file named {0} was passed, or it is in use")]
    Missing(FdName),
    /// An option is not of the form `NAME=NUMBER`, or the number is that of a standard stream.
    #[error("{0:?} is not of the form NAME=NUMBER with a number of 3 or more")]
    Option(String),
    /// Two options give the same number.
    #[error("File descriptor {0} is given twice")]
    Twice(RawFd),
    /// The number is not an open file.
    #[error("File descriptor {number}, passed as {name}, is not open")]
    NotOpen {
        /// What it was to be called.
        name: FdName,
        /// Its number.
        number: RawFd,
        /// What the kernel said.
        source: io::Error,
    },
    /// The packet with files cannot be received.
    #[error("Cannot receive files")]
    Receive(#[source] io::Error),
    /// The packet is not one line a file.
    #[error("A packet with {files} files names {names}")]
    Packet {
        /// How many files came.
        files: usize,
        /// How many names came.
        names: usize,
    },
    /// The packet was cut off by the kernel.
    #[error("A packet with files is longer than is allowed")]
    Truncated,
}

/// The files that this process holds and has not handed out yet.
#[derive(Debug, Default)]
pub struct FdStore {
    files: BTreeMap<FdName, OwnedFd>,
}

impl FdStore {
    /// A store without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over the files that the parent process left open, and closes every other one but the standard
    /// streams: a file that nobody named is one that nobody checked.
    ///
    /// `options` are `NAME=NUMBER`.
    ///
    /// # Errors
    /// An option is malformed, names a file twice, or its number is not open.
    ///
    /// # Safety
    /// Nothing in this process may own a file with a number of 3 or more: to be called first in `main`.
    pub unsafe fn inherit(options: &[String]) -> Result<Self, FdStoreError> {
        let mut named: BTreeMap<RawFd, FdName> = BTreeMap::new();
        for option in options {
            let (name, number) = option
                .split_once('=')
                .and_then(|(name, number)| Some((name, number.parse::<RawFd>().ok()?)))
                .filter(|(_, number)| *number > libc::STDERR_FILENO)
                .ok_or_else(|| FdStoreError::Option(option.clone()))?;
            if named.insert(number, name.parse()?).is_some() {
                return Err(FdStoreError::Twice(number));
            }
        }
        let mut store = Self::new();
        let mut gap = libc::STDERR_FILENO.cast_unsigned() + 1;
        for (number, name) in named {
            let next = number.cast_unsigned();
            if next > gap {
                close_range(gap, next - 1);
            }
            gap = next + 1;
            // SAFETY: the number is borrowed for the length of this call only, and owned by nothing (the caller's promise).
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            if let Err(errno) = fcntl(borrowed, FcntlArg::F_GETFD) {
                return Err(FdStoreError::NotOpen { name, number, source: errno.into() });
            }
            // SAFETY: the number is open, and owned by nothing (the caller's promise).
            store.insert(name, unsafe { OwnedFd::from_raw_fd(number) })?;
        }
        close_range(gap, u32::MAX);
        Ok(store)
    }

    /// Adds the files of one packet from `socket`: its bytes are their names, one a line, in the order of the files.
    /// Nothing is kept of a packet that is not accepted whole.
    ///
    /// # Errors
    /// The socket fails or is closed, the packet is malformed, or a name is taken.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Vec<FdName>, FdStoreError> {
        let mut bytes = vec![0; 64 * MOST_FILES];
        let mut space = nix::cmsg_space!([RawFd; MOST_FILES]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                other => break other.map_err(|errno| FdStoreError::Receive(errno.into()))?,
            }
        };
        let mut files: Vec<OwnedFd> = Vec::new();
        for control in message.cmsgs().map_err(|_| FdStoreError::Truncated)? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel has just made these numbers for this process; nothing else owns them.
                files.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        let (length, flags) = (message.bytes, message.flags);
        if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Err(FdStoreError::Truncated);
        }
        let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
        self.insert_all(&text, files)
    }

    fn insert_all(&mut self, text: &str, files: Vec<OwnedFd>) -> Result<Vec<FdName>, FdStoreError> {
        let names = text.lines().map(str::parse).collect::<Result<Vec<FdName>, _>>()?;
        if names.len() != files.len() || names.is_empty() {
            return Err(FdStoreError::Packet { files: files.len(), names: names.len() });
        }
        let mut added = Self::new();
        for (name, file) in names.iter().zip(files) {
            if self.files.contains_key(name) {
                return Err(FdStoreError::Taken(name.clone()));
            }
            added.insert(name.clone(), file)?;
        }
        self.files.append(&mut added.files);
        Ok(names)
    }

    /// Adds one file; it is made close-on-exec.
    ///
    /// # Errors
    /// The name is taken; the file is closed.
    pub fn insert(&mut self, name: FdName, file: OwnedFd) -> Result<(), FdStoreError> {
        if self.files.contains_key(&name) {
            return Err(FdStoreError::Taken(name));
        }
        // Fails only for a number that is not open, which an `OwnedFd` cannot be.
        let _ = fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        self.files.insert(name, file);
        Ok(())
    }

    /// Hands out a file, for good.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn take(&mut self, name: &FdName) -> Result<OwnedFd, FdStoreError> {
        self.files.remove(name).ok_or_else(|| FdStoreError::Missing(name.clone()))
    }

    /// Lends a file.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn borrow(&self, name: &FdName) -> Result<BorrowedFd<'_>, FdStoreError> {
        self.files.get(name).map(AsFd::as_fd).ok_or_else(|| FdStoreError::Missing(name.clone()))
    }

    /// The names of the files that are here, sorted.
    pub fn names(&self) -> impl Iterator<Item = &FdName> {
        self.files.keys()
    }
}

/// Closes all files in a range of numbers, both ends included.
fn close_range(first: u32, last: u32) {
    // SAFETY: the caller of `inherit` promises that nothing in this process owns a file in the range. An error can only
    // be that the kernel lacks the call (before 5.9): strays then stay open, as they would in any program.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}
