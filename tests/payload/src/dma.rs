//! Memory that devices see: for `virtio-drivers` as its `Hal`, and as plain buffers for hand-made rings.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::ptr::NonNull;
use core::slice;

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::paging;

fn pages(count: usize) -> Layout {
    // The arguments are small; a layout that cannot be is an allocation that cannot be.
    Layout::from_size_align(count.max(1) * PAGE_SIZE, PAGE_SIZE).unwrap_or(Layout::new::<u8>())
}

fn allocate(count: usize) -> NonNull<u8> {
    let layout = pages(count);
    // SAFETY: the layout is at least one page.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Guest-physical is virtual here: sharing is the identity.
pub struct Identity;

// SAFETY: pages come zeroed and exclusively from the heap; addresses are the same for CPU and devices.
unsafe impl Hal for Identity {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = allocate(count);
        (memory.as_ptr() as PhysAddr, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, count: usize) -> i32 {
        // SAFETY: the caller got it from `dma_alloc` with the same count.
        unsafe { dealloc(memory.as_ptr(), pages(count)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        paging::map(address, size as u64);
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Page-aligned, zeroed memory, never given back: a hostile test may leave a device writing to it.
#[derive(Clone, Copy)]
pub struct Buffer {
    address: u64,
    length: usize,
}

impl Buffer {
    /// At least `length` bytes, rounded up to pages; all pages are touched.
    pub fn new(length: usize) -> Self {
        let count = length.div_ceil(PAGE_SIZE);
        Self { address: allocate(count).as_ptr() as u64, length: count.max(1) * PAGE_SIZE }
    }

    /// Its guest-physical address.
    pub fn address(self) -> u64 {
        self.address
    }

    /// Its first `length` bytes. The device must be done with them: the caller has seen them come back, or stopped it.
    #[allow(clippy::mut_from_ref)]
    pub fn bytes(&self, length: usize) -> &mut [u8] {
        // SAFETY: the memory is never freed, and the program is one thread that holds one such slice of a buffer at a time.
        unsafe { slice::from_raw_parts_mut(self.address as *mut u8, length.min(self.length)) }
    }
}
