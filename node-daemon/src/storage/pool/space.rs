//! What a file system has and can. Runs on a pool's thread.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::super::StorageError;
use super::super::place::{Part, Place, Shelf};
use crate::model::Id;

/// Room in a file system, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub capacity_bytes: u64,
    /// What can still be used.
    pub available_bytes: u64,
}

impl Space {
    /// Of the file system that has this directory.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn of(root: &Path) -> Result<Self, StorageError> {
        let told =
            rustix::fs::statvfs(root).map_err(|errno| StorageError::io("ask for the room of", root, errno.into()))?;
        Ok(Self { capacity_bytes: told.f_blocks * told.f_frsize, available_bytes: told.f_bavail * told.f_frsize })
    }
}

/// Whether two files of this pool can share their blocks: tried out with two small ones.
///
/// # Errors
/// When files cannot be made there.
pub fn has_reflink(place: &Place) -> Result<bool, StorageError> {
    let make = || {
        let id = Id::new();
        Part::begin(place.shelf(Shelf::Volumes).join(format!("probe-{id}")), &id)
    };
    let (from, to) = (make()?, make()?);
    let file: &File = from.file();
    file.write_all_at(&[1; 4096], 0).map_err(|error| StorageError::io("write to", from.path(), error))?;
    Ok(rustix::fs::ioctl_ficlone(to.file(), from.file()).is_ok())
}
