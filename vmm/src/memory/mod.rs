//! Guest RAM: how it is obtained from the host and how the rest of the VMM reaches it.
//!
//! Created by the main thread, used by all. It knows no device and no KVM.
//!
//! ```text
//! guest-physical   0 ......... low end |  hole (MMIO)  | 4 GiB ......... high end
//!                       │                                   │
//! host mapping     [ one mmap, low part ][ high part directly behind it ]
//! ```

mod slice;
mod startup_pages;

pub use slice::GuestSlice;
pub use startup_pages::drop_startup_pages;

use std::ptr::NonNull;

use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _, MmapRegion};

/// Size of a small page in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host gave no mapping.
    #[error(
        "Could not map {size_bytes} bytes of guest memory ({pages}): too little free memory, or too few huge pages reserved on this host"
    )]
    Map {
        /// What was asked for, in bytes.
        size_bytes: u64,
        /// The kind of pages asked for.
        pages: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The regions make no valid memory map.
    #[error("The guest's memory regions are not valid")]
    Regions(#[source] vm_memory::GuestRegionCollectionError),
}

/// A range is not guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Guest-physical {address:#x}+{len:#x} is not RAM")]
pub struct OutsideMemory {
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A handle on the guest's RAM. Copying it is free; the RAM lives until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory {
    regions: &'static GuestMemoryMmap,
}

/// The kind of host pages behind guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pages {
    /// 4 KiB pages; the kernel may join them (transparent huge pages).
    #[default]
    Small,
    /// Reserved 2 MiB pages.
    Huge2M,
    /// Reserved 1 GiB pages.
    Huge1G,
}

impl Pages {
    fn name(self) -> &'static str {
        match self {
            Self::Small => "4 KiB pages",
            Self::Huge2M => "2 MiB huge pages",
            Self::Huge1G => "1 GiB huge pages",
        }
    }
}

/// How guest RAM is to be obtained.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backing {
    /// Page kind.
    pub pages: Pages,
    /// A shared memfd, which another process (vhost-user) can map; else private memory.
    pub shared: bool,
    /// Touch every page at start.
    pub prefault: bool,
}

impl GuestMemory {
    /// Maps RAM for `ranges` (guest-physical start, length in bytes; ascending, page aligned).
    pub fn map(ranges: &[(u64, u64)], backing: Backing) -> Result<Self, MemoryError> {
        let total: u64 = ranges.iter().map(|(_, len)| len).sum();
        let fail = |source| MemoryError::Map { size_bytes: total, pages: backing.pages.name(), source };
        let base = map_host(total, backing).map_err(fail)?;
        let mut regions = Vec::with_capacity(ranges.len());
        let mut offset = 0_u64;
        for &(start, len) in ranges {
            // SAFETY: offset + len <= total, so this part lies inside the mapping just made, which is never unmapped.
            let region = unsafe {
                vm_memory::mmap::MmapRegionBuilder::new(len as usize)
                    .with_raw_mmap_pointer(base.as_ptr().add(offset as usize))
                    .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                    .with_mmap_flags(libc::MAP_NORESERVE)
                    .build()
            };
            let region: MmapRegion = region.map_err(|e| fail(std::io::Error::other(e)))?;
            let region = vm_memory::GuestRegionMmap::new(region, GuestAddress(start))
                .ok_or_else(|| fail(std::io::Error::other("a region wraps around the address space")))?;
            regions.push(region);
            offset += len;
        }
        let regions = GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Regions)?;
        Ok(Self { regions: Box::leak(Box::new(regions)) })
    }

    /// The `vm-memory` view, for crates that take one.
    pub fn regions(&self) -> &'static GuestMemoryMmap {
        self.regions
    }

    /// The RAM at `address..address + len`, checked to lie in one region.
    #[inline]
    pub fn slice(&self, address: u64, len: u64) -> Result<GuestSlice, OutsideMemory> {
        let outside = OutsideMemory { address, len };
        for region in self.regions.iter() {
            let start = region.start_addr().0;
            let Some(offset) = address.checked_sub(start) else { continue };
            let Some(room) = region.len().checked_sub(offset) else { continue };
            if len > room || room == 0 {
                continue;
            }
            // SAFETY: offset < region.len(), so the pointer stays inside the region's mapping.
            let pointer = unsafe { region.as_ptr().add(offset as usize) };
            let pointer = NonNull::new(pointer).ok_or(outside)?;
            // SAFETY: offset + len <= region.len(); `map` never unmaps and nothing makes references into guest RAM.
            return Ok(unsafe { GuestSlice::new(pointer, len as usize) });
        }
        Err(outside)
    }

    /// The regions as (guest-physical start, host address, length in bytes), for KVM's memory slots.
    pub fn slots(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.regions.iter().map(|r| (r.start_addr().0, r.as_ptr() as u64, r.len()))
    }

    /// Total RAM in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.regions.iter().map(vm_memory::GuestMemoryRegion::len).sum()
    }

    /// Gives the pages of a range back to the host; the guest reads zeros there afterwards.
    pub fn discard(&self, address: u64, len: u64) -> Result<(), OutsideMemory> {
        self.slice(address, len)?.discard(PAGE_SIZE);
        Ok(())
    }
}

/// Guest RAM starts at a multiple of this in the host's address space as well: only where guest and host addresses agree
/// below it can KVM map 2 MiB at a time.
const ALIGNMENT: usize = 2 << 20;

fn map_host(total: u64, backing: Backing) -> std::io::Result<NonNull<u8>> {
    let len = usize::try_from(total).map_err(std::io::Error::other)?;
    let huge = match backing.pages {
        Pages::Small => 0,
        Pages::Huge2M => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
        Pages::Huge1G => libc::MAP_HUGETLB | libc::MAP_HUGE_1GB,
    };
    let fd = if backing.shared { Some(memfd(total, backing.pages)?) } else { None };
    let kind = if fd.is_some() { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | huge };
    let raw_fd = fd.as_ref().map_or(-1, std::os::fd::AsRawFd::as_raw_fd);
    let place = if backing.pages == Pages::Small { Some(reserve(len)?) } else { None };
    let flags = libc::MAP_NORESERVE | kind | if place.is_some() { libc::MAP_FIXED } else { 0 };
    let hint = place.map_or(std::ptr::null_mut(), |place| place.as_ptr().cast());
    // SAFETY: with a place, the mapping replaces exactly the part of our own reservation that holds `len` bytes; without
    // one it replaces nothing.
    let at = unsafe { libc::mmap(hint, len, libc::PROT_READ | libc::PROT_WRITE, flags, raw_fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    if backing.pages == Pages::Small {
        advise(at, len, libc::MADV_HUGEPAGE);
    }
    advise(at, len, libc::MADV_DONTDUMP);
    if backing.prefault {
        // After the advice, so that the pages come in large pieces. ENOMEM is a host without that much memory.
        // SAFETY: the range is the mapping just made.
        if unsafe { libc::madvise(at, len, libc::MADV_POPULATE_WRITE) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    NonNull::new(at.cast()).ok_or_else(|| std::io::Error::other("mapped at address zero"))
}

/// Address space for `len` bytes at a multiple of [`ALIGNMENT`]. What is reserved too much costs nothing and stays.
fn reserve(len: usize) -> std::io::Result<NonNull<u8>> {
    let room = len.checked_add(ALIGNMENT).ok_or(std::io::ErrorKind::InvalidInput)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping at an address the kernel chooses, without access: it replaces nothing.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    let offset = at.cast::<u8>().align_offset(ALIGNMENT);
    // SAFETY: offset < ALIGNMENT, so the result lies in the reservation, with `len` bytes behind it.
    NonNull::new(unsafe { at.cast::<u8>().add(offset) }).ok_or_else(|| std::io::Error::other("mapped at address zero"))
}

/// Gives the kernel a hint on a mapping of ours; a kernel that does not know it goes on without.
fn advise(at: *mut libc::c_void, len: usize, advice: libc::c_int) {
    // SAFETY: the range is a mapping that the caller just made; these hints change no content.
    unsafe { libc::madvise(at, len, advice) };
}

fn memfd(size: u64, pages: Pages) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    let huge = match pages {
        Pages::Small => 0,
        Pages::Huge2M => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
        Pages::Huge1G => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
    };
    // SAFETY: the name is a NUL-terminated constant.
    let raw = unsafe { libc::memfd_create(c"guest-ram".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge) };
    if raw < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(raw) };
    std::fs::File::from(fd.try_clone()?).set_len(size)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_regions() -> GuestMemory {
        GuestMemory::map(&[(0, 0x10000), (0x1_0000_0000, 0x4000)], Backing::default()).unwrap()
    }

    #[test]
    fn a_slice_lies_in_one_region_or_is_refused() {
        let memory = two_regions();
        for (address, len, inside) in [
            (0, 0x10000, true),
            (0xffff, 1, true),
            (0xffff, 2, false),
            (0x10000, 1, false),
            (0x1_0000_0000, 0x4000, true),
            (0x1_0000_3fff, 2, false),
            (u64::MAX, 2, false),
            (1, u64::MAX, false),
        ] {
            assert_eq!(memory.slice(address, len).is_ok(), inside, "{address:#x}+{len:#x}");
        }
    }

    #[test]
    fn guest_and_host_addresses_agree_within_huge_pages() {
        for _ in 0..3 {
            let memory = GuestMemory::map(&[(0, 0x40_0000)], Backing::default()).unwrap();
            assert_eq!(memory.slots().next().unwrap().1 % (2 << 20), 0);
        }
    }

    #[test]
    fn regions_do_not_overlap_in_the_host_mapping() {
        let memory = two_regions();
        memory.slice(0xfff0, 16).unwrap().write(0, &[1; 16]);
        memory.slice(0x1_0000_0000, 16).unwrap().write(0, &[2; 16]);
        let mut bytes = [0; 16];
        memory.slice(0xfff0, 16).unwrap().read(0, &mut bytes);
        assert_eq!(bytes, [1; 16]);
    }

    #[test]
    fn discarded_memory_reads_as_zero_private_and_shared() {
        for shared in [false, true] {
            let memory = GuestMemory::map(&[(0, 0x4000)], Backing { shared, ..Backing::default() }).unwrap();
            let page = memory.slice(0x1000, 0x1000).unwrap();
            page.write(0, &[7; 4096]);
            memory.discard(0x1000, 0x1000).unwrap();
            assert_eq!(page.read_obj::<u64>(8), Some(0), "shared={shared}");
        }
    }

    #[test]
    fn a_discarded_slice_keeps_the_pages_it_covers_in_part() {
        let memory = two_regions();
        memory.slice(0, 0x5000).unwrap().write(0, &vec![7; 0x5000]);
        memory.slice(0xfff, 0x2002).unwrap().discard(PAGE_SIZE);
        memory.slice(0x3001, 0x1ffe).unwrap().discard(PAGE_SIZE);
        memory.slice(0x3001, 0).unwrap().discard(PAGE_SIZE);
        let byte = |at| memory.slice(at, 1).unwrap().read_obj::<u8>(0).unwrap();
        for (at, expected) in [(0, 7), (0xfff, 7), (0x1000, 0), (0x2fff, 0), (0x3000, 7), (0x4fff, 7)] {
            assert_eq!(byte(at), expected, "{at:#x}");
        }
    }

    #[test]
    fn short_and_misaligned_accesses_are_refused() {
        use std::sync::atomic::Ordering;
        let page = two_regions().slice(0, 16).unwrap();
        assert_eq!(page.load_u16(15, Ordering::Relaxed), None);
        assert_eq!(page.load_u16(1, Ordering::Relaxed), None);
        assert_eq!(page.write_obj(12, &1_u64), None);
        assert_eq!(page.write(12, &[0; 8]), 4);
        assert!(page.sub(8, 9).is_none() && page.sub(16, 0).is_some());
    }
}
