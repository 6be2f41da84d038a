//! Seeds for cloud-init (data source NoCloud): a small FAT volume in memory, labelled CIDATA, made for one VM.
//!
//! cloud-init takes the label in either case; FAT labels are in upper case. The same files give the same bytes: there is no clock and
//! no chance in them. Any thread; the file system is written to a buffer, nothing of the host is touched.

mod documents;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Cursor, Write as _};
use std::os::fd::OwnedFd;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use rustix::fs::{MemfdFlags, SealFlags};

pub use documents::{Account, SeedNic, meta_data, network_config, user_data};

use super::{StorageError, StorageFault};

/// Most bytes of all files together.
pub const BYTES_MAX: usize = 8 << 20;
/// As FAT wants it: 11 bytes, filled with blanks.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// Serial number of the volume.
const VOLUME_ID: u32 = 0x5158_5344;
/// The volume grows in these steps, in bytes.
const STEP: usize = 1 << 20;

/// What cloud-init finds. An empty file is not there at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeedFiles {
    /// `user-data`: what to do.
    pub user_data: String,
    /// `meta-data`: which instance this is.
    pub meta_data: String,
    /// `network-config`, version 2.
    pub network_config: String,
}

/// Makes a sealed memory file with the volume: nobody can change it any more.
///
/// # Errors
/// When the files are too large, or the kernel has no memory.
pub fn build(files: &SeedFiles) -> Result<OwnedFd, StorageError> {
    let host = |error: io::Error| StorageError::io("make", std::path::Path::new("a seed in memory"), error);
    let bytes = volume(files)?;
    let fd = rustix::fs::memfd_create("quantix-seed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|errno| host(errno.into()))?;
    let mut file = File::from(fd);
    file.write_all(&bytes).map_err(host)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(|errno| host(errno.into()))?;
    Ok(file.into())
}

/// The bytes of the volume.
fn volume(files: &SeedFiles) -> Result<Vec<u8>, StorageError> {
    // Both must be there for the data source to be taken at all, even if there is nothing in them.
    let named = [
        ("user-data", files.user_data.as_str(), true),
        ("meta-data", files.meta_data.as_str(), true),
        ("network-config", files.network_config.as_str(), false),
    ];
    let content: usize = named.iter().map(|(_, text, _)| text.len()).sum();
    if content > BYTES_MAX {
        let what =
            format!("The files for cloud-init have {content} bytes together: they may have 8 MiB, shorten user-data");
        return Err(StorageError::new(StorageFault::Content, what));
    }
    // One step more than the content leaves room for the tables and for the last cluster of each file.
    let size = content.next_multiple_of(STEP) + STEP;
    let mut bytes = vec![0; size];
    let broken = |error| StorageError::io("write", std::path::Path::new("the file system of a seed"), error);
    let options = FormatVolumeOptions::new().volume_label(LABEL).volume_id(VOLUME_ID);
    fatfs::format_volume(Cursor::new(bytes.as_mut_slice()), options).map_err(broken)?;
    let written = FileSystem::new(Cursor::new(bytes.as_mut_slice()), FsOptions::new()).and_then(|volume| {
        for (name, text, always) in named {
            if always || !text.is_empty() {
                volume.root_dir().create_file(name)?.write_all(text.as_bytes())?;
            }
        }
        volume.unmount()
    });
    written.map_err(broken)?;
    Ok(bytes)
}
