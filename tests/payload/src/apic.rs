//! The local interrupt controller of the boot CPU, through its page or its MSRs, whichever the VMM switched on.

use crate::{mmio, ring0};

const APIC_BASE: u32 = 0x1b;
const X2APIC: u64 = 1 << 10;
const PAGE: u64 = 0xfee0_0000;
const MSRS: u32 = 0x800;

/// Offsets in the page; an MSR's number is the offset divided by 16.
const ID: u32 = 0x20;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;

/// The controller.
#[derive(Clone, Copy, Debug)]
pub struct Apic {
    x2: bool,
}

impl Apic {
    /// Finds out how to reach it and switches it on.
    pub fn enable() -> Self {
        const SOFTWARE_ENABLE: u32 = 0x1ff;
        let apic = Self { x2: ring0::read_msr(APIC_BASE) & X2APIC != 0 };
        apic.write(SPURIOUS, SOFTWARE_ENABLE);
        apic
    }

    fn write(self, register: u32, value: u32) {
        if self.x2 {
            ring0::write_msr(MSRS + register / 16, u64::from(value));
        } else {
            mmio::write32(PAGE + u64::from(register), value);
        }
    }

    /// This CPU's id.
    pub fn id(self) -> u32 {
        if self.x2 { ring0::read_msr(MSRS + ID / 16) as u32 } else { mmio::read32(PAGE + u64::from(ID)) >> 24 }
    }

    /// Done with the current interrupt.
    pub fn end_of_interrupt(self) {
        self.write(END_OF_INTERRUPT, 0);
    }

    /// Sends a command to all other CPUs.
    pub fn command_others(self, command: u32) {
        const ALL_BUT_SELF: u32 = 0b11 << 18;
        self.write(COMMAND, ALL_BUT_SELF | command);
    }
}
