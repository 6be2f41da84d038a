//! Files that leave this room: disks of VMs as passed fds, every layer opened and locked here. Async runtime; opening happens on the
//! way of each file's own pool.
//!
//! Locks are of open file descriptions ([`super::lock`]): they go with the fd to the VMM, which takes them again, and end with it.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::lock::{Lock, Sharing, try_lock};
use super::place::Place;
use super::pool::PATIENCE;
use super::records::{self, Layer};
use super::{Storage, StorageError, StorageFault};
use crate::model::{Base, Failure, Id, Image, Volume, VolumeFormat};

/// How long a lock may be held against us: a VMM that was just killed keeps its locks until the kernel has torn down its rings.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Between two tries.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// A disk for a VMM.
#[derive(Debug)]
pub struct DiskFds {
    /// Each file with its name in the VMM's fd store. Close them once they were passed: the lock is theirs.
    pub fds: Vec<(String, OwnedFd)>,
    /// What goes into the VMM's configuration as the disk's `path`.
    pub path: String,
    /// What goes there as its `format`.
    pub format: VolumeFormat,
    /// What goes there as its `readonly`.
    pub readonly: bool,
}

impl Storage {
    /// Opens a volume for a VMM. `direct` asks whether its file system can do that, too.
    ///
    /// # Errors
    /// `FailedPrecondition` while somebody else uses it, or when it is a base and is to be written to; `Unavailable`.
    pub async fn open_disk(&self, volume: &Id, readonly: bool, direct: bool) -> Result<DiskFds, Failure> {
        let id = volume.clone();
        let layers = self
            .store()
            .read(move |tx| {
                records::attachable_volume(tx, id.as_str(), readonly)?;
                records::chain(tx, &Base::Volume(id))
            })
            .await?;
        self.open_layers(volume, &layers, readonly, direct).await
    }

    /// Opens an image for a VMM, as a disk that can only be read.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn open_image_disk(&self, image: &Id, direct: bool) -> Result<DiskFds, Failure> {
        let layers = self.image_layers(image).await?;
        self.open_layers(image, &layers, true, direct).await
    }

    /// Opens an image's file for reading: a kernel, an initial RAM disk. It cannot be deleted while it is open.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn open_image(&self, image: &Id) -> Result<OwnedFd, Failure> {
        let layers = self.image_layers(image).await?;
        let layer = layers.first().ok_or_else(|| Failure::bug("An image has no file"))?;
        Ok(self.open_layer(layer, Sharing::Readers, false).await?.into())
    }

    async fn image_layers(&self, image: &Id) -> Result<Vec<Layer>, Failure> {
        let id = image.clone();
        self.store()
            .read(move |tx| {
                let found = records::image(tx, id.as_str())?;
                records::chain(tx, &Base::Image(found.record.id))
            })
            .await
    }

    async fn open_layers(&self, id: &Id, layers: &[Layer], readonly: bool, direct: bool) -> Result<DiskFds, Failure> {
        let mut fds = Vec::new();
        let mut path = String::new();
        for (depth, layer) in layers.iter().enumerate() {
            let sharing = if depth == 0 && !readonly { Sharing::Nobody } else { Sharing::Readers };
            let file = self.open_layer(layer, sharing, direct).await?;
            let name = layer_name(id, depth);
            path = if depth == 0 { format!("fd:{name}") } else { format!("{path}+{name}") };
            fds.push((name, file.into()));
        }
        let format = layers.first().map_or(VolumeFormat::Raw, |layer| layer.format);
        Ok(DiskFds { fds, path, format, readonly })
    }

    /// Opens and locks one file.
    pub(super) async fn open_layer(&self, layer: &Layer, sharing: Sharing, direct: bool) -> Result<File, Failure> {
        let pool = self.pools().ready(&layer.pool)?;
        let path = path_of(pool.place(), layer);
        let opened = pool.gate().call("open a disk", PATIENCE, move || open_locked(&path, sharing, direct)).await;
        match opened {
            Err(error) if error.fault() == StorageFault::Busy => {
                let asked = layer.file.clone();
                let name = self.store().read(move |tx| name_of(tx, &asked)).await?;
                let message = format!("{name} is in use: by a VM that runs, or by work that goes on with it");
                Err(Failure::precondition(message).caused_by(error))
            }
            other => Ok(other?),
        }
    }
}

/// The name of a disk's file in the VMM's fd store; of the top one for depth 0.
fn layer_name(disk: &Id, depth: usize) -> String {
    match depth {
        0 => format!("disk-{disk}"),
        _ => format!("disk-{disk}-{depth}"),
    }
}

fn name_of(tx: &crate::store::ReadTx<'_>, file: &Base) -> Result<String, Failure> {
    Ok(match file {
        Base::Volume(id) => format!("Volume {}", tx.get::<Volume>(id)?.record.name),
        Base::Image(id) => format!("Image {}", tx.get::<Image>(id)?.record.name),
    })
}

/// Where a layer's file is.
pub(super) fn path_of(place: &Place, layer: &Layer) -> PathBuf {
    match &layer.file {
        Base::Volume(id) => place.volume(id, layer.format),
        Base::Image(id) => place.image(id),
    }
}

/// Opens a file, for writing when nobody else may have it, and locks it. Blocks for up to half a second.
pub(super) fn open_locked(path: &Path, sharing: Sharing, direct: bool) -> Result<File, StorageError> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | if direct { libc::O_DIRECT } else { 0 };
    options.read(true).write(sharing == Sharing::Nobody).custom_flags(flags);
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) if direct => {
            let what = format!("{}: its file system has no direct I/O, leave `direct` out", path.display());
            StorageError::new(StorageFault::Refused, what)
        }
        _ => StorageError::io("open", path, error),
    })?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match try_lock(&file, sharing).map_err(|error| StorageError::io("lock", path, error))? {
            Lock::Taken => return Ok(file),
            Lock::Unsupported => {
                tracing::warn!("{} cannot be locked on its file system", path.display());
                return Ok(file);
            }
            Lock::Held if Instant::now() < deadline => std::thread::sleep(LOCK_AGAIN),
            Lock::Held => {
                return Err(StorageError::new(StorageFault::Busy, format!("{} is in use", path.display())));
            }
        }
    }
}
