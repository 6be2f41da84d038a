//! What the boot loader left: command line, memory map, ACPI root pointer; from either protocol.

use core::slice;

use payload_logic::acpi::PhysicalMemory;
use payload_logic::memory_map::Ram;

use crate::ring0::Protocol;

/// RAM and firmware tables below 4 GiB, read where they are.
pub struct LowMemory;

impl PhysicalMemory for LowMemory {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        const LONGEST: usize = 1 << 20;
        let end = address.checked_add(length as u64)?;
        if address == 0 || end > 1 << 32 || length > LONGEST {
            return None;
        }
        // SAFETY: the static page tables map the first 4 GiB one to one, and a read of any guest-physical address is
        // harmless. The loader's structures, which callers look at, lie outside image and heap and never change.
        Some(unsafe { slice::from_raw_parts(address as *const u8, length) })
    }
}

fn number(address: u64, size: usize) -> u64 {
    LowMemory
        .bytes(address, size)
        .map_or(0, |bytes| bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}

/// The structure that the loader's register pointed to.
#[derive(Clone, Copy)]
pub struct BootInfo {
    protocol: Protocol,
    address: u64,
}

impl BootInfo {
    /// Wraps what `ring3_start` was given.
    pub fn new(protocol: Protocol, address: u64) -> Self {
        Self { protocol, address }
    }

    /// The kernel command line; empty when there is none or it is no UTF-8.
    pub fn command_line(self) -> &'static str {
        const LONGEST: usize = 4096;
        let address = match self.protocol {
            Protocol::Pvh => number(self.address + 24, 8),
            Protocol::Linux => number(self.address + 0x228, 4) | (number(self.address + 0xc8, 4) << 32),
        };
        let line = LowMemory.bytes(address, LONGEST).unwrap_or_default();
        let length = line.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
        // The loader's memory is never written again, so the line may outlive this value.
        let text = str::from_utf8(line.get(..length).unwrap_or_default()).unwrap_or_default();
        // SAFETY: `LowMemory::bytes` reads memory that stays mapped and unchanged while the guest runs.
        unsafe { &*core::ptr::from_ref(text) }
    }

    /// The ACPI root pointer's address, 0 when the loader did not say.
    pub fn root_pointer(self) -> u64 {
        match self.protocol {
            Protocol::Pvh => number(self.address + 32, 8),
            Protocol::Linux => number(self.address + 0x70, 8),
        }
    }

    /// The usable pieces of the memory map.
    pub fn ram(self) -> impl Iterator<Item = Ram> {
        const USABLE: u64 = 1;
        let (table, count, step) = match self.protocol {
            Protocol::Pvh if number(self.address + 4, 4) >= 1 => {
                (number(self.address + 40, 8), number(self.address + 48, 4), 24)
            }
            Protocol::Pvh => (0, 0, 24),
            Protocol::Linux => (self.address + 0x2d0, number(self.address + 0x1e8, 1), 20),
        };
        (0..count.min(128))
            .map(move |index| table + index * step)
            .filter(|entry| number(entry + 16, 4) == USABLE)
            .map(|entry| Ram { start: number(entry, 8), end: number(entry, 8).saturating_add(number(entry + 8, 8)) })
    }
}
