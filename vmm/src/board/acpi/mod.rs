//! ACPI tables (ACPI 6.5): what they are and where they go; the bytes are put into guest memory by others.
//!
//! ```text
//! RSDP ─► XSDT ─┬► FADT ─► DSDT   fixed.rs, dsdt.rs
//!               ├► MADT           interrupt controllers, one entry a vCPU
//!               ├► MCFG           ECAM
//!               └► SRAT, SLIT     only with NUMA nodes
//! ```
//!
//! Main thread, while a machine is built. It must not know a virtio device: those are found on PCI.
//!
//! # What makes Linux probe less
//!
//! Each of these was chosen for what the kernel then leaves out, all of it port I/O:
//! - hardware-reduced ACPI: no PM timer, no fixed events, no SCI, no legacy PIC and no PIT start-up;
//! - no keyboard controller in the FADT's boot flags: no i8042 probe, which times out byte by byte;
//! - "VGA not present": no VGA console, no probe of its ports; no HPET table: no HPET;
//! - one bus in MCFG and in the root's resources: no scan of 255 others; ECAM reserved both in the memory map and by a
//!   motherboard device: one exit a configuration access instead of two;
//! - no `_PRT`, no `_STA`, no `_CST`: methods that do not exist are not run.

mod dsdt;
mod fixed;
#[cfg(test)]
mod tests;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::layout::Layout;
use super::map::{ACPI_END, ACPI_START};

/// Who made the tables.
const OEM: [u8; 6] = *b"QUANTX";
/// Which machine they are for.
const OEM_TABLE: [u8; 8] = *b"QUANTIXV";
/// Revision of the tables; it counts up when a guest can tell the difference.
const OEM_REVISION: u32 = 1;

/// Tables start at multiples of this.
const ALIGNMENT: usize = 16;

/// The tables do not fit into the room that the map has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The ACPI tables have {size} bytes, and there is room for {room}")]
pub struct AcpiRoom {
    /// Length of the tables, in bytes.
    pub size: usize,
    /// Length of the room, in bytes.
    pub room: usize,
}

/// Which of the board's optional devices the guest is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described {
    /// The serial port.
    pub serial: bool,
    /// The real-time clock. Linux on KVM has the time from kvmclock; without this it makes no clock device.
    pub rtc: bool,
}

/// The tables, as one block of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Guest-physical address of the RSDP, for boot protocols that pass it on.
    pub rsdp_address: u64,
}

/// Makes all tables for a machine.
pub fn build(layout: &Layout, described: Described) -> Result<Tables, AcpiRoom> {
    let mut block = Block { bytes: Vec::new() };
    // The RSDP comes first, where a guest that searches looks first; its content is known last.
    block.place(&[0; RSDP_SIZE]);
    let dsdt = block.place(&dsdt::dsdt(layout, described));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(block.place(&fixed::fadt(dsdt, described)));
    xsdt.add_entry(block.place(&fixed::madt(&layout.apic_ids)));
    xsdt.add_entry(block.place(&fixed::mcfg()));
    if !layout.nodes.is_empty() {
        xsdt.add_entry(block.place(&fixed::srat(layout)));
        xsdt.add_entry(block.place(&fixed::slit(&layout.nodes)));
    }
    let xsdt = block.place(&bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    for (to, from) in block.bytes.iter_mut().zip(rsdp) {
        *to = from;
    }
    let room = (ACPI_END - ACPI_START) as usize;
    if block.bytes.len() > room {
        return Err(AcpiRoom { size: block.bytes.len(), room });
    }
    Ok(Tables { address: ACPI_START, bytes: block.bytes, rsdp_address: ACPI_START })
}

/// Length of a revision 2 RSDP.
const RSDP_SIZE: usize = 36;

/// Tables one behind the other.
struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// Appends a table and returns its guest-physical address.
    fn place(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = ACPI_START + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }
}

fn bytes(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}
