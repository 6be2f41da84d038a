//! What can go wrong below the API: a kind, one sentence, the cause. Pure.

use std::io;
use std::path::Path;

use crate::model::{Failure, FailureKind};

/// Sorts of [`StorageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// The pool has no room left.
    Full,
    /// Somebody else uses the file.
    Busy,
    /// The bytes are not what they were said to be.
    Content,
    /// Somebody asked for it to stop.
    Cancelled,
    /// The pool does not answer, or is not there.
    Unavailable,
    /// It took longer than it was given.
    Deadline,
    /// There is a file where none may be, or none where one must be.
    Astray,
    /// The state of what is there does not allow it.
    Refused,
    /// The kernel refused something.
    Host,
}

/// Why something with a pool's files did not work.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StorageError {
    fault: StorageFault,
    what: String,
    #[source]
    source: Option<io::Error>,
}

impl StorageError {
    /// Any sort, with one sentence.
    pub fn new(fault: StorageFault, what: impl Into<String>) -> Self {
        Self { fault, what: what.into(), source: None }
    }

    /// What the kernel or a library said while something was done to `path`.
    pub fn io(action: &str, path: &Path, source: io::Error) -> Self {
        let what = format!("Could not {action} {}", path.display());
        let fault = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => StorageFault::Full,
            Some(libc::ESTALE | libc::ENODEV | libc::ENOTCONN | libc::EHOSTDOWN | libc::ETIMEDOUT) => {
                StorageFault::Unavailable
            }
            Some(libc::ENOENT | libc::EEXIST) => StorageFault::Astray,
            _ => StorageFault::Host,
        };
        let what =
            if fault == StorageFault::Full { format!("{what}: the pool is full, make room in it") } else { what };
        Self { fault, what, source: Some(source) }
    }

    /// Somebody asked for it to stop.
    pub fn cancelled() -> Self {
        Self::new(StorageFault::Cancelled, "Stopped because somebody asked for it; nothing half-made is left")
    }

    /// The bytes are not what they were said to be.
    pub fn content(what: impl Into<String>) -> Self {
        Self::new(StorageFault::Content, what)
    }

    /// The sort.
    pub fn fault(&self) -> StorageFault {
        self.fault
    }

    /// An error of a library that passes on errors of ours: the inner one comes out as it went in.
    pub fn unwrap_io(action: &str, path: &Path, error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            let ours = error.into_inner().and_then(|inner| inner.downcast::<Self>().ok());
            return ours.map_or_else(|| Self::new(StorageFault::Host, format!("Could not {action}")), |inner| *inner);
        }
        Self::io(action, path, error)
    }
}

impl From<StorageError> for io::Error {
    /// For libraries that let a reader fail with nothing else; [`StorageError::unwrap_io`] is the way back.
    fn from(error: StorageError) -> Self {
        Self::other(error)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let kind = match error.fault {
            StorageFault::Full => FailureKind::ResourceExhausted,
            StorageFault::Busy | StorageFault::Refused => FailureKind::FailedPrecondition,
            StorageFault::Content => FailureKind::InvalidArgument,
            StorageFault::Cancelled => FailureKind::Cancelled,
            StorageFault::Unavailable => FailureKind::Unavailable,
            StorageFault::Deadline => FailureKind::DeadlineExceeded,
            StorageFault::Astray | StorageFault::Host => FailureKind::Internal,
        };
        let failure = Self::new(kind, error.what);
        match error.source {
            Some(source) => failure.caused_by(source),
            None => failure,
        }
    }
}
