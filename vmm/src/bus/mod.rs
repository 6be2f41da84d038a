//! Port, MMIO and PCI dispatch: an address finds its owner.
//!
//! Called by vCPU threads on exits. It knows addresses, not what devices mean by them.

#![forbid(unsafe_code)]

pub mod pci;

use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

/// Something that answers reads and writes on a range of ports or MMIO addresses.
///
/// Accesses come from vCPU threads, 1 to 8 bytes wide, at any offset: a guest chooses them. What is not there reads as all
/// ones, or as the device sees fit.
pub trait BusDevice: Send {
    /// Reads `data.len()` bytes at `offset` from the start of the range.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes `data` at `offset` from the start of the range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Where message-signalled interrupts go: the guest's local APICs.
pub trait MsiSink: Send + Sync {
    /// Delivers the message `data` written to `address` (PCI 3.0 section 6.8.3.4).
    fn signal(&self, address: u64, data: u32) -> std::io::Result<()>;
}

/// An edge-triggered interrupt line into the IOAPIC.
pub trait IrqLine: Send + Sync {
    /// Raises and lowers the line.
    fn pulse(&self);
}

/// Turns guest writes to an MMIO address into signals of an eventfd, without an exit to this process.
pub trait Doorbells: Send + Sync {
    /// From now on a write to `address`, whatever its width and value, signals `fd`.
    fn attach(&self, address: u64, fd: &EventFd) -> std::io::Result<()>;
    /// Ends what [`Self::attach`] began.
    fn detach(&self, address: u64, fd: &EventFd) -> std::io::Result<()>;
}

/// A device that several threads reach.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Two ranges of a bus overlap.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("Bus range {start:#x}+{len:#x} overlaps another one")]
pub struct BusOverlap {
    /// First address.
    pub start: u64,
    /// Length.
    pub len: u64,
}

/// Address ranges and their owners. Built before the guest runs, then only read.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<(u64, u64, SharedDevice)>,
}

impl Bus {
    /// Gives `start..start + len` to `device`.
    pub fn insert(&mut self, start: u64, len: u64, device: SharedDevice) -> Result<(), BusOverlap> {
        let overlap = BusOverlap { start, len };
        let end = start.checked_add(len).ok_or(BusOverlap { start, len })?;
        if self.ranges.iter().any(|(s, l, _)| start < s.saturating_add(*l) && *s < end) {
            return Err(overlap);
        }
        self.ranges.push((start, len, device));
        Ok(())
    }

    fn find(&self, address: u64) -> Option<(&SharedDevice, u64)> {
        self.ranges.iter().find_map(|(start, len, device)| {
            let offset = address.checked_sub(*start)?;
            (offset < *len).then_some((device, offset))
        })
    }

    /// Reads; what nobody owns reads as all ones. False when nobody owns it.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((device, offset)) = self.find(address) else {
            data.fill(0xff);
            return false;
        };
        device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        true
    }

    /// Writes; what nobody owns is dropped. False when nobody owns it.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some((device, offset)) = self.find(address) else { return false };
        device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        true
    }
}
