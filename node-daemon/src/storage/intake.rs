//! The bytes of an image on their way into a pool: counted, hashed and looked at while they are written. Runs on a pool's thread.

use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::content::{HEAD_BYTES, format_of, recognise};
use super::copy::write_sparse;
use super::place::Part;
use super::qcow2::Qcow2Header;
use super::{Meter, StorageError, StorageFault};
use crate::model::{Image, ImageFormat, ImageKind, Sha256Hex};

/// Largest disk or ISO, in bytes.
const DISK_MAX: u64 = 64 << 40;
/// Largest kernel or initial RAM disk, in bytes.
const BOOT_MAX: u64 = 4 << 30;

/// What was found out about an image while it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How it is to be read.
    pub format: ImageFormat,
    /// Bytes of the file.
    pub file_size_bytes: u64,
    /// Of a disk, what a guest sees; 0 for others.
    pub virtual_size_bytes: u64,
    /// Of the file's bytes.
    pub sha256: Sha256Hex,
}

/// Takes the bytes of one image.
pub struct Intake<'a> {
    part: Part,
    kind: ImageKind,
    /// What must come; 0 for anything.
    expected_bytes: u64,
    expected_sha256: Sha256Hex,
    hash: Sha256,
    taken: u64,
    head: Vec<u8>,
    judged: bool,
    meter: &'a Meter,
}

impl<'a> Intake<'a> {
    /// For this image, into this file.
    pub fn new(part: Part, image: &Image, meter: &'a Meter) -> Self {
        meter.expect(image.file_size_bytes);
        Self {
            part,
            kind: image.kind,
            expected_bytes: image.file_size_bytes,
            expected_sha256: image.sha256.clone(),
            hash: Sha256::new(),
            taken: 0,
            head: Vec::new(),
            judged: false,
            meter,
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// When there are too many, when they are no image of this kind, no room, somebody's wish to stop.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let after = self.taken.saturating_add(bytes.len() as u64);
        let (limit, what) = match self.expected_bytes {
            0 if matches!(self.kind, ImageKind::Disk | ImageKind::Iso) => (DISK_MAX, "an image has at most"),
            0 => (BOOT_MAX, "a kernel or initial RAM disk has at most"),
            expected => (expected, "there were to be"),
        };
        if after > limit {
            return Err(StorageError::content(format!("More than {limit} bytes came: {what} {limit} bytes")));
        }
        self.hash.update(bytes);
        let missing = HEAD_BYTES - self.head.len().min(HEAD_BYTES);
        self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        if self.head.len() == HEAD_BYTES {
            self.judge()?;
        }
        let file = self.part.file();
        let written = write_sparse(bytes, self.taken, |data, at| file.write_all_at(data, at));
        written.map_err(|error| StorageError::io("write to", self.part.path(), error))?;
        self.taken = after;
        self.meter.reached(self.taken)
    }

    fn judge(&mut self) -> Result<(), StorageError> {
        if !self.judged {
            format_of(self.kind, recognise(&self.head))?;
            self.judged = true;
        }
        Ok(())
    }

    /// All bytes came. Checks what can only be checked now, and gives the file its name.
    ///
    /// # Errors
    /// When they are too few, not those that were announced, or no usable image. The file is gone then.
    pub fn finish(self) -> Result<Facts, StorageError> {
        let format = format_of(self.kind, recognise(&self.head))?;
        if self.expected_bytes != 0 && self.taken != self.expected_bytes {
            let what = format!("Only {} bytes came, there were to be {}", self.taken, self.expected_bytes);
            return Err(StorageError::content(what));
        }
        let digest: [u8; 32] = self.hash.finalize().into();
        let sha256 = Sha256Hex::of(&digest);
        if !self.expected_sha256.as_str().is_empty() && sha256 != self.expected_sha256 {
            let what = format!("The bytes have the SHA-256 {}, not {}", sha256.as_str(), self.expected_sha256.as_str());
            return Err(StorageError::content(what));
        }
        let fail = |error: io::Error| StorageError::io("set the size of", self.part.path(), error);
        self.part.file().set_len(self.taken).map_err(fail)?;
        let virtual_size_bytes = match (self.kind, format) {
            (ImageKind::Disk, ImageFormat::Qcow2) => Qcow2Header::of_stranger(self.part.file())?.size_bytes,
            (ImageKind::Disk | ImageKind::Iso, _) if self.taken < 512 => {
                return Err(StorageError::new(StorageFault::Content, "A disk has at least one sector of 512 bytes"));
            }
            (ImageKind::Disk | ImageKind::Iso, _) => self.taken,
            _ => 0,
        };
        self.meter.check()?;
        self.part.publish()?;
        Ok(Facts { format, file_size_bytes: self.taken, virtual_size_bytes, sha256 })
    }
}
