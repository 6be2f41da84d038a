//! A checked piece of guest RAM.
//!
//! Any thread. The guest may change the bytes at any moment: every read is a copy, and code trusts the copy only.
//! Nothing here may hand out a Rust reference into guest memory.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use vm_memory::ByteValued;

/// A range of guest RAM that was bounds-checked once and stays mapped until the process ends.
///
/// One process is one VM: guest RAM is never unmapped, so a slice needs no lifetime and may be given to
/// the kernel (``io_uring``) or to another thread.
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a slice is an address and a length. The memory behind it lives as long as the process
// (`GuestMemory` leaks its mapping) and is only touched by copies and atomics, from any thread.
unsafe impl Send for GuestSlice {}
// SAFETY: as for Send; no method needs exclusive access.
unsafe impl Sync for GuestSlice {}

impl GuestSlice {
    /// A slice over `len` bytes at `start`.
    ///
    /// # Safety
    /// `start..start + len` must be mapped readable and writable until the process ends and must never be
    /// reached through a Rust reference.
    pub(super) const unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Host address of the first byte, for system calls that take iovecs.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The part of `len` bytes at `offset`; `None` when it does not lie inside.
    pub fn sub(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: offset <= self.len was just checked, so the result is inside the same mapping or one past it.
        let start = unsafe { self.start.add(offset) };
        Some(Self { start, len })
    }

    /// Copies bytes at `offset` into `to`; returns how many were there to copy.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(to.len());
        if n > 0 {
            // SAFETY: offset + n <= self.len, and `to` is ours and holds n bytes; guest memory never overlaps it.
            unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), to.as_mut_ptr(), n) };
        }
        n
    }

    /// Copies `from` to `offset`; returns how many bytes had room.
    pub fn write(&self, offset: usize, from: &[u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(from.len());
        if n > 0 {
            // SAFETY: offset + n <= self.len, and `from` holds n bytes; guest memory never overlaps it.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.start.as_ptr().add(offset), n) };
        }
        n
    }

    /// Fills the whole slice with zero bytes.
    pub fn zero(&self) {
        // SAFETY: the slice covers exactly self.len mapped bytes.
        unsafe { std::ptr::write_bytes(self.start.as_ptr(), 0, self.len) };
    }

    /// Gives the host pages of `page_bytes` (a power of two) that lie wholly inside back to the host; the guest reads zeros
    /// there afterwards. Advice: the host may keep them, with their content.
    pub fn discard(&self, page_bytes: u64) {
        let address = self.start.as_ptr() as u64;
        let first = address.next_multiple_of(page_bytes);
        let end = (address + self.len as u64) & !(page_bytes - 1);
        if first >= end {
            return;
        }
        // SAFETY: address <= first < end <= address + len, so the range stays inside the mapping.
        let start = unsafe { self.start.add((first - address) as usize) };
        // Private memory drops its pages by DONTNEED; a shared memfd needs its hole punched, which REMOVE does.
        for advice in [libc::MADV_REMOVE, libc::MADV_DONTNEED] {
            // SAFETY: the range is guest RAM, mapped for the life of the process (see `new`); no Rust reference points into it.
            if unsafe { libc::madvise(start.as_ptr().cast(), (end - first) as usize, advice) } == 0 {
                break;
            }
        }
    }

    /// Copies a plain value from `offset`; `None` when it does not lie inside.
    pub fn read_obj<T: ByteValued>(&self, offset: usize) -> Option<T> {
        let mut value = T::zeroed();
        let bytes = value.as_mut_slice();
        let wanted = bytes.len();
        (self.read(offset, bytes) == wanted).then_some(value)
    }

    /// Copies a plain value to `offset`; `None`, and nothing written, when it does not fit.
    pub fn write_obj<T: ByteValued>(&self, offset: usize, value: &T) -> Option<()> {
        let part = self.sub(offset, size_of::<T>())?;
        part.write(0, value.as_slice());
        Some(())
    }

    fn atomic_u16(&self, offset: usize) -> Option<&AtomicU16> {
        let part = self.sub(offset, size_of::<u16>())?;
        let pointer = part.start.cast::<u16>();
        if !pointer.is_aligned() {
            return None;
        }
        // SAFETY: mapped for the life of the process (see `new`), aligned (just checked), and an AtomicU16 tolerates
        // the guest's concurrent changes.
        Some(unsafe { AtomicU16::from_ptr(pointer.as_ptr()) })
    }

    /// Loads a little-endian `u16` in one access; `None` when outside or not aligned.
    pub fn load_u16(&self, offset: usize, order: Ordering) -> Option<u16> {
        Some(u16::from_le(self.atomic_u16(offset)?.load(order)))
    }

    /// Stores a little-endian `u16` in one access; `None` when outside or not aligned.
    pub fn store_u16(&self, offset: usize, value: u16, order: Ordering) -> Option<()> {
        self.atomic_u16(offset)?.store(value.to_le(), order);
        Some(())
    }
}
