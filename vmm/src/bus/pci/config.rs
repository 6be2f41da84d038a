//! The 256 bytes of a function's configuration space, as data: a value and a write mask for each byte (PCI 3.0 section 6.1).
//!
//! BAR sizing needs no code: the address bits below a BAR's size are read-only zeros, so writing all ones reads back as
//! the size mask (section 6.2.5.1).

use super::BarWindow;

const SIZE: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES_POINTER: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

/// Command register bit: the function answers memory accesses (section 6.2.2).
const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register bits that a driver may change: I/O, memory, bus master, `INTx` disable.
const COMMAND_WRITABLE: u16 = 0x0407;
/// Status register bit: there is a capability list (section 6.2.3).
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function says it is (section 6.2.1).
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Base class, sub class, programming interface.
    pub class: [u8; 3],
    /// Revision ID.
    pub revision: u8,
}

/// Whether a BAR takes 32-bit or 64-bit addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Below 4 GiB.
    Memory32,
    /// Anywhere; takes two BAR registers.
    Memory64,
}

#[derive(Clone, Copy, Debug)]
struct Bar {
    index: u8,
    kind: BarKind,
    len: u64,
    initial: u64,
}

/// A function's configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    bars: Vec<Bar>,
    next_capability: usize,
    last_capability: Option<usize>,
}

impl ConfigSpace {
    /// A type 0 header without BARs and capabilities, memory decoding on.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bars: Vec::new(),
            next_capability: FIRST_CAPABILITY,
            last_capability: None,
        };
        let Identity { vendor, device, subsystem_vendor, subsystem, class, revision } = identity;
        space.set(0x00, &vendor.to_le_bytes());
        space.set(0x02, &device.to_le_bytes());
        space.set(0x08, &[revision, class[2], class[1], class[0]]);
        space.set(0x2c, &subsystem_vendor.to_le_bytes());
        space.set(0x2e, &subsystem.to_le_bytes());
        space.set(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        // Interrupt line: a scratch register for firmware; the interrupt pin stays 0, no `INTx` (section 6.2.4).
        space.allow(0x3c, &[0xff]);
        space
    }

    /// Puts bytes at a place that the device model chose; outside of the space nothing happens.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(offset).zip(bytes) {
            *to = *from;
        }
    }

    /// Lets the guest change the bits of `mask` at `offset`.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (to, from) in self.writable.iter_mut().skip(offset).zip(mask) {
            *to |= *from;
        }
    }

    /// Adds a memory BAR of `len` bytes (a power of two, at least 16) at `address`.
    pub fn add_bar(&mut self, index: u8, kind: BarKind, len: u64, address: u64) {
        debug_assert!(len.is_power_of_two() && len >= 16);
        let register = BAR0 + usize::from(index) * 4;
        let mask = !(len - 1);
        let flags: u64 = if kind == BarKind::Memory64 { 0b100 } else { 0 };
        let width = if kind == BarKind::Memory64 { 8 } else { 4 };
        self.set(register, (address & mask | flags).to_le_bytes().get(..width).unwrap_or_default());
        self.allow(register, mask.to_le_bytes().get(..width).unwrap_or_default());
        self.bars.push(Bar { index, kind, len, initial: address & mask | flags });
    }

    /// Appends a capability (section 6.7): `body` is what follows the ID and the next pointer. Returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.next_capability;
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        if let Some(last) = self.last_capability {
            self.set(last + 1, &[at as u8]);
        } else {
            self.set(CAPABILITIES_POINTER, &[at as u8]);
            self.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        }
        self.last_capability = Some(at);
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        debug_assert!(self.next_capability <= SIZE);
        at
    }

    /// Reads; beyond the space everything is zero (there are no extended capabilities).
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(usize::from(offset).saturating_add(i)).copied().unwrap_or(0);
        }
    }

    /// Writes the bits that may be written.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let start = usize::from(offset);
        for ((byte, mask), new) in self.bytes.iter_mut().zip(&self.writable).skip(start).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Two bytes at `offset`, zero outside.
    pub fn u16_at(&self, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Four bytes at `offset`, zero outside.
    pub fn u32_at(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The BARs that the guest can reach now: none while memory decoding is off.
    pub fn windows(&self) -> Vec<BarWindow> {
        if self.u16_at(COMMAND as u16) & COMMAND_MEMORY == 0 {
            return Vec::new();
        }
        self.bars
            .iter()
            .map(|bar| {
                let register = (BAR0 + usize::from(bar.index) * 4) as u16;
                let low = u64::from(self.u32_at(register) & !0xf);
                let high = if bar.kind == BarKind::Memory64 { u64::from(self.u32_at(register + 4)) } else { 0 };
                BarWindow { bar: bar.index, address: high << 32 | low, len: bar.len }
            })
            .collect()
    }

    /// Back to what it was at power-on: BARs where they were put first, memory decoding on.
    pub fn reset(&mut self) {
        for (byte, mask) in self.bytes.iter_mut().zip(&self.writable) {
            *byte &= !mask;
        }
        self.set(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        for Bar { index, kind, initial, .. } in self.bars.clone() {
            let width = if kind == BarKind::Memory64 { 8 } else { 4 };
            let register = BAR0 + usize::from(index) * 4;
            self.set(register, initial.to_le_bytes().get(..width).unwrap_or_default());
        }
    }
}
