//! One fake guest for device tests, fuzz targets and benches: it lays rings in memory, kicks, and looks.
//!
//! It is the driver's side of virtio 1.3 section 2.7, and may break every rule of it on purpose. Compiled always, so that
//! fuzz targets and benches outside of this crate can use it; no product code does.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::arithmetic_side_effects)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Activation, Device, Worker, WorkerError};
use super::queue::{Interrupt, Queue, QueueLayout, QueueWiring};
use crate::memory::{Backing, GuestMemory};

/// Bytes of the fake guest's memory.
pub const MEMORY_SIZE: u64 = 4 << 20;
/// Where buffers may be put: below lie the rings.
pub const BUFFERS: u64 = 1 << 20;

/// Counts interrupts instead of delivering them.
#[derive(Debug, Default)]
pub struct CountingInterrupt {
    queues: AtomicU64,
    configs: AtomicU64,
}

impl CountingInterrupt {
    /// Queue interrupts so far.
    pub fn queue_count(&self) -> u64 {
        self.queues.load(Ordering::SeqCst)
    }

    /// Configuration interrupts so far.
    pub fn config_count(&self) -> u64 {
        self.configs.load(Ordering::SeqCst)
    }
}

impl Interrupt for CountingInterrupt {
    fn signal_queue(&self, _queue: u16) {
        self.queues.fetch_add(1, Ordering::SeqCst);
    }

    fn signal_config(&self) {
        self.configs.fetch_add(1, Ordering::SeqCst);
    }
}

/// A descriptor as the fake driver writes it.
#[derive(Clone, Copy, Debug)]
pub struct FakeDescriptor {
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// `VRING_DESC_F_*`.
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

/// The driver's side of one queue.
pub struct FakeQueue {
    memory: GuestMemory,
    layout: QueueLayout,
    kick: Arc<EventFd>,
    next_descriptor: u16,
    avail_index: u16,
    used_seen: u16,
}

impl FakeQueue {
    /// Writes descriptor `index` as it is.
    pub fn write_descriptor(&self, index: u16, d: FakeDescriptor) {
        let at = self.layout.descriptors + u64::from(index % self.layout.size) * 16;
        let low = u64::from(d.len) | u64::from(d.flags) << 32 | u64::from(d.next) << 48;
        let slot = self.memory.slice(at, 16).unwrap();
        slot.write_obj(0, &d.address.to_le()).unwrap();
        slot.write_obj(8, &low.to_le()).unwrap();
    }

    /// Makes the chain that starts at `head` available, without a kick.
    pub fn offer(&mut self, head: u16) {
        let ring = self.memory.slice(self.layout.available, 6 + u64::from(self.layout.size) * 2).unwrap();
        let slot = usize::from(self.avail_index % self.layout.size);
        ring.store_u16(4 + slot * 2, head, Ordering::SeqCst).unwrap();
        self.avail_index = self.avail_index.wrapping_add(1);
        ring.store_u16(2, self.avail_index, Ordering::SeqCst).unwrap();
    }

    /// Writes any available index, honest or not.
    pub fn set_avail_index(&mut self, index: u16) {
        self.avail_index = index;
        let ring = self.memory.slice(self.layout.available, 4).unwrap();
        ring.store_u16(2, index, Ordering::SeqCst).unwrap();
    }

    /// Lays a well-formed chain of (address, length, device-writable) buffers, offers it and returns its head.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_descriptor % self.layout.size;
        for (i, &(address, len, writable)) in buffers.iter().enumerate() {
            let index = self.next_descriptor % self.layout.size;
            self.next_descriptor = self.next_descriptor.wrapping_add(1);
            let more = i + 1 < buffers.len();
            let mut flags = if writable { VRING_DESC_F_WRITE as u16 } else { 0 };
            if more {
                flags |= VRING_DESC_F_NEXT as u16;
            }
            let next = self.next_descriptor % self.layout.size;
            self.write_descriptor(index, FakeDescriptor { address, len, flags, next });
        }
        self.offer(head);
        head
    }

    /// Kicks the device.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// The next used element as (head, written bytes), if there is one.
    pub fn used(&mut self) -> Option<(u32, u32)> {
        let ring = self.memory.slice(self.layout.used, 6 + u64::from(self.layout.size) * 8).unwrap();
        if ring.load_u16(2, Ordering::SeqCst).unwrap() == self.used_seen {
            return None;
        }
        let slot = usize::from(self.used_seen % self.layout.size);
        self.used_seen = self.used_seen.wrapping_add(1);
        let element = u64::from_le(ring.read_obj(4 + slot * 8).unwrap());
        Some((element as u32, (element >> 32) as u32))
    }

    /// Whether the device asks for no kicks (only without `EVENT_IDX`).
    pub fn kicks_unwanted(&self) -> bool {
        self.memory.slice(self.layout.used, 2).unwrap().load_u16(0, Ordering::SeqCst).unwrap() == 1
    }
}

/// Guest memory, one fake driver queue for each device queue, and the interrupts that were raised.
pub struct FakeGuest {
    /// The guest's RAM.
    pub memory: GuestMemory,
    /// The driver's side of each queue.
    pub queues: Vec<FakeQueue>,
    /// What the device raised.
    pub interrupt: Arc<CountingInterrupt>,
}

impl Default for FakeGuest {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeGuest {
    /// A guest with fresh memory and no queues.
    pub fn new() -> Self {
        let memory = GuestMemory::map(&[(0, MEMORY_SIZE)], Backing::default()).unwrap();
        Self::with_memory(memory)
    }

    /// A guest on memory that is used again and again (fuzzing: guest memory is never unmapped).
    pub fn with_memory(memory: GuestMemory) -> Self {
        memory.slice(0, BUFFERS).unwrap().zero();
        Self { memory, queues: Vec::new(), interrupt: Arc::default() }
    }

    /// Adds a queue of `size` entries; returns the device's side of it.
    pub fn add_queue(&mut self, size: u16, event_idx: bool) -> Queue {
        let index = self.queues.len() as u16;
        let base = u64::from(index) * 0x10000;
        let layout = QueueLayout { size, descriptors: base, available: base + 0x8000, used: base + 0xc000 };
        let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let driver_kick = kick.clone();
        let wiring = QueueWiring { index, kick, interrupt: self.interrupt.clone(), event_idx };
        let queue = Queue::new(self.memory, layout, wiring).unwrap();
        let memory = self.memory;
        self.queues.push(FakeQueue {
            memory,
            layout,
            kick: driver_kick,
            next_descriptor: 0,
            avail_index: 0,
            used_seen: 0,
        });
        queue
    }

    /// Makes a queue (at most 256 entries) for each of the device's and activates it with `features`.
    pub fn activate(&mut self, device: &mut dyn Device, features: u64) -> Result<Vec<Box<dyn Worker>>, WorkerError> {
        let sizes = device.queue_sizes();
        let queues = sizes.iter().map(|&size| Some(self.add_queue(size.min(256), false))).collect();
        device.activate(Activation { memory: self.memory, queues, interrupt: self.interrupt.clone(), features })
    }

    /// Writes bytes to guest memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        assert_eq!(self.memory.slice(address, bytes.len() as u64).unwrap().write(0, bytes), bytes.len());
    }

    /// Reads bytes from guest memory.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.slice(address, len as u64).unwrap().read(0, &mut bytes);
        bytes
    }
}
