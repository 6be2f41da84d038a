//! The heap: blocks in powers of two with a free list for each size. One vCPU allocates, polling, so nothing is locked.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

use payload_logic::memory_map::Ram;

const SMALLEST: usize = 16;
const SIZES: usize = 28;

struct Blocks {
    next: usize,
    end: usize,
    free: [*mut Free; SIZES],
}

struct Free {
    next: *mut Free,
}

/// The global allocator; empty until [`Heap::give`].
pub struct Heap(UnsafeCell<Blocks>);

// SAFETY: only the boot CPU runs Rust code that allocates (other CPUs run assembly), and no interrupt handler does.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Blocks { next: 0, end: 0, free: [null_mut(); SIZES] }));

/// Hands the RAM over from which everything is allocated. Called once, at the start.
pub fn give(ram: Ram) {
    // SAFETY: see `Sync`; the reference ends here.
    let blocks = unsafe { &mut *HEAP.0.get() };
    (blocks.next, blocks.end) = (ram.start as usize, ram.end as usize);
}

/// Size and index of the block that serves a layout. A block is aligned to its size.
fn class(layout: Layout) -> (usize, usize) {
    let size = layout.size().max(layout.align()).max(SMALLEST).next_power_of_two();
    (size, (size / SMALLEST).trailing_zeros() as usize)
}

// SAFETY: blocks come from RAM that nothing else uses, never overlap, and have the size and alignment of their class.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, class) = class(layout);
        // SAFETY: see `Sync`; the reference ends with this call.
        let blocks = unsafe { &mut *self.0.get() };
        let Some(head) = blocks.free.get_mut(class) else {
            return null_mut();
        };
        if !head.is_null() {
            let block = *head;
            // SAFETY: blocks on a free list are ours and hold a link.
            *head = unsafe { (*block).next };
            return block.cast();
        }
        // A page boundary is alignment enough for anything that is asked for, and wastes less than the block's size.
        let start = blocks.next.next_multiple_of(size.min(4096).max(layout.align()));
        match start.checked_add(size) {
            Some(end) if end <= blocks.end => {
                blocks.next = end;
                start as *mut u8
            }
            _ => null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (_, class) = class(layout);
        // SAFETY: see `Sync`; the reference ends with this call.
        let blocks = unsafe { &mut *self.0.get() };
        if let Some(head) = blocks.free.get_mut(class) {
            let block = block.cast::<Free>();
            // SAFETY: the block was allocated from this class, so it is large and aligned enough for a link, and unused.
            unsafe { block.write(Free { next: *head }) };
            *head = block;
        }
    }
}
