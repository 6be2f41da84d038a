//! qcow2 files, by the crate `imago`: making, growing, and reading a chain of them.
//!
//! Runs on a pool's thread and blocks. Which file is below which is told by the records: what a header says about other files is
//! written for people and tools, and never looked at.

mod header;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use imago::file::File as ImageFile;
use imago::format::PreallocateMode;
use imago::format::builder::{FormatCreateBuilder as _, FormatDriverBuilder as _};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, Mapping, StorageOpenOptions};

pub use header::Qcow2Header;

use super::{Meter, StorageError};
use crate::model::VolumeFormat;

/// Bytes of a cluster.
const CLUSTER: u64 = 64 << 10;
/// Every disk gets a level 1 table for at least this size: it fills one cluster in any case, and up to here a disk grows by one
/// write of eight bytes, which is there or is not, whatever happens.
const ROOM: u64 = CLUSTER / 8 * (CLUSTER / 8 * CLUSTER);
/// Where the header has the disk's size.
const SIZE_AT: u64 = 24;
/// Bytes that are read at a time.
const BUFFER: usize = 1 << 20;

/// An opened disk with all that is below it.
pub type Disk = FormatAccess<ImageFile>;

/// Writes an empty disk into `file`, an empty file. `below` is the name and format of what it holds the differences to.
///
/// # Errors
/// What the kernel said.
pub fn create(
    file: &File,
    path: &Path,
    size_bytes: u64,
    below: Option<(String, VolumeFormat)>,
) -> Result<(), StorageError> {
    let fail = |error| StorageError::io("write the qcow2 header of", path, error);
    let mut builder = Qcow2::<ImageFile>::create_builder(storage(file, true).map_err(fail)?)
        .size(size_bytes.max(ROOM))
        .cluster_size(CLUSTER as usize);
    if let Some((name, format)) = below {
        builder = builder.backing(name, format.as_str().to_owned());
    }
    builder.create().map_err(fail)?;
    file.write_all_at(&size_bytes.to_be_bytes(), SIZE_AT).map_err(fail)
}

/// Makes a disk larger. It is durable when this returns; interrupted, it may be done again.
///
/// # Errors
/// What the kernel said, and what makes the file unusable.
pub fn grow(file: &File, path: &Path, size_bytes: u64) -> Result<(), StorageError> {
    let fail = |error| StorageError::io("grow", path, error);
    let header = Qcow2Header::read(file)?;
    if header.size_bytes >= size_bytes {
        return Ok(());
    }
    if header.l1_capacity() < size_bytes {
        let disk = top(file, true, path)?;
        disk.resize_grow(size_bytes, PreallocateMode::None).map_err(fail)?;
        disk.flush().map_err(fail)?;
        drop(disk);
    } else {
        file.write_all_at(&size_bytes.to_be_bytes(), SIZE_AT).map_err(fail)?;
    }
    file.sync_all().map_err(fail)
}

/// Opens the disk of a chain, top first.
///
/// # Errors
/// When a file is not what its format says, or is cut off.
pub fn open_chain(layers: &[(File, VolumeFormat)], path: &Path) -> Result<Disk, StorageError> {
    let mut below: Option<Disk> = None;
    for (file, format) in layers.iter().rev() {
        let disk = match format {
            VolumeFormat::Raw => {
                let fail = |error| StorageError::io("read", path, error);
                FormatAccess::new(Raw::open_image(storage(file, false).map_err(fail)?, false).map_err(fail)?)
            }
            VolumeFormat::Qcow2 => {
                Qcow2Header::read(file)?;
                let mut image = open_image(file, false, path)?;
                image.set_backing(below.take());
                FormatAccess::new(image)
            }
        };
        below = Some(disk);
    }
    below.ok_or_else(|| StorageError::content(format!("{} has no layers", path.display())))
}

/// Opens a disk for writing, over what is below it.
#[cfg(test)]
pub fn open_over(file: &File, below: &[(File, VolumeFormat)], path: &Path) -> Result<Disk, StorageError> {
    let mut image = open_image(file, true, path)?;
    if !below.is_empty() {
        image.set_backing(Some(open_chain(below, path)?));
    }
    Ok(FormatAccess::new(image))
}

/// Opens a disk for writing, without what is below it.
///
/// # Errors
/// When it is not what its format says.
pub fn open_writable(file: &File, format: VolumeFormat, path: &Path) -> Result<Disk, StorageError> {
    match format {
        VolumeFormat::Qcow2 => top(file, true, path),
        VolumeFormat::Raw => {
            let raw = storage(file, true).and_then(|storage| Raw::open_image(storage, true));
            raw.map(FormatAccess::new).map_err(|error| StorageError::io("open", path, error))
        }
    }
}

fn top(file: &File, writable: bool, path: &Path) -> Result<Disk, StorageError> {
    Ok(FormatAccess::new(open_image(file, writable, path)?))
}

fn open_image(file: &File, writable: bool, path: &Path) -> Result<Qcow2<ImageFile>, StorageError> {
    let storage = storage(file, writable).map_err(|error| StorageError::io("open", path, error))?;
    // No backing: nothing that a header names is ever opened.
    let opened = Qcow2::<ImageFile>::builder(storage)
        .backing(None)
        .data_file(None)
        .write(writable)
        .open(DenyImplicitOpenGate::default());
    opened.map_err(|error| StorageError::content(format!("{} is not a usable qcow2 file: {error}", path.display())))
}

fn storage(file: &File, writable: bool) -> io::Result<ImageFile> {
    ImageFile::from_open_file(file.try_clone()?, StorageOpenOptions::new().write(writable))
}

/// Copies what `source` holds into `target`, an empty disk at least as large. Zeros are left out.
///
/// # Errors
/// No room, somebody's wish to stop, broken tables.
pub fn convert(source: &Disk, target: &Disk, path: &Path, meter: &Meter) -> Result<(), StorageError> {
    let length = source.size();
    meter.expect(length);
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < length {
        meter.reached(at)?;
        let unreadable =
            |error| StorageError::content(format!("The origin of {} cannot be read: {error}", path.display()));
        let (mapping, run) = source.get_mapping(at, length - at).map_err(unreadable)?;
        let holds_data = matches!(mapping, Mapping::Raw { .. } | Mapping::Special { .. });
        if run == 0 {
            break;
        }
        if !holds_data {
            at += run;
            continue;
        }
        let end = at + run;
        while at < end {
            let want = (end - at).min(BUFFER as u64) as usize;
            let bytes = &mut buffer[..want];
            source.read(&mut *bytes, at).map_err(unreadable)?;
            let written = super::copy::write_sparse(bytes, at, |data, offset| target.write(data, offset));
            written.map_err(|error| StorageError::io("copy to", path, error))?;
            at += want as u64;
            meter.reached(at)?;
        }
    }
    target.flush().map_err(|error| StorageError::io("write out", path, error))?;
    meter.reached(length)
}
