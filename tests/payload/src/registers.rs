//! A virtio-pci function's registers by address, for what the driver crate does not offer: cheap doorbells, hand-made
//! rings, wrong values on purpose (virtio 1.2, section 4.1.4).

use alloc::string::String;

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

use crate::pci::ConfigSpace;
use crate::{ensure, mmio, paging};

/// Feature bits of the transport.
pub const INDIRECT: u64 = 1 << 28;
/// `used_event` and `avail_event` are in use.
pub const EVENT_INDEX: u64 = 1 << 29;
/// Not a legacy device.
pub const VERSION_1: u64 = 1 << 32;

/// Bits of the device status.
pub mod status {
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are settled.
    pub const FEATURES_OK: u8 = 8;
    /// The device gave up until its next reset.
    pub const NEEDS_RESET: u8 = 64;
}

/// Offsets in the common configuration.
pub mod common {
    /// Selects the half of the device's features, 32 bits.
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    /// The selected half, 32 bits.
    pub const DEVICE_FEATURE: u64 = 0x04;
    /// Selects the half of the driver's features, 32 bits.
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    /// The selected half, 32 bits.
    pub const DRIVER_FEATURE: u64 = 0x0c;
    /// Number of queues, 16 bits.
    pub const NUM_QUEUES: u64 = 0x12;
    /// Device status, 8 bits.
    pub const DEVICE_STATUS: u64 = 0x14;
    /// Selects a queue, 16 bits.
    pub const QUEUE_SELECT: u64 = 0x16;
    /// Its size, 16 bits.
    pub const QUEUE_SIZE: u64 = 0x18;
    /// Its MSI-X vector, 16 bits.
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    /// Whether it is enabled, 16 bits.
    pub const QUEUE_ENABLE: u64 = 0x1c;
    /// Its doorbell's index, 16 bits.
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    /// Its descriptor table, 64 bits.
    pub const QUEUE_DESC: u64 = 0x20;
    /// Its available ring, 64 bits.
    pub const QUEUE_DRIVER: u64 = 0x28;
    /// Its used ring, 64 bits.
    pub const QUEUE_DEVICE: u64 = 0x30;
    /// Length of the structure in bytes.
    pub const LENGTH: u64 = 0x38;
}

/// A structure inside a BAR.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// First address.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
}

/// The MSI-X table of a function.
#[derive(Clone, Copy, Debug)]
pub struct Msix {
    /// Offset of the capability in configuration space.
    pub capability: u8,
    /// Address of the table.
    pub table: u64,
    /// Number of its entries.
    pub entries: u64,
}

/// Everything at fixed addresses.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// Common configuration.
    pub common: Place,
    /// Doorbells.
    pub notify: Place,
    notify_multiplier: u64,
    /// The device's own configuration.
    pub config: Place,
    /// MSI-X, if the function has it.
    pub msix: Option<Msix>,
}

/// A queue's doorbell.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    address: u64,
    queue: u16,
}

impl Doorbell {
    /// Tells the device to look at the queue.
    pub fn ring(self) {
        mmio::write16(self.address, self.queue);
    }
}

fn bar_address(config: &ConfigSpace, function: DeviceFunction, bar: u32) -> u64 {
    let offset = 0x10 + 4 * (bar as u8 % 6);
    let low = config.read_word(function, offset);
    let high = if low & 4 != 0 { config.read_word(function, offset + 4) } else { 0 };
    u64::from(high) << 32 | u64::from(low & !0xf)
}

impl Registers {
    /// Reads the capabilities; `None` if the function has no modern interface.
    pub fn find(config: &ConfigSpace, function: DeviceFunction) -> Option<Self> {
        const VENDOR: u32 = 0x09;
        const MSIX: u32 = 0x11;
        const COMMON: u32 = 1;
        const NOTIFY: u32 = 2;
        const DEVICE: u32 = 4;
        let (mut common, mut notify, mut device, mut msix) = (None, None, Place::default(), None);
        let mut multiplier = 0;
        let mut offset = config.read_word(function, 0x34) as u8 & !3;
        for _ in 0..48 {
            if offset == 0 {
                break;
            }
            let head = config.read_word(function, offset);
            let word = |index: u8| config.read_word(function, offset.wrapping_add(4 * index));
            match (head & 0xff, head >> 24) {
                (VENDOR, kind @ (COMMON | NOTIFY | DEVICE)) => {
                    let address = bar_address(config, function, word(1) & 0xff) + u64::from(word(2));
                    let place = Place { address, length: u64::from(word(3)) };
                    paging::map(place.address, place.length);
                    match kind {
                        COMMON => common = Some(place),
                        DEVICE => device = place,
                        _ => (notify, multiplier) = (Some(place), u64::from(word(4))),
                    }
                }
                (MSIX, _) => {
                    let (place, entries) = (word(1), u64::from(head >> 16 & 0x7ff) + 1);
                    let table = bar_address(config, function, place & 7) + u64::from(place & !7);
                    paging::map(table, entries * 16);
                    msix = Some(Msix { capability: offset, table, entries });
                }
                _ => {}
            }
            offset = (head >> 8) as u8 & !3;
        }
        Some(Self { common: common?, notify: notify?, notify_multiplier: multiplier, config: device, msix })
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        mmio::read8(self.common.address + common::DEVICE_STATUS)
    }

    /// Sets the device status; 0 resets.
    pub fn set_status(&self, status: u8) {
        mmio::write8(self.common.address + common::DEVICE_STATUS, status);
    }

    /// Resets the device and waits for the reset's end; false if it does not come within 100,000 reads.
    pub fn reset(&self) -> bool {
        self.set_status(0);
        (0..100_000).any(|_| self.status() == 0)
    }

    /// Begins initialisation: takes those of the `wanted` features that are offered, and returns them.
    pub fn begin(&self, wanted: u64) -> Result<u64, String> {
        ensure!(self.reset(), "The device did not finish its reset");
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = self.device_features() & wanted;
        ensure!(features & VERSION_1 == wanted & VERSION_1, "The device does not offer VERSION_1");
        self.set_driver_features(features);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        ensure!(self.status() & status::FEATURES_OK != 0, "The device refused the features {features:#x}");
        Ok(features)
    }

    /// Ends initialisation: queues are set up, the device may work.
    pub fn go(&self) {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK);
    }

    /// The features that the device offers.
    pub fn device_features(&self) -> u64 {
        let half = |select| {
            mmio::write32(self.common.address + common::DEVICE_FEATURE_SELECT, select);
            u64::from(mmio::read32(self.common.address + common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    /// Tells which features the driver takes.
    pub fn set_driver_features(&self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            mmio::write32(self.common.address + common::DRIVER_FEATURE_SELECT, select);
            mmio::write32(self.common.address + common::DRIVER_FEATURE, half);
        }
    }

    /// Reads a 16-bit register of queue `queue`.
    pub fn queue16(&self, queue: u16, offset: u64) -> u16 {
        mmio::write16(self.common.address + common::QUEUE_SELECT, queue);
        mmio::read16(self.common.address + offset)
    }

    /// Writes a 16-bit register of queue `queue`.
    pub fn set_queue16(&self, queue: u16, offset: u64, value: u16) {
        mmio::write16(self.common.address + common::QUEUE_SELECT, queue);
        mmio::write16(self.common.address + offset, value);
    }

    /// Writes a 64-bit address of queue `queue`, as two halves.
    pub fn set_queue64(&self, queue: u16, offset: u64, value: u64) {
        mmio::write16(self.common.address + common::QUEUE_SELECT, queue);
        mmio::write32(self.common.address + offset, value as u32);
        mmio::write32(self.common.address + offset + 4, (value >> 32) as u32);
    }

    /// The doorbell of queue `queue`.
    pub fn doorbell(&self, queue: u16) -> Doorbell {
        let index = u64::from(self.queue16(queue, common::QUEUE_NOTIFY_OFF));
        Doorbell { address: self.notify.address + index * self.notify_multiplier, queue }
    }

    /// Reads a 32-bit field of the device's own configuration.
    pub fn config32(&self, offset: u64) -> u32 {
        mmio::read32(self.config.address + offset)
    }
}
