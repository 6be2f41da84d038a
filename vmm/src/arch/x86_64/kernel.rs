//! Loads a kernel image into guest memory and finds its entry point: ELF with a PVH note, ELF by the 64-bit protocol,
//! or bzImage.
//!
//! Images are untrusted bytes: what is wrong with one is told in one line.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{KernelLoader as _, bzimage::BzImage};
use vm_memory::GuestAddress;

use crate::board::map;
use crate::memory::GuestMemory;

/// Bit of `xloadflags`: the image has a 64-bit entry point at 0x200 (boot protocol 2.12).
const XLF_KERNEL_64: u16 = 1;
/// Offset of the 64-bit entry point from the start of a bzImage's protected-mode part.
const BZIMAGE_ENTRY_64: u64 = 0x200;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const EM_X86_64: u16 = 62;

/// Where and how the boot vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In long mode, by the 64-bit Linux boot protocol.
    Linux64(u64),
    /// In 32-bit protected mode, by PVH.
    Pvh(u64),
}

impl Entry {
    /// Guest-physical address of the first instruction.
    pub fn address(self) -> u64 {
        match self {
            Self::Linux64(address) | Self::Pvh(address) => address,
        }
    }
}

/// Which boot protocol to use for an ELF image that offers both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// PVH when the image has its note: fewest instructions before the kernel proper.
    #[default]
    Auto,
    /// The 64-bit Linux boot protocol.
    Linux64,
}

/// Why an image cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file could not be read.
    #[error("The kernel image cannot be read")]
    Read(#[source] std::io::Error),
    /// Neither ELF nor bzImage.
    #[error("The file is neither an ELF kernel (vmlinux) nor a bzImage (vmlinuz)")]
    UnknownFormat,
    /// An ELF file for another processor.
    #[error("The ELF kernel is for another machine (e_machine {machine}, class {class}); an x86-64 one is needed")]
    WrongMachine {
        /// `e_machine`.
        machine: u16,
        /// 1 for 32-bit, 2 for 64-bit.
        class: u8,
    },
    /// A bzImage without a 64-bit entry point.
    #[error("The bzImage has no 64-bit entry point (boot protocol {version:#x}); Linux 3.8 or newer is needed")]
    No64BitEntry {
        /// Boot protocol version.
        version: u16,
    },
    /// The image is cut off or its headers contradict each other, or it does not fit into memory.
    #[error("The kernel image is truncated, corrupt, or larger than the guest's memory")]
    Load(#[source] linux_loader::loader::Error),
}

/// A loaded kernel.
#[derive(Debug)]
pub struct Loaded {
    /// Where to start.
    pub entry: Entry,
    /// The set-up header of a bzImage.
    pub header: Option<setup_header>,
    /// First address behind the image.
    pub end: u64,
}

/// Loads `image` into `memory`.
pub fn load(memory: &GuestMemory, image: &mut File, protocol: Protocol) -> Result<Loaded, KernelError> {
    let mut head = [0; 20];
    image.seek(SeekFrom::Start(0)).map_err(KernelError::Read)?;
    let read = read_up_to(image, &mut head).map_err(KernelError::Read)?;
    if read == head.len() && head.starts_with(&ELF_MAGIC) {
        let [.., m0, m1] = head;
        let machine = u16::from_le_bytes([m0, m1]);
        let class = head[4];
        if machine != EM_X86_64 || class != 2 {
            return Err(KernelError::WrongMachine { machine, class });
        }
        return load_elf(memory, image, protocol);
    }
    load_bzimage(memory, image)
}

fn read_up_to(image: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|r| !r.is_empty()) {
        match image.read(rest)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn load_elf(memory: &GuestMemory, image: &mut File, protocol: Protocol) -> Result<Loaded, KernelError> {
    image.seek(SeekFrom::Start(0)).map_err(KernelError::Read)?;
    let loaded = Elf::load(memory.regions(), None, image, Some(GuestAddress(map::HIGH_LOAD)));
    let loaded = loaded.map_err(KernelError::Load)?;
    let entry = match (loaded.pvh_boot_cap, protocol) {
        (PvhBootCapability::PvhEntryPresent(address), Protocol::Auto) => Entry::Pvh(address.0),
        _ => Entry::Linux64(loaded.kernel_load.0),
    };
    Ok(Loaded { entry, header: None, end: loaded.kernel_end })
}

fn load_bzimage(memory: &GuestMemory, image: &mut File) -> Result<Loaded, KernelError> {
    use linux_loader::loader::Error::Bzimage;
    use linux_loader::loader::bzimage::Error::{InvalidBzImage, ReadBzImageHeader, SeekBzImageHeader};
    let loaded = BzImage::load(memory.regions(), None, image, Some(GuestAddress(map::HIGH_LOAD)));
    let loaded = loaded.map_err(|error| match error {
        Bzimage(InvalidBzImage | ReadBzImageHeader | SeekBzImageHeader) => KernelError::UnknownFormat,
        other => KernelError::Load(other),
    })?;
    let header = loaded.setup_header.ok_or(KernelError::UnknownFormat)?;
    if header.version < 0x20c || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::No64BitEntry { version: header.version });
    }
    let entry = Entry::Linux64(loaded.kernel_load.0.saturating_add(BZIMAGE_ENTRY_64));
    Ok(Loaded { entry, header: Some(header), end: loaded.kernel_end })
}
