//! Gives back the pages of this program that only its start needed.
//!
//! Reading arguments, opening files and building a VM touch most of the program's code; running a guest touches little of it.
//! The pages are clean and in the page cache: dropping them costs some microseconds once, and what is needed again comes back by
//! a minor fault.

use std::ptr::NonNull;

unsafe extern "C" {
    /// First byte of the loaded file, from the linker.
    static __executable_start: u8;
    /// First byte behind the code, from the linker.
    static etext: u8;
}

/// Drops this program's read-only data and code from the resident set. Main thread, before the guest runs.
pub fn drop_startup_pages() {
    let page = super::PAGE_SIZE as usize;
    let start = (&raw const __executable_start).cast_mut();
    let len = (&raw const etext).addr().saturating_sub(start.addr()) & !(page - 1);
    if let Some(start) = NonNull::new(start) {
        // SAFETY: the range is the read-only part of our own file mapping, from its first page to the last whole page of
        // code. Its pages are clean copies of the file, so a fault brings back the same bytes. An error changes nothing.
        unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) };
    }
}
