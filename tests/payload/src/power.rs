//! The ends of the guest: power off, reset, idle, sleep, panic, and off when the power button is pressed.

use payload_logic::acpi::{Acpi, Register};

use crate::port::{inb, inl, outb, outw};
use crate::{mmio, paging, ring0};

/// What to do when the command is done (`after=`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum After {
    /// ACPI S5; reset where there is none.
    Off,
    /// ACPI's reset register, else the keyboard controller, else a triple fault.
    Reset,
    /// Spin for ever.
    Idle,
    /// Halt for ever: costs the host nothing.
    Sleep,
    /// Says by pvpanic that the kernel panicked, then spins.
    Panic,
    /// Power off when the power button is pressed; until then what is typed on COM1 comes back.
    Button,
}

/// The port of pvpanic (QEMU's `docs/specs/pvpanic`).
const PVPANIC: u16 = 0x505;
/// Where quantix-vmm's events are pending, as its DSDT says; a bit a kind, the power button's among them.
const EVENTS: u16 = 0x604;
const COM1: u16 = 0x3f8;
const COM1_LINE_STATUS: u16 = COM1 + 5;

impl After {
    /// Reads the option's value; power off is what most want.
    pub fn from_option(text: Option<&str>) -> Self {
        match text {
            Some("reset") => Self::Reset,
            Some("idle") => Self::Idle,
            Some("sleep") => Self::Sleep,
            Some("panic") => Self::Panic,
            Some("button") => Self::Button,
            _ => Self::Off,
        }
    }
}

fn write(register: Register, value: u16, wide: bool) {
    match register {
        Register::Port(port) if wide => outw(port, value),
        Register::Port(port) => outb(port, value as u8),
        Register::Memory(address) => {
            paging::map(address, 2);
            if wide { mmio::write16(address, value) } else { mmio::write8(address, value as u8) }
        }
    }
}

/// Ends the guest. What one way does not do, the next one does.
pub fn end(after: After, acpi: &Acpi) -> ! {
    if after == After::Button {
        wait_for_button();
    }
    if matches!(after, After::Off | After::Button)
        && let Some(off) = acpi.power_off
    {
        write(off.register, off.value, off.wide);
        settle();
    }
    if after == After::Sleep {
        ring0::sleep();
    }
    if after == After::Panic {
        outb(PVPANIC, 1);
    }
    if !matches!(after, After::Idle | After::Panic) {
        if let Some((register, value)) = acpi.reset {
            write(register, u16::from(value), false);
            settle();
        }
        outb(0x64, 0xfe);
        settle();
        ring0::triple_fault();
    }
    loop {
        core::hint::spin_loop();
    }
}

/// Types back what is typed, until something else happens.
fn wait_for_button() {
    while inl(EVENTS) == 0 {
        if inb(COM1_LINE_STATUS) & 1 != 0 {
            outb(COM1, inb(COM1));
        }
    }
}

/// A VMM may act on another thread: gives it a moment before the next way is tried.
fn settle() {
    for _ in 0..20_000_000 {
        core::hint::spin_loop();
    }
}
