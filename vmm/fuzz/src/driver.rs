//! A hostile driver: operations on the rings, the configuration and the life of a device on the fake guest.

use std::sync::OnceLock;

use quantix_vmm::memory::{Backing, GuestMemory};
use quantix_vmm::virtio::testing::{BUFFERS, FakeDescriptor, FakeGuest, FakeQueue};
use quantix_vmm::virtio::{Activation, Device, Worker, WorkerError};
use serde::{Deserialize, Serialize};

/// Bytes of guest memory: the rings, and little behind them, since all of it is cleared for each input.
pub const MEMORY_BYTES: u64 = BUFFERS + BUFFER_BYTES;
/// Bytes of guest memory for buffers.
pub const BUFFER_BYTES: u64 = 256 << 10;

/// Largest queue in entries.
const MAX_QUEUE: u16 = 256;

/// One buffer of a well-formed chain.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Buffer {
    /// Offset from the start of the buffer area in bytes, or anywhere.
    pub at: u32,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device may write it.
    pub writable: bool,
}

/// What a driver does to the rings of one queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RingOp {
    /// Lays a chain as the rules want it, and offers it.
    Chain(Vec<Buffer>),
    /// Writes one descriptor.
    Descriptor {
        /// Index in the table.
        index: u16,
        /// Guest-physical address.
        address: u64,
        /// Length in bytes.
        len: u32,
        /// `VRING_DESC_F_*`.
        flags: u16,
        /// Index of the next one.
        next: u16,
    },
    /// Makes the descriptor of this index available.
    Offer(u16),
    /// Sets the available index.
    AvailIndex(u16),
}

/// What a hostile driver, or the other side of the device's back end, does next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum DriverOp {
    /// Something to the rings.
    Ring {
        /// Which queue's; modulo their number.
        queue: u8,
        /// What.
        op: RingOp,
    },
    /// Writes memory, rings included.
    Memory {
        /// Guest-physical address; modulo the size of memory.
        at: u32,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// A source of a worker fires.
    Event(u8),
    /// A turn of polling of a worker.
    Poll(u8),
    /// Everything is paused and goes on.
    Pause,
    /// The driver resets the device and sets it up again.
    Reset {
        /// Features that it accepts, of those offered.
        features: u64,
        /// Queues that it enables, as bits.
        queues: u16,
        /// Whether it accepts `EVENT_IDX`.
        event_idx: bool,
    },
    /// Reads the configuration.
    ReadConfig {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u8,
    },
    /// Writes the configuration.
    WriteConfig {
        /// Offset in bytes.
        offset: u64,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// The host's side of the back end sends something; the target knows what.
    Host(Vec<u8>),
}

/// The one guest memory of the process: guest memory is never unmapped, so a fresh one for each input would fill the host's.
pub fn memory() -> GuestMemory {
    static MEMORY: OnceLock<GuestMemory> = OnceLock::new();
    *MEMORY
        .get_or_init(|| GuestMemory::map(&[(0, MEMORY_BYTES)], Backing::default()).expect("memory for a fuzz target"))
}

/// A device in the hands of a hostile driver.
struct Bench<'a> {
    device: &'a mut dyn Device,
    guest: FakeGuest,
    workers: Vec<Box<dyn Worker>>,
}

/// Plays `ops` against `device`. `host` plays the other side of the back end.
pub fn drive(device: &mut dyn Device, ops: impl IntoIterator<Item = DriverOp>, mut host: impl FnMut(&[u8])) {
    let mut guest = FakeGuest::with_memory(memory());
    guest.memory.slice(BUFFERS, BUFFER_BYTES).expect("the buffer area").zero();
    // Rings even before the first set-up, so that every operation finds a queue.
    device.queue_sizes().iter().for_each(|&size| drop(guest.add_queue(size.min(MAX_QUEUE), false)));
    let mut bench = Bench { device, guest, workers: Vec::new() };
    bench.set_up(u64::MAX, u16::MAX, false);
    for op in ops {
        match op {
            DriverOp::Host(bytes) => host(&bytes),
            op => bench.play(op),
        }
    }
}

impl Bench<'_> {
    fn set_up(&mut self, features: u64, enabled: u16, event_idx: bool) {
        self.workers.clear();
        self.device.reset();
        self.guest.queues.clear();
        let sizes = self.device.queue_sizes();
        let queues = sizes.iter().enumerate().map(|(i, &size)| {
            let queue = self.guest.add_queue(size.min(MAX_QUEUE), event_idx);
            Some(queue).filter(|_| enabled & 1 << (i % 16) != 0)
        });
        let queues = queues.collect();
        let (memory, interrupt) = (self.guest.memory, self.guest.interrupt.clone());
        let features = features & self.device.features();
        match self.device.activate(Activation { memory, queues, interrupt, features }) {
            Ok(workers) => self.workers = workers,
            Err(error) => self.stop(error),
        }
    }

    /// What the transport does when a worker fails: nothing runs until the driver resets the device.
    fn stop(&mut self, error: WorkerError) {
        self.workers.clear();
        if let WorkerError::Host(error) = error {
            panic!("the guest made the host fail: {error}: {:?}", error.source);
        }
    }

    fn play(&mut self, op: DriverOp) {
        match op {
            DriverOp::Event(source) => self.fire(usize::from(source)),
            DriverOp::Poll(worker) => self.poll(usize::from(worker)),
            DriverOp::Pause => {
                let paused: Result<(), _> = self.workers.iter_mut().try_for_each(|w| w.quiesce());
                let resumed = paused.and_then(|()| self.workers.iter_mut().try_for_each(|w| w.resume()));
                resumed.unwrap_or_else(|error| self.stop(error));
            }
            DriverOp::Reset { features, queues, event_idx } => self.set_up(features, queues, event_idx),
            DriverOp::ReadConfig { offset, len } => self.device.read_config(offset, &mut vec![0xa5; usize::from(len)]),
            DriverOp::WriteConfig { offset, bytes } => self.device.write_config(offset, &bytes),
            DriverOp::Memory { at, bytes } => {
                let at = u64::from(at) % MEMORY_BYTES;
                let room = (MEMORY_BYTES - at) as usize;
                self.guest.write(at, &bytes[..bytes.len().min(room)]);
            }
            DriverOp::Ring { queue, op } => {
                let count = self.guest.queues.len().max(1);
                if let Some(queue) = self.guest.queues.get_mut(usize::from(queue) % count) {
                    play_ring(queue, op);
                }
            }
            DriverOp::Host(_) => {}
        }
    }

    fn fire(&mut self, source: usize) {
        let tokens = self.workers.iter().enumerate();
        let tokens: Vec<_> = tokens.flat_map(|(i, w)| w.sources().into_iter().map(move |s| (i, s.token))).collect();
        let Some(&(index, token)) = tokens.get(source % tokens.len().max(1)) else { return };
        let Some(worker) = self.workers.get_mut(index) else { return };
        let result = worker.on_event(token);
        worker.sources_changed();
        result.unwrap_or_else(|error| self.stop(error));
    }

    fn poll(&mut self, worker: usize) {
        let count = self.workers.len().max(1);
        let Some(worker) = self.workers.get_mut(worker % count) else { return };
        let polled = worker.start_polling().and_then(|()| worker.poll()).and_then(|_| worker.stop_polling());
        if let Err(error) = polled {
            self.stop(error);
        }
    }
}

fn play_ring(queue: &mut FakeQueue, op: RingOp) {
    match op {
        RingOp::Chain(buffers) if buffers.is_empty() => {}
        RingOp::Chain(buffers) => {
            let buffers = buffers.iter().map(|b| (BUFFERS + u64::from(b.at), b.len, b.writable));
            queue.add(&buffers.collect::<Vec<_>>());
        }
        RingOp::Descriptor { index, address, len, flags, next } => {
            queue.write_descriptor(index, FakeDescriptor { address, len, flags, next });
        }
        RingOp::Offer(head) => queue.offer(head),
        RingOp::AvailIndex(index) => queue.set_avail_index(index),
    }
}
