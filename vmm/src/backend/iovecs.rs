//! A reusable list of I/O vectors over guest RAM.
//!
//! Owned by one worker and used on its thread only. It is filled, given to one system call, and emptied again: the
//! allocation is what lives on.

use crate::memory::GuestSlice;

/// Most vectors that one system call takes (`UIO_MAXIOV`).
pub const MAX_IOVECS: usize = 1024;

/// I/O vectors for `readv` and its family, over guest RAM only.
#[derive(Default)]
pub struct IoVecs {
    vectors: Vec<libc::iovec>,
    len: usize,
}

// SAFETY: the pointers lead into guest RAM, which is mapped as long as the process lives and may be used from any thread
// (see `GuestSlice`). `with_tail` removes what it added before it returns.
unsafe impl Send for IoVecs {}

impl IoVecs {
    /// Forgets all vectors; keeps the allocation.
    pub fn clear(&mut self) {
        self.vectors.clear();
        self.len = 0;
    }

    /// Appends a piece of guest RAM; one that continues the last piece makes that one longer.
    pub fn push(&mut self, slice: &GuestSlice) {
        self.len = self.len.saturating_add(slice.len());
        if let Some(last) = self.vectors.last_mut()
            && last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == slice.as_ptr()
        {
            last.iov_len += slice.len();
            return;
        }
        self.vectors.push(libc::iovec { iov_base: slice.as_ptr().cast(), iov_len: slice.len() });
    }

    /// Appends pieces of guest RAM.
    pub fn extend<'a>(&mut self, slices: impl IntoIterator<Item = &'a GuestSlice>) {
        for slice in slices {
            self.push(slice);
        }
    }

    /// Total length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The vectors, for a system call.
    pub(super) fn as_slice(&self) -> &[libc::iovec] {
        &self.vectors
    }

    /// Runs `call` on the vectors with `tail` behind them.
    pub(super) fn with_tail<T>(&mut self, tail: &mut [u8], call: impl FnOnce(&[libc::iovec]) -> T) -> T {
        self.vectors.push(libc::iovec { iov_base: tail.as_mut_ptr().cast(), iov_len: tail.len() });
        let result = call(&self.vectors);
        self.vectors.pop();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, GuestMemory};

    #[test]
    fn adjacent_pieces_become_one_vector() {
        let memory = GuestMemory::map(&[(0, 0x4000)], Backing::default()).unwrap();
        let piece = |address, len| memory.slice(address, len).unwrap();
        let mut vectors = IoVecs::default();
        vectors.extend(&[piece(0, 12), piece(12, 100), piece(0x1000, 8), piece(0, 4)]);
        let lens: Vec<usize> = vectors.as_slice().iter().map(|v| v.iov_len).collect();
        assert_eq!((lens, vectors.len()), (vec![112, 8, 4], 124));
    }
}
