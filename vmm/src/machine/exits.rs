//! Answers the guest's accesses: the buses, seen from a vCPU thread.

use std::sync::{Arc, Mutex, PoisonError};

use crate::bus::Bus;
use crate::bus::pci::PciRoot;
use crate::devices::legacy::ioapic::IoApic;
use crate::kvm::ExitHandler;

/// The machine's buses. Built once, then only read.
pub struct Buses {
    /// Ports.
    pub ports: Bus,
    /// MMIO outside of PCI.
    pub mmio: Bus,
    /// PCI BARs.
    pub pci: Arc<PciRoot>,
    /// The I/O APIC, which is told of acknowledged interrupts.
    pub io_apic: Arc<Mutex<IoApic>>,
}

impl Buses {
    /// Puts the devices back to power-on.
    pub fn reset(&self) {
        self.pci.reset();
        self.io_apic.lock().unwrap_or_else(PoisonError::into_inner).reset();
    }
}

impl ExitHandler for Buses {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.ports.read(u64::from(port), data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        self.ports.write(u64::from(port), data);
    }

    fn mmio_read(&self, address: u64, data: &mut [u8]) {
        if !self.pci.read_memory(address, data) {
            self.mmio.read(address, data);
        }
    }

    fn mmio_write(&self, address: u64, data: &[u8]) {
        if !self.pci.write_memory(address, data) {
            self.mmio.write(address, data);
        }
    }

    fn ioapic_eoi(&self, vector: u8) {
        self.io_apic.lock().unwrap_or_else(PoisonError::into_inner).end_of_interrupt(vector);
    }
}
