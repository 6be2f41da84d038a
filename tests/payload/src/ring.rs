//! A split virtqueue by hand (virtio 1.2, section 2.7): for measurements, where every store counts, and for hostile
//! tests, which need to write what a driver never would. It never asks for interrupts.

use alloc::string::String;
use core::sync::atomic::{Ordering, fence};

use crate::dma::Buffer;
use crate::ensure;
use crate::registers::{Doorbell, EVENT_INDEX, Registers, common};

/// Descriptor flag: the chain goes on.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub const INDIRECT: u16 = 4;

const DESCRIPTOR_BYTES: u64 = 16;

/// What a descriptor says.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Descriptor {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// The next one's index.
    pub next: u16,
}

/// Where the three parts of a queue are.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

impl Parts {
    /// Fresh zeroed memory for a queue of `size` entries.
    pub fn allocate(size: u16) -> Self {
        let table = u64::from(size) * DESCRIPTOR_BYTES;
        let driver = Buffer::new(table as usize + 6 + 2 * usize::from(size));
        let device = Buffer::new(6 + 8 * usize::from(size));
        Self { descriptors: driver.address(), available: driver.address() + table, used: device.address() }
    }
}

/// One queue.
pub struct Ring {
    parts: Parts,
    size: u16,
    available: u16,
    published: u16,
    seen: u16,
    event_index: bool,
    doorbell: Doorbell,
}

fn load16(address: u64) -> u16 {
    // SAFETY: callers pass addresses inside the queue's own memory, which is never freed.
    unsafe { (address as *const u16).read_volatile() }
}

fn load32(address: u64) -> u32 {
    // SAFETY: as for `load16`.
    unsafe { (address as *const u32).read_volatile() }
}

fn store16(address: u64, value: u16) {
    // SAFETY: as for `load16`.
    unsafe { (address as *mut u16).write_volatile(value) }
}

impl Ring {
    /// Sets queue `queue` up with at most `most` entries and enables it. `features` are those agreed on.
    pub fn new(registers: &Registers, queue: u16, most: u16, features: u64) -> Result<Self, String> {
        let offered = registers.queue16(queue, common::QUEUE_SIZE);
        ensure!(offered != 0, "The device has no queue {queue}");
        let size = offered.min(most);
        let parts = Parts::allocate(size);
        registers.set_queue16(queue, common::QUEUE_SIZE, size);
        registers.set_queue64(queue, common::QUEUE_DESC, parts.descriptors);
        registers.set_queue64(queue, common::QUEUE_DRIVER, parts.available);
        registers.set_queue64(queue, common::QUEUE_DEVICE, parts.used);
        registers.set_queue16(queue, common::QUEUE_ENABLE, 1);
        let doorbell = registers.doorbell(queue);
        let event_index = features & EVENT_INDEX != 0;
        let ring = Self { parts, size, available: 0, published: 0, seen: 0, event_index, doorbell };
        ring.refuse_interrupts();
        Ok(ring)
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where it lies.
    pub fn parts(&self) -> Parts {
        self.parts
    }

    fn refuse_interrupts(&self) {
        const NO_INTERRUPT: u16 = 1;
        if self.event_index {
            store16(self.parts.available + 4 + 2 * u64::from(self.size), self.seen.wrapping_sub(1));
        } else {
            store16(self.parts.available, NO_INTERRUPT);
        }
    }

    /// Asks for an interrupt at the next chain that comes back. Only without event indices.
    pub fn ask_for_interrupts(&self) {
        store16(self.parts.available, 0);
    }

    /// Writes descriptor `index` (taken modulo the size).
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        let address = self.parts.descriptors + u64::from(index % self.size) * DESCRIPTOR_BYTES;
        // SAFETY: the address is inside the descriptor table, which is never freed.
        unsafe { (address as *mut Descriptor).write_volatile(descriptor) }
    }

    /// Puts a chain's head into the available ring; the device sees it with the next [`Ring::publish`].
    pub fn offer(&mut self, head: u16) {
        store16(self.parts.available + 4 + 2 * u64::from(self.available % self.size), head);
        self.available = self.available.wrapping_add(1);
    }

    /// Shows the device what was offered and kicks if it wants to be kicked.
    pub fn publish(&mut self) {
        if self.show() {
            self.doorbell.ring();
        }
    }

    /// Shows the device what was offered; says whether it wants a kick.
    pub fn show(&mut self) -> bool {
        const NO_NOTIFY: u16 = 1;
        let before = core::mem::replace(&mut self.published, self.available);
        if before == self.available {
            return false;
        }
        fence(Ordering::Release);
        self.set_available_index(self.available);
        // The store must be seen before the event index is read (section 2.7.10).
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = load16(self.parts.used + 4 + 8 * u64::from(self.size));
            self.available.wrapping_sub(event).wrapping_sub(1) < self.available.wrapping_sub(before)
        } else {
            load16(self.parts.used) & NO_NOTIFY == 0
        }
    }

    /// Overwrites the available index.
    pub fn set_available_index(&self, index: u16) {
        store16(self.parts.available + 2, index);
    }

    /// Rings the doorbell, wanted or not.
    pub fn kick(&self) {
        self.doorbell.ring();
    }

    /// The next chain that came back: its head and the bytes written.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if load16(self.parts.used + 2) == self.seen {
            return None;
        }
        fence(Ordering::Acquire);
        let entry = self.parts.used + 4 + 8 * u64::from(self.seen % self.size);
        let taken = (load32(entry) as u16, load32(entry + 4));
        self.seen = self.seen.wrapping_add(1);
        if self.event_index {
            self.refuse_interrupts();
        }
        Some(taken)
    }
}
