//! The guest's memory statistics: tags and values as they lie in the statistics queue (section 5.5.6.3).
//!
//! Pure. The guest chooses every number: they are for people, and for policies that can bear a lie.

use std::time::Instant;

/// Bytes of one entry: a tag of two, a value of eight, no padding.
const ENTRY_BYTES: usize = 10;
/// Most bytes of a buffer that are looked at; the tags known today fill a sixth of it.
pub(super) const BUFFER_BYTES: usize = 64 * ENTRY_BYTES;

/// What the guest last said of its memory. `None`: it said nothing of this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonStatistics {
    /// When the guest answered, by the host's monotonic clock; `None` before its first answer.
    pub answered: Option<Instant>,
    /// Memory swapped in, in bytes.
    pub swapped_in_bytes: Option<u64>,
    /// Memory swapped out, in bytes.
    pub swapped_out_bytes: Option<u64>,
    /// Page faults that needed a disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Memory not used for anything, in bytes.
    pub free_bytes: Option<u64>,
    /// Memory that the guest's kernel manages, in bytes.
    pub total_bytes: Option<u64>,
    /// Memory that programs could have without swapping, in bytes.
    pub available_bytes: Option<u64>,
    /// Memory that caches files, in bytes.
    pub disk_cache_bytes: Option<u64>,
    /// Huge pages allocated.
    pub huge_page_allocations: Option<u64>,
    /// Huge page allocations that failed.
    pub huge_page_failures: Option<u64>,
}

type Field = fn(&mut BalloonStatistics) -> &mut Option<u64>;

/// Fields by tag, `VIRTIO_BALLOON_S_*`.
const TAGS: [Field; 10] = [
    |s| &mut s.swapped_in_bytes,
    |s| &mut s.swapped_out_bytes,
    |s| &mut s.major_faults,
    |s| &mut s.minor_faults,
    |s| &mut s.free_bytes,
    |s| &mut s.total_bytes,
    |s| &mut s.available_bytes,
    |s| &mut s.disk_cache_bytes,
    |s| &mut s.huge_page_allocations,
    |s| &mut s.huge_page_failures,
];

impl BalloonStatistics {
    /// Reads a driver's buffer. Unknown tags and an entry that is cut off are ignored; of a tag that comes twice the last
    /// value counts.
    pub(super) fn parse(buffer: &[u8], answered: Instant) -> Self {
        let mut statistics = Self { answered: Some(answered), ..Self::default() };
        for entry in buffer.as_chunks::<ENTRY_BYTES>().0 {
            let [tag_low, tag_high, value @ ..] = *entry;
            if let Some(field) = TAGS.get(usize::from(u16::from_le_bytes([tag_low, tag_high]))) {
                *field(&mut statistics) = Some(u64::from_le_bytes(value));
            }
        }
        statistics
    }
}
