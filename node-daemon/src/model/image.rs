//! Images: read-only templates. Pure.
//!
//! ```text
//! (request) ──► Creating ──all bytes are there and fit──► Ready ──► Deleting ──file is gone──► (no record)
//!                   └──failed, cancelled──► (no record)
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Failure, Id, Name};

/// A read-only template, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its id; its file is named after it.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub kind: ImageKind,
    /// How its bytes are to be read.
    pub format: ImageFormat,
    /// Where it is.
    pub pool: Id,
    /// Bytes of the file.
    pub file_size_bytes: u64,
    /// Of a disk: what a guest sees, in bytes.
    pub virtual_size_bytes: u64,
    /// Of the file's bytes.
    pub sha256: Sha256Hex,
    /// How a guest boots from this disk without firmware.
    pub boot: Option<ImageBoot>,
    /// Where it was fetched from; empty for an upload.
    pub url: String,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// What is being done with it.
    pub phase: ImagePhase,
}

/// What a disk image needs to be booted directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBoot {
    /// An image of kind kernel.
    pub kernel: Id,
    /// An image of kind initial RAM disk.
    pub initrd: Option<Id>,
    /// Kernel command line.
    pub cmdline: String,
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// A disk to make volumes from.
    Disk,
    /// A kernel.
    Kernel,
    /// An initial RAM disk.
    Initrd,
    /// An ISO 9660 file, attached read-only.
    Iso,
}

impl ImageKind {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "DISK",
            Self::Kernel => "KERNEL",
            Self::Initrd => "INITRD",
            Self::Iso => "ISO",
        }
    }
}

/// How the bytes of an image are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// As they are.
    Raw,
    /// As a qcow2 disk.
    Qcow2,
}

/// What is being done with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagePhase {
    /// Its bytes are coming; it is not there yet for anybody else.
    Creating,
    /// It can be used.
    Ready,
    /// It is being deleted, and not there any more for anybody else.
    Deleting,
}

/// A SHA-256 in lower-case hexadecimal, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// Reads a checksum that a caller gave; either case. Empty means none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(field: &str, text: &str) -> Result<Self, Failure> {
        let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if text.is_empty() || hex {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(Failure::invalid(field, text, "is not a SHA-256: it has 64 hexadecimal digits"))
    }

    /// Of a digest.
    pub fn of(digest: &[u8; 32]) -> Self {
        let hex = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        Self(digest.iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]).collect())
    }

    /// The text; empty for none.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Longest kernel command line, in bytes: what x86 kernels take, less the NUL.
const CMDLINE_MAX: usize = 2047;

/// Checks a kernel command line.
///
/// # Errors
/// When it is too long or has control characters.
pub fn check_cmdline(field: &str, text: &str) -> Result<(), Failure> {
    if text.len() > CMDLINE_MAX {
        return Err(Failure::invalid(field, text, "is too long: a kernel command line has at most 2047 bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(Failure::invalid(field, text, "has a control character"));
    }
    Ok(())
}
