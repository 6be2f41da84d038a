//! Device status, interrupts and what a failing worker leaves behind (virtio 1.3 sections 2.1, 4.1.4.5, 4.1.5.1.2).
//!
//! Shared by the transport (vCPU threads) and the workers (I/O threads): atomics only.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use crate::bus::pci::{Msix, NO_VECTOR};
use crate::virtio::device::WorkerError;
use crate::virtio::queue::Interrupt;

/// Device status bits (section 2.1).
pub const DRIVER_OK: u8 = 4;
/// The driver accepted the features.
pub const FEATURES_OK: u8 = 8;
/// The device met something that it cannot go on from.
pub const DEVICE_NEEDS_RESET: u8 = 64;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Whether the driver has to reset the device.
pub const fn needs_reset(status: u8) -> bool {
    status & DEVICE_NEEDS_RESET != 0
}

/// The device's status, its interrupt vectors, and the way to raise them.
pub struct Status {
    id: String,
    bits: AtomicU8,
    isr: AtomicU8,
    generation: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    msix: Arc<Msix>,
    failed: AtomicBool,
    listener: OnceLock<FaultListener>,
}

/// Hears of a device that failed: its id and why. Called by vCPU and I/O threads; must not block.
pub type FaultListener = Box<dyn Fn(&str, &WorkerError) + Send + Sync>;

impl Status {
    pub(super) fn new(id: &str, msix: Arc<Msix>, queues: usize) -> Self {
        Self {
            id: id.to_owned(),
            bits: AtomicU8::new(0),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            msix,
            failed: AtomicBool::new(false),
            listener: OnceLock::new(),
        }
    }

    /// Has `listener` told of failures. The first one stays.
    pub(super) fn listen(&self, listener: FaultListener) {
        let _ = self.listener.set(listener);
    }

    pub(super) fn get(&self) -> u8 {
        self.bits.load(SeqCst)
    }

    /// The driver's write: it cannot clear `DEVICE_NEEDS_RESET` but by a reset.
    pub(super) fn set(&self, status: u8) {
        let keep = self.get() & DEVICE_NEEDS_RESET;
        self.bits.store(status & !DEVICE_NEEDS_RESET | keep, SeqCst);
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(SeqCst)
    }

    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, SeqCst)
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(SeqCst)
    }

    /// Section 4.1.5.1.2: a vector that does not exist reads back as `NO_VECTOR`.
    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.valid(vector), SeqCst);
    }

    pub(super) fn queue_vector(&self, queue: usize) -> u16 {
        self.queue_vectors.get(queue).map_or(NO_VECTOR, |v| v.load(SeqCst))
    }

    pub(super) fn set_queue_vector(&self, queue: usize, vector: u16) {
        if let Some(place) = self.queue_vectors.get(queue) {
            place.store(self.valid(vector), SeqCst);
        }
    }

    fn valid(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    /// A worker or the activation failed: section 2.1.2, the driver is told to reset the device.
    pub(super) fn fail(&self, error: &WorkerError) {
        self.bits.fetch_or(DEVICE_NEEDS_RESET, SeqCst);
        // A guest can break its device again and again; one line for each turn from whole to broken is enough.
        if !self.failed.swap(true, SeqCst) {
            match error {
                WorkerError::Guest(fault) => log::warn!("{}: The guest broke the device: {fault}", self.id),
                WorkerError::Host(host) => log::error!("{}: {host}: {}", self.id, host.source),
            }
            if let Some(listener) = self.listener.get() {
                listener(&self.id, error);
            }
        }
        if self.get() & DRIVER_OK != 0 {
            self.signal_config();
        }
    }

    pub(super) fn reset(&self) {
        self.bits.store(0, SeqCst);
        self.isr.store(0, SeqCst);
        self.config_vector.store(NO_VECTOR, SeqCst);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, SeqCst);
        }
    }

    fn signal(&self, vector: u16, isr: u8) {
        if vector == NO_VECTOR {
            self.isr.fetch_or(isr, SeqCst);
        } else {
            self.msix.signal(vector);
        }
    }
}

impl Interrupt for Status {
    fn signal_queue(&self, queue: u16) {
        self.signal(self.queue_vector(usize::from(queue)), ISR_QUEUE);
    }

    fn signal_config(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.signal(self.config_vector(), ISR_CONFIG);
    }
}
