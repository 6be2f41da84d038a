//! What the kernel finds in memory when it starts: command line, initrd, memory map, and the zero page or `hvm_start_info`.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator as _, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes as _, GuestAddress};

use super::kernel::{Entry, Loaded};
use crate::board::{E820Entry, map};
use crate::memory::{GuestMemory, OutsideMemory, PAGE_SIZE};

/// `hvm_start_info.magic`.
const PVH_MAGIC: u32 = 0x336e_c578;
/// `boot_params.hdr.boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
/// `boot_params.hdr.header`: "`HdrS`".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `boot_params.hdr.type_of_loader`: undefined loader.
const LOADER_UNDEFINED: u8 = 0xff;
/// Highest address of an initrd when the image does not say.
const INITRD_LIMIT: u64 = 0x7fff_ffff;

/// An initrd in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// Guest-physical start.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What the kernel is told.
#[derive(Debug)]
pub struct BootInfo<'a> {
    /// The loaded kernel.
    pub kernel: &'a Loaded,
    /// Its command line.
    pub command_line: &'a str,
    /// The initrd, when there is one.
    pub initrd: Option<Initrd>,
    /// The memory map.
    pub memory_map: &'a [E820Entry],
    /// Guest-physical address of the RSDP.
    pub rsdp: u64,
}

/// Why boot data could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The initrd could not be read.
    #[error("The initrd cannot be read")]
    ReadInitrd(#[source] std::io::Error),
    /// There is no room for the initrd.
    #[error("The initrd of {len} bytes does not fit between the kernel, which ends at {kernel_end:#x}, and {limit:#x}")]
    InitrdTooLarge {
        /// Length of the initrd in bytes.
        len: u64,
        /// First address behind the kernel.
        kernel_end: u64,
        /// First address that an initrd may not reach.
        limit: u64,
    },
    /// Boot data did not fit into low memory.
    #[error("Boot data do not fit into guest memory")]
    Outside(#[from] OutsideMemory),
    /// The boot structures could not be written.
    #[error("Boot structures could not be written: {0}")]
    Write(String),
}

/// Copies the initrd as high as the kernel accepts it, so that it stays clear of the decompressing kernel.
pub fn load_initrd(memory: &GuestMemory, file: &mut File, kernel: &Loaded, low_end: u64) -> Result<Initrd, BootError> {
    let len = file.seek(SeekFrom::End(0)).map_err(BootError::ReadInitrd)?;
    file.seek(SeekFrom::Start(0)).map_err(BootError::ReadInitrd)?;
    let highest = kernel.header.map_or(INITRD_LIMIT, |h| u64::from(h.initrd_addr_max));
    let limit = low_end.min(highest.saturating_add(1));
    let too_large = BootError::InitrdTooLarge { len, kernel_end: kernel.end, limit };
    let Some(start) = limit.checked_sub(len).map(|s| s & !(PAGE_SIZE - 1)).filter(|s| *s >= kernel.end) else {
        return Err(too_large);
    };
    let mut at = start;
    let end = start + len;
    while at < end {
        let read = memory.regions().read_volatile_from(GuestAddress(at), file, (end - at) as usize);
        match read.map_err(|e| BootError::ReadInitrd(std::io::Error::other(e)))? {
            0 => return Err(BootError::ReadInitrd(std::io::ErrorKind::UnexpectedEof.into())),
            n => at += n as u64,
        }
    }
    Ok(Initrd { start, len })
}

/// Writes everything that the kernel finds in memory.
pub fn write(memory: &GuestMemory, info: &BootInfo<'_>) -> Result<(), BootError> {
    let line = memory.slice(map::COMMAND_LINE, info.command_line.len() as u64 + 1)?;
    line.write(0, info.command_line.as_bytes());
    line.write(info.command_line.len(), &[0]);
    let code = reset_code();
    memory.slice(map::RESET_VECTOR, code.len() as u64)?.write(0, &code);
    match info.kernel.entry {
        Entry::Linux64(_) => {
            super::registers::write_tables(memory)?;
            write_zero_page(memory, info)
        }
        Entry::Pvh(_) => write_start_info(memory, info),
    }
}

/// Real-mode code that writes the ACPI reset register: `mov al, VALUE; mov dx, PORT; out dx, al; hlt; jmp back to hlt`.
fn reset_code() -> [u8; 9] {
    let [low, high] = map::RESET_PORT.to_le_bytes();
    [0xb0, map::RESET_VALUE, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd]
}

fn write_zero_page(memory: &GuestMemory, info: &BootInfo<'_>) -> Result<(), BootError> {
    let own_header = || setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        kernel_alignment: 0x0100_0000,
        ..Default::default()
    };
    let mut params = boot_params { hdr: info.kernel.header.unwrap_or_else(own_header), ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = map::COMMAND_LINE as u32;
    params.hdr.cmdline_size = info.command_line.len() as u32;
    if let Some(initrd) = info.initrd {
        params.hdr.ramdisk_image = initrd.start as u32;
        params.hdr.ramdisk_size = initrd.len as u32;
    }
    params.acpi_rsdp_addr = info.rsdp;
    for (to, from) in params.e820_table.iter_mut().zip(info.memory_map) {
        *to = boot_e820_entry { addr: from.range.start, size: from.range.size_bytes, r#type: from.kind as u32 };
    }
    params.e820_entries = info.memory_map.len().min(params.e820_table.len()) as u8;
    let params = BootParams::new(&params, GuestAddress(map::ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, memory.regions()).map_err(|e| BootError::Write(e.to_string()))
}

fn write_start_info(memory: &GuestMemory, info: &BootInfo<'_>) -> Result<(), BootError> {
    let modules: Vec<_> =
        info.initrd.iter().map(|i| hvm_modlist_entry { paddr: i.start, size: i.len, ..Default::default() }).collect();
    let entries: Vec<_> = info
        .memory_map
        .iter()
        .map(|e| hvm_memmap_table_entry {
            addr: e.range.start,
            size: e.range.size_bytes,
            type_: e.kind as u32,
            reserved: 0,
        })
        .collect();
    let start = hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { map::PVH_MODULES },
        cmdline_paddr: map::COMMAND_LINE,
        rsdp_paddr: info.rsdp,
        memmap_paddr: map::PVH_MEMORY_MAP,
        memmap_entries: entries.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&start, GuestAddress(map::PVH_START_INFO));
    params.set_sections(&entries, GuestAddress(map::PVH_MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(map::PVH_MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, memory.regions()).map_err(|e| BootError::Write(e.to_string()))
}
