//! PCI: configuration space, BARs, MSI-X, and the root complex with one bus (PCI Local Bus 3.0, PCI Express ECAM).
//!
//! vCPU threads call in on exits; I/O threads signal MSI-X. There is one bus, function 0 only, no `INTx` and no
//! bridges: what the guest does not find it need not probe.

mod config;
mod host_bridge;
mod msix;
mod root;

#[cfg(test)]
mod tests;

pub use config::{BarKind, ConfigSpace, Identity};
pub use host_bridge::HostBridge;
pub use msix::{MSIX_ENTRY_SIZE, Msix, NO_VECTOR};
pub use root::{ConfigPorts, Ecam, PciFunction, PciRoot, SlotTaken};

/// One decoded BAR of a function: where the guest finds it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarWindow {
    /// BAR index, 0 to 5.
    pub bar: u8,
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
}
