//! The header of a qcow2 file that a stranger may have written (QEMU's docs/interop/qcow2.rst, "Header"): what it says, and
//! whether we take such a file. Pure but for reading the first bytes; runs on a pool's thread.
//!
//! Checked here is what decides how much memory a reader takes and which other files it would want. The tables themselves are
//! checked by whoever reads them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::super::StorageError;

/// Bytes of the longest header that we know the meaning of.
const HEADER_BYTES: usize = 112;
/// As QEMU: larger tables are an attack, or of an image larger than any disk here.
const L1_BYTES_MAX: u64 = 32 << 20;
/// As QEMU.
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
/// Largest disk: as for volumes.
const SIZE_MAX: u64 = 64 << 40;

/// Incompatible features, by bit, and why we refuse them.
const REFUSED_FEATURES: &[(u32, &str)] = &[
    (0, "it was not closed properly: repair it by `qemu-img check -r all`"),
    (1, "it is marked as corrupt: repair it by `qemu-img check -r all`"),
    (2, "its data is in a second file: convert it by `qemu-img convert -O qcow2`"),
    (3, "it is compressed by zstd: convert it by `qemu-img convert -O qcow2`"),
    (4, "it has extended L2 entries: convert it by `qemu-img convert -O qcow2`"),
];

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qcow2Header {
    /// What a guest sees, in bytes.
    pub size_bytes: u64,
    /// Bytes of a cluster, as a power of two.
    pub cluster_bits: u32,
    /// Entries of the level 1 table.
    pub l1_entries: u32,
    /// Whether the file names another one below it.
    pub has_backing: bool,
}

impl Qcow2Header {
    /// Reads and judges the header of a file that must stand alone.
    ///
    /// # Errors
    /// Why we do not take it, and what can be done.
    pub fn of_stranger(file: &File) -> Result<Self, StorageError> {
        let header = Self::read(file)?;
        if header.has_backing {
            return Err(refused(
                "it holds only the differences to another file: convert it by `qemu-img convert -O qcow2`",
            ));
        }
        Ok(header)
    }

    /// Reads and judges a header.
    ///
    /// # Errors
    /// Why we do not take it, and what can be done.
    pub fn read(file: &File) -> Result<Self, StorageError> {
        let length = file.metadata().map_err(unreadable)?.len();
        let mut bytes = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            match file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        Self::judge(&bytes, filled, length)
    }

    /// Judges the first `filled` bytes of a file of `length` bytes.
    fn judge(bytes: &[u8; HEADER_BYTES], filled: usize, length: u64) -> Result<Self, StorageError> {
        let field = Fields(bytes);
        if filled < 72 || field.u32(0) != 0x5146_49fb {
            return Err(refused("it is too short, or not qcow2 at all"));
        }
        let version = field.u32(4);
        if !matches!(version, 2 | 3) {
            return Err(refused("it is of an unknown version: versions 2 and 3 are known"));
        }
        if version == 3 {
            check_features(&field, filled)?;
        }
        let header = Self {
            size_bytes: field.u64(24),
            cluster_bits: field.u32(20),
            l1_entries: field.u32(36),
            has_backing: field.u64(8) != 0 || field.u32(16) != 0,
        };
        header.check_tables(&field, length)?;
        if field.u32(32) != 0 {
            return Err(refused("it is encrypted, which is not supported"));
        }
        if field.u32(60) != 0 {
            return Err(refused("it has snapshots in it: convert it by `qemu-img convert -O qcow2`"));
        }
        Ok(header)
    }

    fn check_tables(&self, field: &Fields<'_>, length: u64) -> Result<(), StorageError> {
        if !(9..=21).contains(&self.cluster_bits) {
            return Err(refused("its clusters have a size that the format does not allow"));
        }
        if self.size_bytes < 512 || self.size_bytes > SIZE_MAX {
            return Err(refused("its disk is smaller than a sector or larger than 64 TiB"));
        }
        let cluster = 1_u64 << self.cluster_bits;
        let l1_bytes = u64::from(self.l1_entries) * 8;
        let refcount_bytes = u64::from(field.u32(56)) * cluster;
        let inside = |offset: u64, bytes: u64| {
            offset != 0 && offset.is_multiple_of(cluster) && offset.checked_add(bytes).is_some_and(|end| end <= length)
        };
        if self.l1_capacity() < self.size_bytes || l1_bytes > L1_BYTES_MAX || !inside(field.u64(40), l1_bytes) {
            return Err(refused(
                "its level 1 table does not fit its size, or lies outside of the file: the file is cut off or broken",
            ));
        }
        if refcount_bytes == 0 || refcount_bytes > REFCOUNT_TABLE_BYTES_MAX || !inside(field.u64(48), refcount_bytes) {
            return Err(refused(
                "its table of reference counts lies outside of the file: the file is cut off or broken",
            ));
        }
        Ok(())
    }

    /// The largest disk that the level 1 table can hold, in bytes.
    pub fn l1_capacity(&self) -> u64 {
        let bits = (2 * self.cluster_bits).saturating_sub(3).min(63);
        u64::from(self.l1_entries).saturating_mul(1 << bits)
    }
}

/// The header's fields, by their offsets in the specification.
struct Fields<'a>(&'a [u8; HEADER_BYTES]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
    }
}

fn check_features(field: &Fields<'_>, filled: usize) -> Result<(), StorageError> {
    if filled < 104 || field.u32(100) < 104 {
        return Err(refused("its header is too short"));
    }
    let features = field.u64(72);
    if let Some((_, reason)) = REFUSED_FEATURES.iter().find(|(bit, _)| features >> bit & 1 == 1) {
        return Err(refused(reason));
    }
    if features != 0 {
        return Err(refused("it needs a feature that is not known here: convert it by `qemu-img convert -O qcow2`"));
    }
    if field.u32(96) > 6 {
        return Err(refused("its reference counts have a width that the format does not allow"));
    }
    Ok(())
}

fn refused(reason: &str) -> StorageError {
    StorageError::content(format!("This qcow2 file cannot be used: {reason}"))
}

fn unreadable(error: io::Error) -> StorageError {
    StorageError::io("read", std::path::Path::new("the header of a qcow2 file"), error)
}
