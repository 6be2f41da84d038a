//! Volumes: disks in a pool. Pure.
//!
//! ```text
//! (request) ──► Creating ──file is whole──► Ready ──► Resizing ──file has grown──► Ready
//!                   │                         │
//!                   └──failed, cancelled──►   └──► Deleting ──file is gone──► (no record)
//! ```
//!
//! What is not `Ready` when the daemon starts is brought to an end: `Creating` and `Deleting` are removed, `Resizing` is done again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Failure, Id, Name};

/// Smallest and largest disk, in bytes: one sector, 64 TiB.
const SIZE: std::ops::RangeInclusive<u64> = 512..=64 << 40;
/// Sizes are whole sectors.
const SECTOR: u64 = 512;

/// A disk, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id; its file is named after it.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub pool: Id,
    /// How its bytes are to be read.
    pub format: VolumeFormat,
    /// What a guest sees, in bytes.
    pub size_bytes: u64,
    /// What it holds only the differences to.
    pub base: Option<Base>,
    /// What it was made from, linked or not.
    pub image: Option<Id>,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// What is being done with it.
    pub phase: VolumePhase,
}

/// What a linked volume stands on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// Another volume.
    Volume(Id),
    /// An image.
    Image(Id),
}

/// How the bytes of a disk are to be read. Never guessed: a guest could write another format's header into its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeFormat {
    /// The bytes of the disk.
    Raw,
    /// Copy-on-write.
    Qcow2,
}

impl VolumeFormat {
    /// As it is written in file names and in the VMM's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What is being done with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumePhase {
    /// It is being made, and not there yet for anybody else.
    Creating,
    /// It can be used.
    Ready,
    /// It is being made larger.
    Resizing {
        /// Its new size in bytes.
        to: u64,
    },
    /// It is being deleted, and not there any more for anybody else.
    Deleting,
}

impl VolumePhase {
    /// Whether callers see it.
    pub fn is_visible(self) -> bool {
        matches!(self, Self::Ready | Self::Resizing { .. })
    }
}

/// Checks the size of a disk; `field` is the request's.
///
/// # Errors
/// When no disk can have it.
pub fn check_size(field: &str, size_bytes: u64) -> Result<(), Failure> {
    if !SIZE.contains(&size_bytes) {
        return Err(Failure::invalid(field, size_bytes, "is no size of a disk: it has 512 bytes to 64 TiB"));
    }
    if !size_bytes.is_multiple_of(SECTOR) {
        return Err(Failure::invalid(field, size_bytes, "is not a multiple of 512: disks have whole sectors"));
    }
    Ok(())
}

/// The size of the disk that holds so many bytes.
pub fn whole_sectors(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(SECTOR).unwrap_or(bytes)
}

/// Checks labels.
///
/// # Errors
/// When there are too many, or one is too long or empty.
pub fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Failure> {
    if labels.len() > 64 {
        return Err(Failure::invalid(field, labels.len(), "are too many labels: a resource has at most 64"));
    }
    for (key, value) in labels {
        let bad = |text: &str| text.len() > 255 || text.chars().any(char::is_control);
        if key.is_empty() || bad(key) || bad(value) {
            let reason =
                "is not a label: keys have 1 to 255 bytes, values up to 255, and neither has control characters";
            return Err(Failure::invalid(format!("{field}.{key}"), value, reason));
        }
    }
    Ok(())
}
