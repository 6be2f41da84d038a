//! Page tables at run time: boot.s maps the first 4 GiB; device registers may lie above.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};

unsafe extern "C" {
    static mut pml4: [u64; 512];
}

const PRESENT_WRITABLE_USER: u64 = 7;
/// As above, and a large page, accessed and dirty.
const LARGE: u64 = 0xe7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LARGE_PAGE: u64 = 2 << 20;

/// Makes `size` bytes from the physical address `start` accessible at the same virtual address.
///
/// A page that was not present is not cached in a TLB, so nothing needs a flush, which ring 3 could not do.
pub fn map(start: u64, size: u64) {
    let first = start / LARGE_PAGE * LARGE_PAGE;
    for page in (first..start.saturating_add(size)).step_by(LARGE_PAGE as usize) {
        let root = (&raw mut pml4).cast::<u64>();
        let directory = entry(table(entry(root, page >> 39)), page >> 30);
        let slot = entry(table(directory), page >> 21);
        // SAFETY: `slot` points into a page table, which only this function writes while the guest runs.
        unsafe {
            if *slot == 0 {
                *slot = page | LARGE;
            }
        }
    }
}

fn entry(table: *mut u64, index: u64) -> *mut u64 {
    table.wrapping_add((index & 511) as usize)
}

/// The table an entry points to, made if absent.
fn table(entry: *mut u64) -> *mut u64 {
    const LAYOUT: Layout = Layout::new::<Table>();
    // SAFETY: `entry` points into a page table, which only this module writes.
    let value = unsafe { *entry };
    if value != 0 {
        return (value & ADDRESS) as *mut u64;
    }
    // SAFETY: the layout is not empty.
    let fresh = unsafe { alloc_zeroed(LAYOUT) };
    if fresh.is_null() {
        handle_alloc_error(LAYOUT);
    }
    // SAFETY: as above; the heap is mapped one to one, so the pointer is the table's physical address.
    unsafe { *entry = fresh as u64 | PRESENT_WRITABLE_USER };
    fresh.cast()
}

#[repr(align(4096))]
struct Table([u64; 512]);
