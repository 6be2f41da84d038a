//! A pool's directory: what lies where in it, and how a file comes into being there so that a half-made one is never seen.
//!
//! ```text
//! POOL/quantix-pool.json     who the pool is
//! POOL/volumes/ID.raw        a volume; also ID.qcow2
//! POOL/images/ID             an image
//! POOL/*/.part-ID            in the making: removed when the pool is taken into use
//! ```
//!
//! A file is written as `.part-ID`, synced, renamed, and its directory synced. Runs on a pool's threads: everything here may block.
//! Must not know records.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::{StorageError, StorageFault};
use crate::model::{Id, VolumeFormat};

/// What names of files in the making begin with.
const PART: &str = ".part-";

/// A directory of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shelf {
    /// Disks of VMs.
    Volumes,
    /// Read-only templates.
    Images,
}

impl Shelf {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Volumes, Self::Images];

    fn directory(self) -> &'static str {
        match self {
            Self::Volumes => "volumes",
            Self::Images => "images",
        }
    }
}

/// Where the files of a pool are.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
}

/// A file that a pool has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// In which directory.
    pub shelf: Shelf,
    /// Its name there.
    pub name: String,
    /// Bytes that it takes.
    pub used_bytes: u64,
}

impl Place {
    /// The pool in this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A shelf's directory.
    pub fn shelf(&self, shelf: Shelf) -> PathBuf {
        self.root.join(shelf.directory())
    }

    /// The name of a volume's file on its shelf.
    pub fn volume_name(id: &Id, format: VolumeFormat) -> String {
        format!("{id}.{}", format.as_str())
    }

    /// A volume's file.
    pub fn volume(&self, id: &Id, format: VolumeFormat) -> PathBuf {
        self.shelf(Shelf::Volumes).join(Self::volume_name(id, format))
    }

    /// An image's file.
    pub fn image(&self, id: &Id) -> PathBuf {
        self.shelf(Shelf::Images).join(id.as_str())
    }

    /// Makes the directories that are missing.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn furnish(&self) -> Result<(), StorageError> {
        for shelf in Shelf::ALL {
            let directory = self.shelf(shelf);
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => sync_directory(&self.root)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StorageError::io("make the directory", &directory, error)),
            }
        }
        Ok(())
    }

    /// All files but those in the making. What is neither file nor ours by name is listed too: the caller judges.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn entries(&self) -> Result<Vec<Entry>, StorageError> {
        let mut found = Vec::new();
        for shelf in Shelf::ALL {
            self.each(shelf, |name, path| {
                if !name.starts_with(PART) {
                    match fs::symlink_metadata(path) {
                        Ok(metadata) => {
                            found.push(Entry { shelf, name: name.to_owned(), used_bytes: metadata.blocks() * 512 });
                        }
                        // Deleted since the directory was read.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(StorageError::io("ask about", path, error)),
                    }
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Removes what was in the making when the last daemon ended. Only while nobody makes anything here.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn sweep(&self) -> Result<Vec<PathBuf>, StorageError> {
        let mut swept = Vec::new();
        for shelf in Shelf::ALL {
            self.each(shelf, |name, path| {
                if name.starts_with(PART) {
                    remove(path)?;
                    swept.push(path.to_owned());
                }
                Ok(())
            })?;
        }
        Ok(swept)
    }

    fn each(
        &self,
        shelf: Shelf,
        mut visit: impl FnMut(&str, &Path) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let directory = self.shelf(shelf);
        let fail = |error| StorageError::io("read the directory", &directory, error);
        for entry in fs::read_dir(&directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            visit(&entry.file_name().to_string_lossy(), &entry.path())?;
        }
        Ok(())
    }
}

/// A file in the making. Dropped before it was published, it is removed.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Part {
    /// Begins the file that will be `target`; `id` tells whose it is.
    ///
    /// # Errors
    /// What the kernel said; also when `target` is there already.
    pub fn begin(target: PathBuf, id: &Id) -> Result<Self, StorageError> {
        let part = target.with_file_name(format!("{PART}{id}"));
        if target.symlink_metadata().is_ok() {
            return Err(StorageError::new(StorageFault::Astray, format!("{} is there already", target.display())));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&part).map_err(|error| StorageError::io("make", &part, error))?;
        Ok(Self { file, path: part, target, published: false })
    }

    /// To be written to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is now, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// What the kernel said; the file is gone then.
    pub fn publish(mut self) -> Result<(), StorageError> {
        self.file.sync_all().map_err(|error| StorageError::io("write out", &self.path, error))?;
        rename(&self.path, &self.target)?;
        self.published = true;
        let directory = self.target.parent().unwrap_or(Path::new("/"));
        sync_directory(directory)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        if let Err(error) = remove(&self.path) {
            // The next sweep takes it.
            tracing::warn!("A file in the making stays for now: {error}");
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    let fail = |error: rustix::io::Errno| StorageError::io("give the name to", to, error.into());
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without that flag, such as NFS. The id in the name is new, so there is nothing to be replaced.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            rustix::fs::rename(from, to).map_err(fail)
        }
        other => other.map_err(fail),
    }
}

/// Removes a file for good. One that is not there is removed already.
///
/// # Errors
/// What the kernel said.
pub fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path.parent().unwrap_or(Path::new("/"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::io("remove", path, error)),
    }
}

/// Makes names in a directory durable.
///
/// # Errors
/// What the kernel said.
pub fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| StorageError::io("write out the directory", path, error))
}
