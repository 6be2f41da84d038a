//! The root complex: finds the function that a configuration or memory access is for.
//!
//! Configuration space is reached by ports 0xcf8/0xcfc (PCI 3.0 section 3.2.2.3.2) and by ECAM (PCI Express 5.0 section
//! 7.2.2). The windows of all BARs are kept in one list, renewed whenever a configuration write moved one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::BarWindow;
use crate::bus::BusDevice;

/// Slots of the bus.
const SLOTS: usize = 32;
/// Bytes of a function's ECAM window.
const ECAM_FUNCTION: u64 = 4096;

/// A PCI function.
pub trait PciFunction: Send {
    /// Reads configuration space; `offset` is below 4096, `data` at most 8 bytes and may reach past the end.
    fn read_config(&mut self, offset: u16, data: &mut [u8]);
    /// Writes configuration space.
    fn write_config(&mut self, offset: u16, data: &[u8]);
    /// The BARs that the guest can reach now.
    fn windows(&self) -> Vec<BarWindow>;
    /// Reads a BAR.
    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]);
    /// Writes a BAR.
    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]);
    /// Back to power-on.
    fn reset(&mut self);
}

type Function = Arc<Mutex<dyn PciFunction>>;

/// A slot has a function already, or does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("PCI slot {slot} is not free")]
pub struct SlotTaken {
    /// Device number on the bus.
    pub slot: u8,
}

struct Mapped {
    window: BarWindow,
    function: Function,
    slot: usize,
}

/// The root complex and its one bus.
#[derive(Default)]
pub struct PciRoot {
    functions: [Option<Function>; SLOTS],
    mapped: RwLock<Vec<Mapped>>,
    address: Mutex<u32>,
}

fn locked(function: &Function) -> MutexGuard<'_, dyn PciFunction + 'static> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PciRoot {
    /// Puts a function into a slot. Only before the guest runs.
    pub fn insert(&mut self, slot: u8, function: Function) -> Result<(), SlotTaken> {
        let place = self.functions.get_mut(usize::from(slot)).filter(|p| p.is_none());
        *place.ok_or(SlotTaken { slot })? = Some(function);
        self.refresh(usize::from(slot));
        Ok(())
    }

    fn function(&self, slot: usize) -> Option<&Function> {
        self.functions.get(slot).and_then(Option::as_ref)
    }

    fn refresh(&self, slot: usize) {
        let Some(function) = self.function(slot) else { return };
        let windows = locked(function).windows();
        let mut mapped = self.mapped.write().unwrap_or_else(PoisonError::into_inner);
        mapped.retain(|m| m.slot != slot);
        mapped.extend(windows.into_iter().map(|window| Mapped { window, function: function.clone(), slot }));
    }

    fn read_config(&self, slot: usize, offset: u16, data: &mut [u8]) {
        match self.function(slot) {
            Some(function) => locked(function).read_config(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write_config(&self, slot: usize, offset: u16, data: &[u8]) {
        if let Some(function) = self.function(slot) {
            locked(function).write_config(offset, data);
            self.refresh(slot);
        }
    }

    fn find(&self, address: u64) -> Option<(Function, u8, u64)> {
        let mapped = self.mapped.read().unwrap_or_else(PoisonError::into_inner);
        mapped.iter().find_map(|m| {
            let offset = address.checked_sub(m.window.address)?;
            (offset < m.window.len).then(|| (m.function.clone(), m.window.bar, offset))
        })
    }

    /// Reads memory; false when no BAR is there.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((function, bar, offset)) = self.find(address) else { return false };
        locked(&function).read_bar(bar, offset, data);
        true
    }

    /// Writes memory; false when no BAR is there.
    pub fn write_memory(&self, address: u64, data: &[u8]) -> bool {
        let Some((function, bar, offset)) = self.find(address) else { return false };
        locked(&function).write_bar(bar, offset, data);
        true
    }

    /// All functions back to power-on.
    pub fn reset(&self) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        for (slot, function) in self.functions.iter().enumerate() {
            if let Some(function) = function {
                locked(function).reset();
                self.refresh(slot);
            }
        }
    }

    /// Slot and register that the address port points at; `None` when disabled, on another bus or another function.
    fn selected(&self) -> Option<(usize, u16)> {
        let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
        let enabled = address & 1 << 31 != 0;
        let bus_or_function = address & 0x00ff_0700;
        (enabled && bus_or_function == 0).then_some(((address >> 11 & 0x1f) as usize, (address & 0xfc) as u16))
    }
}

/// Ports 0xcf8 to 0xcff.
pub struct ConfigPorts(pub Arc<PciRoot>);

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, self.0.selected()) {
            (0..4, _) => {
                let address = self.0.address.lock().unwrap_or_else(PoisonError::into_inner).to_le_bytes();
                for (i, byte) in data.iter_mut().enumerate() {
                    *byte = address.get(offset as usize + i).copied().unwrap_or(0xff);
                }
            }
            (4..8, Some((slot, register))) => self.0.read_config(slot, register + (offset as u16 & 3), data),
            _ => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => {
                *self.0.address.lock().unwrap_or_else(PoisonError::into_inner) = u32::from_le_bytes([a, b, c, d]);
            }
            (4..8, _) => {
                if let Some((slot, register)) = self.0.selected() {
                    self.0.write_config(slot, register + (offset as u16 & 3), data);
                }
            }
            _ => {}
        }
    }
}

/// The ECAM window of bus 0.
pub struct Ecam(pub Arc<PciRoot>);

/// ECAM offset → slot and register; `None` for functions other than 0.
fn ecam_target(offset: u64) -> Option<(usize, u16)> {
    let function = offset / ECAM_FUNCTION;
    function.is_multiple_of(8).then_some(((function / 8) as usize, (offset % ECAM_FUNCTION) as u16))
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match ecam_target(offset) {
            Some((slot, register)) => self.0.read_config(slot, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some((slot, register)) = ecam_target(offset) {
            self.0.write_config(slot, register, data);
        }
    }
}
