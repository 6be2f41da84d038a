//! A hostile file: any bytes as a kernel image, and what is written into guest memory for it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};
use quantix_vmm::arch::x86_64::boot::{self, BootInfo};
use quantix_vmm::arch::x86_64::kernel::{self, Protocol};
use quantix_vmm::board::{E820Entry, E820Kind, Window};
use quantix_vmm::memory::{Backing, GuestMemory};

/// Bytes of guest memory; an image is loaded at 1 MiB.
pub const MEMORY_BYTES: u64 = 8 << 20;

fn memory() -> GuestMemory {
    static MEMORY: OnceLock<GuestMemory> = OnceLock::new();
    *MEMORY
        .get_or_init(|| GuestMemory::map(&[(0, MEMORY_BYTES)], Backing::default()).expect("memory for a fuzz target"))
}

/// Loads `image` by both protocols and, where that works, prepares everything up to the first instruction.
pub fn boot(image: &[u8]) {
    static FILE: OnceLock<File> = OnceLock::new();
    let file = FILE.get_or_init(|| File::from(memfd_create(c"image", MFdFlags::MFD_CLOEXEC).expect("a memfd")));
    file.set_len(0).and_then(|()| file.write_all_at(image, 0)).expect("the image in a memfd");
    let mut file = file.try_clone().expect("a second descriptor");
    for protocol in [Protocol::Auto, Protocol::Linux64] {
        let Ok(kernel) = kernel::load(&memory(), &mut file, protocol) else { continue };
        let initrd = boot::load_initrd(&memory(), &mut file, &kernel, MEMORY_BYTES).ok();
        if let Some(initrd) = initrd {
            assert!(initrd.start >= kernel.end, "the initrd lies over the kernel");
            assert!(initrd.start + initrd.len <= MEMORY_BYTES, "the initrd lies behind memory");
        }
        let map = [E820Entry { range: Window { start: 0, size_bytes: MEMORY_BYTES }, kind: E820Kind::Ram }];
        let info = BootInfo { kernel: &kernel, command_line: "quiet", initrd, memory_map: &map, rsdp: 0xe0000 };
        boot::write(&memory(), &info).expect("boot structures below 1 MiB");
    }
}
