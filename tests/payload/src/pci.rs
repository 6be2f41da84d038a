//! PCI configuration space, and the virtio devices in it. Configuration accesses cost an exit each, so each is counted.

use alloc::vec::Vec;

use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

use crate::port::{inl, outl};
use crate::{mmio, paging};

const ECAM_BUS_BYTES: u64 = 1 << 20;
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

/// The two ways into configuration space.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConfigSpace {
    /// The enhanced mechanism's window, at this address.
    Ecam(u64),
    /// Ports 0xcf8 and 0xcfc.
    Ports,
}

impl ConfigSpace {
    /// Uses the window at `ecam`, if there is one.
    pub fn new(ecam: Option<u64>) -> Self {
        match ecam {
            Some(base) => {
                paging::map(base, ECAM_BUS_BYTES);
                Self::Ecam(base)
            }
            None => Self::Ports,
        }
    }

    fn select(function: DeviceFunction, offset: u8) {
        const ENABLE: u32 = 1 << 31;
        outl(CONFIG_ADDRESS, ENABLE | number_of(function) << 8 | u32::from(offset));
    }
}

fn number_of(function: DeviceFunction) -> u32 {
    u32::from(function.bus) << 8 | u32::from(function.device) << 3 | u32::from(function.function)
}

impl ConfigurationAccess for ConfigSpace {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        match self {
            Self::Ecam(base) => mmio::read32(base + u64::from(number_of(function) << 12 | u32::from(offset))),
            Self::Ports => {
                Self::select(function, offset);
                inl(CONFIG_DATA)
            }
        }
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        match self {
            Self::Ecam(base) => mmio::write32(*base + u64::from(number_of(function) << 12 | u32::from(offset)), data),
            Self::Ports => {
                Self::select(function, offset);
                outl(CONFIG_DATA, data);
            }
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// A virtio function that was found on bus 0.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where it is.
    pub function: DeviceFunction,
    /// What it is.
    pub kind: DeviceType,
}

/// The modern virtio functions of bus 0, in order.
pub fn find_virtio(config: ConfigSpace) -> Vec<Found> {
    const VIRTIO: u32 = 0x1af4;
    (0..32)
        .filter_map(|device| {
            let function = DeviceFunction { bus: 0, device, function: 0 };
            let id = config.read_word(function, 0);
            let kind = kind_of(id >> 16)?;
            (id & 0xffff == VIRTIO).then_some(Found { function, kind })
        })
        .collect()
}

/// The device type behind a PCI device id; transitional ids are accepted, the devices are driven the modern way.
fn kind_of(id: u32) -> Option<DeviceType> {
    let kind = match id {
        0x1041 | 0x1000 => DeviceType::Network,
        0x1042 | 0x1001 => DeviceType::Block,
        0x1043 | 0x1003 => DeviceType::Console,
        0x1044 | 0x1005 => DeviceType::EntropySource,
        0x1045 | 0x1002 => DeviceType::MemoryBalloon,
        0x1053 => DeviceType::Socket,
        _ => return None,
    };
    Some(kind)
}

/// Gives addresses to memory BARs that have none (nobody did it where no firmware ran), from `window` upwards, and
/// switches the function's memory and bus mastering on.
pub fn enable(config: &mut ConfigSpace, function: DeviceFunction, window: &mut u64) {
    const COMMAND: u8 = 0x04;
    const MEMORY_AND_MASTER: u32 = 0x06;
    const IO_BAR: u32 = 1;
    const WIDE: u32 = 4;
    let mut bar = 0;
    while bar < 6 {
        let offset = 0x10 + 4 * bar;
        let low = config.read_word(function, offset);
        let wide = low & (IO_BAR | WIDE) == WIDE;
        bar += if wide { 2 } else { 1 };
        let assigned = low & !0xf != 0 || wide && config.read_word(function, offset + 4) != 0;
        if low & IO_BAR != 0 || assigned {
            continue;
        }
        config.write_word(function, offset, u32::MAX);
        let mask = config.read_word(function, offset) & !0xf;
        if mask == 0 {
            continue;
        }
        let size = u64::from(!mask) + 1;
        let address = window.next_multiple_of(size);
        *window = address + size;
        config.write_word(function, offset, address as u32);
        if wide {
            config.write_word(function, offset + 4, (address >> 32) as u32);
        }
    }
    let command = config.read_word(function, COMMAND) & 0xffff;
    if command & MEMORY_AND_MASTER != MEMORY_AND_MASTER {
        config.write_word(function, COMMAND, command | MEMORY_AND_MASTER);
    }
}
