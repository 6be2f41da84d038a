//! The host bridge in slot 0: nothing but its identity.
//!
//! A kernel that checks whether ports 0xcf8 and 0xcfc reach a real bus looks for a device of this class, and scans all
//! 256 functions when slot 0 has none.

use super::{BarWindow, ConfigSpace, Identity, PciFunction};

/// The host bridge.
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        Self(ConfigSpace::new(Identity {
            vendor: 0x1b36,
            device: 0x0008,
            subsystem_vendor: 0,
            subsystem: 0,
            class: [0x06, 0x00, 0x00],
            revision: 0,
        }))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn windows(&self) -> Vec<BarWindow> {
        Vec::new()
    }

    fn read_bar(&mut self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&mut self, _bar: u8, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        self.0.reset();
    }
}
