//! What a command may use: options, clock, and the virtio devices by kind.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use payload_logic::acpi::Acpi;
use payload_logic::options::Options;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{DeviceFunction, PciRoot};

use crate::clock::Clock;
use crate::dma::Identity;
use crate::pci::{self, ConfigSpace, Found};
use crate::registers::{Registers, common};
use crate::transport::Kicking;

/// Where BARs go that nobody placed, unless `bars=` says otherwise: free on PCs with less than 3 GiB.
const BAR_WINDOW: u64 = 0xc000_0000;

/// The machine under the payload.
pub struct Machine<'a> {
    /// The command line.
    pub options: Options<'a>,
    /// The time.
    pub clock: Clock,
    /// What ACPI says.
    pub acpi: &'a Acpi,
    /// Configuration space.
    pub config: ConfigSpace,
    /// Address after the RAM that holds the heap.
    pub memory_end: u64,
    window: u64,
    found: Option<Vec<Found>>,
}

impl<'a> Machine<'a> {
    /// Touches no device yet.
    pub fn new(options: Options<'a>, clock: Clock, acpi: &'a Acpi, memory_end: u64) -> Self {
        let config = ConfigSpace::new(options.number("ecam").or(acpi.ecam));
        let window = options.number("bars").unwrap_or(BAR_WINDOW);
        Self { options, clock, acpi, config, memory_end, window, found: None }
    }

    /// Addresses for a BAR of `size` bytes that no other BAR has.
    pub fn free_window(&self, size: u64) -> u64 {
        (self.window + (1 << 24)).next_multiple_of(size)
    }

    /// All virtio functions; the bus is looked at once.
    pub fn devices(&mut self) -> &[Found] {
        let config = self.config;
        self.found.get_or_insert_with(|| pci::find_virtio(config))
    }

    /// The device of a kind, enabled; the n-th of them with `device=N` (from 0).
    pub fn function(&mut self, kind: DeviceType) -> Result<DeviceFunction, String> {
        let index = self.options.number("device").unwrap_or(0) as usize;
        let found = self.devices().iter().filter(|found| found.kind == kind).nth(index).copied();
        let function = found.ok_or_else(|| format!("No {kind:?} device number {index} on PCI bus 0"))?.function;
        pci::enable(&mut self.config, function, &mut self.window);
        Ok(function)
    }

    /// Its registers, for hand-made rings.
    pub fn registers(&mut self, kind: DeviceType) -> Result<Registers, String> {
        let function = self.function(kind)?;
        Registers::find(&self.config, function).ok_or_else(|| format!("{function} has no modern virtio interface"))
    }

    /// Its transport, for the driver crate.
    pub fn transport(&mut self, kind: DeviceType) -> Result<Kicking, String> {
        let function = self.function(kind)?;
        let registers = self.registers(kind)?;
        let queues = crate::mmio::read16(registers.common.address + common::NUM_QUEUES);
        let doorbells = [0, 1, 2, 3].map(|queue| (queue < queues).then(|| registers.doorbell(queue)));
        let inner = PciTransport::new::<Identity, _>(&mut PciRoot::new(self.config), function)
            .map_err(|error| format!("{function}: {error}"))?;
        Ok(Kicking::new(inner, doorbells))
    }
}
