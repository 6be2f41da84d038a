//! virtio-blk by hand-made rings (virtio 1.2, section 5.2): requests in slots, several at a time.

mod bench;
mod steady;
mod verify;

pub use bench::{Load, bench};
pub use steady::steady;
pub use verify::verify;

use alloc::string::String;

use virtio_drivers::transport::DeviceType;

use crate::dma::Buffer;
use crate::ensure;
use crate::machine::Machine;
use crate::registers::{EVENT_INDEX, Registers, VERSION_1};
use crate::ring::{Descriptor, NEXT, Ring, WRITE};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;

/// Feature: the disk is read-only.
pub const READ_ONLY: u64 = 1 << 5;
/// Feature: flush requests.
pub const FLUSH: u64 = 1 << 9;
/// Feature: discard requests.
pub const DISCARD: u64 = 1 << 13;
/// Feature: write-zeroes requests.
pub const WRITE_ZEROES: u64 = 1 << 14;

/// Request types.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Kind {
    /// Device to memory.
    Read = 0,
    /// Memory to device.
    Write = 1,
    /// Make it last.
    Flush = 4,
    /// The serial number.
    GetId = 8,
    /// Forget a range.
    Discard = 11,
    /// Zero a range.
    WriteZeroes = 13,
}

/// Status of a request that went well.
pub const OK: u8 = 0;
/// Status of a request that failed.
pub const IO_ERROR: u8 = 1;
/// Status of a request that the device does not know.
pub const UNSUPPORTED: u8 = 2;
/// What the status byte holds until the device writes it.
const PENDING: u8 = 0xff;

const HEADER_BYTES: u32 = 16;
/// Header, data, status.
const CHAIN: u16 = 3;
const SLOT_BYTES: u64 = 32;

/// A started disk with room for some requests of some size at once.
pub struct Disk {
    /// Its registers.
    pub registers: Registers,
    /// Features agreed on.
    pub features: u64,
    /// Its queue; slot `n` owns descriptors `3n` to `3n + 2`.
    pub ring: Ring,
    /// Number of slots.
    pub slots: u16,
    /// Bytes of data a slot.
    pub block: u32,
    control: Buffer,
    data: Buffer,
}

impl Disk {
    /// Resets and starts the disk, for `depth` requests of `block` bytes.
    pub fn start(machine: &mut Machine<'_>, depth: u16, block: u32) -> Result<Self, String> {
        const MOST_ENTRIES: u16 = 256;
        let registers = machine.registers(DeviceType::Block)?;
        let wanted = VERSION_1 | EVENT_INDEX | READ_ONLY | FLUSH | DISCARD | WRITE_ZEROES;
        let features = registers.begin(wanted)?;
        let ring = Ring::new(&registers, 0, MOST_ENTRIES, features)?;
        let slots = depth.min(ring.size() / CHAIN);
        ensure!(slots > 0, "A queue of {} entries is too small", ring.size());
        registers.go();
        let control = Buffer::new(usize::from(slots) * SLOT_BYTES as usize);
        let data = Buffer::new(usize::from(slots) * block as usize);
        Ok(Self { registers, features, ring, slots, block, control, data })
    }

    /// Capacity in sectors.
    pub fn sectors(&self) -> u64 {
        u64::from(self.registers.config32(0)) | u64::from(self.registers.config32(4)) << 32
    }

    /// The data of slot `slot`; the request must have come back.
    pub fn data(&self, slot: u16) -> &mut [u8] {
        let start = usize::from(slot) * self.block as usize;
        &mut self.data.bytes(start + self.block as usize)[start..]
    }

    /// Address of the header of slot `slot`; the status byte is 16 bytes on.
    fn control(&self, slot: u16) -> u64 {
        self.control.address() + u64::from(slot) * SLOT_BYTES
    }

    /// The status that slot `slot` came back with.
    pub fn status(&self, slot: u16) -> u8 {
        // SAFETY: inside the control buffer, which is never freed; the device may write it, so volatile.
        unsafe { ((self.control(slot) + 16) as *const u8).read_volatile() }
    }

    /// Writes the request of slot `slot` with `length` bytes of data and offers it. [`Ring::publish`] starts it.
    pub fn offer(&mut self, slot: u16, kind: Kind, sector: u64, length: u32) {
        let (control, first) = (self.control(slot), slot * CHAIN);
        // SAFETY: inside the control buffer, which is never freed, and the slot is not with the device.
        unsafe {
            (control as *mut [u64; 2]).write_volatile([u64::from(kind as u32), sector]);
        }
        // SAFETY: as above.
        unsafe { ((control + 16) as *mut u8).write_volatile(PENDING) };
        let data = self.data.address() + u64::from(slot) * u64::from(self.block);
        let direction = if matches!(kind, Kind::Read | Kind::GetId) { WRITE } else { 0 };
        let after_header = if length == 0 { first + 2 } else { first + 1 };
        let header = Descriptor { address: control, length: HEADER_BYTES, flags: NEXT, next: after_header };
        self.ring.describe(first, header);
        self.ring.describe(first + 1, Descriptor { address: data, length, flags: direction | NEXT, next: first + 2 });
        self.ring.describe(first + 2, Descriptor { address: control + 16, length: 1, flags: WRITE, next: 0 });
        self.ring.offer(first);
    }

    /// The slot whose request came back next, and the bytes the device says it wrote.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        self.ring.take().map(|(head, written)| (head / CHAIN, written))
    }

    /// One request from start to end in slot 0, with a deadline; returns its status.
    pub fn request(&mut self, machine: &Machine<'_>, kind: Kind, sector: u64, length: u32) -> Result<u8, String> {
        const PATIENCE_MS: u64 = 10_000;
        self.offer(0, kind, sector, length);
        self.ring.publish();
        let mut taken = None;
        let came_back = machine.clock.deadline(PATIENCE_MS).wait_for(|| {
            taken = self.take();
            taken.is_some()
        });
        ensure!(came_back, "{kind:?} of sector {sector} did not come back, device status {}", self.registers.status());
        Ok(self.status(0))
    }
}
