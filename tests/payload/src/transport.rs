//! The driver crate's PCI transport with two things mended: a kick is one access instead of three, and features that
//! the crate's queues handle badly can be kept from it.

use core::fmt::Debug;

use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::registers::Doorbell;

const MOST_QUEUES: usize = 4;
/// The crate compares event indices without regard to their wrap-around, and may then forget to kick.
const EVENT_INDEX: u64 = 1 << 29;

/// A transport whose doorbells are known.
#[derive(Debug)]
pub struct Kicking {
    inner: PciTransport,
    doorbells: [Option<Doorbell>; MOST_QUEUES],
}

impl Kicking {
    /// Wraps the crate's transport; queues without a doorbell here are kicked the slow way.
    pub fn new(inner: PciTransport, doorbells: [Option<Doorbell>; MOST_QUEUES]) -> Self {
        Self { inner, doorbells }
    }
}

impl Transport for Kicking {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features() & !EVENT_INDEX
    }

    fn write_driver_features(&mut self, features: u64) {
        self.inner.write_driver_features(features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        match self.doorbells.get(usize::from(queue)) {
            Some(Some(doorbell)) => doorbell.ring(),
            _ => self.inner.notify(queue),
        }
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
    }

    fn set_guest_page_size(&mut self, size: u32) {
        self.inner.set_guest_page_size(size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.inner.queue_set(queue, size, descriptors, driver, device);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<(), Error> {
        self.inner.write_config_space(offset, value)
    }
}
