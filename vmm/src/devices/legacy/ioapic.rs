//! I/O APIC (Intel 82093AA, with the EOI register of version 0x20), for KVM's split irqchip: local APICs are in the kernel,
//! this is not, and what its pins say goes to the kernel as messages.
//!
//! ```text
//!            ┌ masked ──────────────► nothing; the hardware forgets the edge as well
//! edge ──────┤
//!            └ open ────────────────► one message
//!                                                          EOI, line low
//! line high, level, open ─► one message, remote IRR set ──────────────────► remote IRR clear
//!                            ▲                                 │
//!                            └──────── EOI, line still high ◄──┘
//! ```
//!
//! Registers are reached by vCPU threads; pins are raised by any thread, through an [`IoApicLine`]. It must not know what is
//! behind a pin.

use std::sync::{Arc, Mutex, PoisonError};

use crate::bus::{BusDevice, IrqLine, MsiSink};

/// Pins: as many as the board's lines need, for Linux reads and writes every pin several times while it starts, and each
/// access is an exit (24 pins cost 500 exits).
pub const PINS: usize = 8;

/// Offset of the register index.
const SELECT: u64 = 0x00;
/// Offset of the window on the selected register.
const WINDOW: u64 = 0x10;
/// Offset of the EOI register.
const EOI: u64 = 0x40;

/// Indirect registers: id, version, arbitration id, then two for each pin.
const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const REDIRECTION: u8 = 0x10;

/// Version 0x20, the last pin in bits 23:16.
const VERSION_VALUE: u32 = 0x20 | (PINS as u32 - 1) << 16;
/// Bits of the id register that can be set.
const ID_MASK: u32 = 0x0f00_0000;

/// Fields of a redirection entry (data sheet section 3.2.4).
const VECTOR: u64 = 0xff;
const DELIVERY_AND_MODE: u64 = 0xf << 8;
const DESTINATION_LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR are the hardware's.
const READ_ONLY: u64 = 1 << 12 | REMOTE_IRR;
/// Everything that a guest may set: vector, modes, polarity, trigger, mask, destination with its extension.
const WRITABLE: u64 = 0xffff_0000_0001_ffff & !READ_ONLY;

/// Where messages to local APICs are addressed (Intel SDM volume 3 section 11.11.1).
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;

/// A message to a local APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Address, as a device would write to; bits 11:5 extend the destination to 15 bits.
    pub address: u64,
    /// Data.
    pub data: u32,
}

impl Message {
    /// The message that a redirection entry stands for.
    fn new(entry: u64) -> Self {
        // Bits 63:56 are the destination and go to 19:12; 55:49 extend it and go to 11:5; 48 belongs to interrupt remapping.
        let destination = entry >> 56 << 12 | (entry >> 49 & 0x7f) << 5;
        let logical = if entry & DESTINATION_LOGICAL == 0 { 0 } else { 1 << 2 };
        let delivery = entry & (VECTOR | DELIVERY_AND_MODE) & !DESTINATION_LOGICAL;
        // In a message, bit 14 is "assert" and bit 15 is "level".
        let level = if entry & LEVEL == 0 { 0 } else { LEVEL | 1 << 14 };
        Self { address: MESSAGE_ADDRESS | destination | logical, data: (delivery | level) as u32 }
    }
}

/// Moves a 15-bit destination to where KVM wants it with `KVM_X2APIC_API_USE_32BIT_IDS`: bits 7:0 stay in 19:12 of the
/// address, and 14:8, which a guest writes to 11:5, go to 46:40. For messages of every source, MSI-X included.
pub fn with_wide_destination(address: u64) -> u64 {
    const EXTENSION: u64 = 0x7f << 5;
    address & !EXTENSION | (address & EXTENSION) << 35
}

/// The registers and pins.
pub struct IoApic {
    sink: Arc<dyn MsiSink>,
    select: u8,
    id: u32,
    entries: [u64; PINS],
    /// Pins whose line is high, one bit each.
    high: u32,
}

/// What of an I/O APIC outlives a pause: to be saved and restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoApicState {
    /// Selected register.
    pub select: u8,
    /// Id register.
    pub id: u32,
    /// Redirection entries.
    pub entries: [u64; PINS],
    /// Pins whose line is high.
    pub high: u32,
}

impl IoApic {
    /// All pins masked, as after a reset; messages go to `sink`.
    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        Self { sink, select: 0, id: 0, entries: [MASKED; PINS], high: 0 }
    }

    /// Back to the state after power-on. Lines stay as their devices hold them.
    pub fn reset(&mut self) {
        (self.select, self.id, self.entries) = (0, 0, [MASKED; PINS]);
    }

    /// What is to be saved.
    pub fn state(&self) -> IoApicState {
        IoApicState { select: self.select, id: self.id, entries: self.entries, high: self.high }
    }

    /// Takes over what was saved. Bits that no register has are dropped.
    pub fn restore(&mut self, state: IoApicState) {
        self.select = state.select;
        self.id = state.id & ID_MASK;
        self.entries = state.entries.map(|entry| entry & (WRITABLE | REMOTE_IRR));
        self.high = state.high & ((1 << PINS) - 1);
    }

    /// Raises or lowers the line of `pin`; a pin that is not there has no line.
    pub fn set_line(&mut self, pin: usize, high: bool) {
        let Some(bit) = line(pin) else { return };
        let rising = high && self.high & bit == 0;
        self.high = if high { self.high | bit } else { self.high & !bit };
        let level = self.entries.get(pin).is_some_and(|entry| entry & LEVEL != 0);
        if rising && !level {
            self.deliver(pin);
        } else {
            self.service_level(pin);
        }
    }

    /// A short pulse on the line of `pin`: one interrupt if the pin is open and edge-triggered.
    pub fn pulse(&mut self, pin: usize) {
        self.set_line(pin, false);
        self.set_line(pin, true);
        self.set_line(pin, false);
    }

    /// A local APIC ended `vector` (`KVM_EXIT_IOAPIC_EOI`, or the EOI register).
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PINS {
            if let Some(entry) = self.entries.get_mut(pin)
                && *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR
                && *entry & VECTOR == u64::from(vector)
            {
                *entry &= !REMOTE_IRR;
                self.service_level(pin);
            }
        }
    }

    /// Sends a message for a level-triggered pin whose line is high and whose last message was ended.
    fn service_level(&mut self, pin: usize) {
        let Some((bit, entry)) = line(pin).zip(self.entries.get_mut(pin)) else { return };
        if self.high & bit != 0 && *entry & (LEVEL | REMOTE_IRR | MASKED) == LEVEL {
            *entry |= REMOTE_IRR;
            self.deliver(pin);
        }
    }

    fn deliver(&self, pin: usize) {
        let Some(entry) = self.entries.get(pin).filter(|entry| **entry & MASKED == 0) else { return };
        let message = Message::new(*entry);
        if let Err(error) = self.sink.signal(message.address, message.data) {
            // A guest can name a CPU that is not there; nobody gets that interrupt, on hardware either.
            log::debug!("An interrupt of pin {pin} was not delivered: {error}");
        }
    }

    fn read_register(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            other => match redirection(other) {
                Some((pin, upper)) => {
                    let entry = self.entries.get(pin).copied().unwrap_or_default();
                    (if upper { entry >> 32 } else { entry }) as u32
                }
                None => 0,
            },
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.select == ID {
            self.id = value & ID_MASK;
        }
        let Some((pin, upper)) = redirection(self.select) else { return };
        let Some(entry) = self.entries.get_mut(pin) else { return };
        let (shift, half) = if upper { (32, u64::from(u32::MAX) << 32) } else { (0, u64::from(u32::MAX)) };
        let mask = WRITABLE & half;
        *entry = *entry & !mask | u64::from(value) << shift & mask;
        if *entry & LEVEL == 0 {
            // Kernels switch a pin to edge and back to get rid of a remote IRR that nobody will end.
            *entry &= !REMOTE_IRR;
        }
        self.service_level(pin);
    }
}

/// The bit of a pin's line.
fn line(pin: usize) -> Option<u32> {
    (pin < PINS).then(|| 1 << pin)
}

/// Which entry, and whether its upper half, a register is.
fn redirection(register: u8) -> Option<(usize, bool)> {
    let index = register.checked_sub(REDIRECTION)?;
    let pin = usize::from(index / 2);
    (pin < PINS).then_some((pin, index % 2 == 1))
}

impl BusDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT => u32::from(self.select),
            WINDOW => self.read_register(),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let [low, ..] = bytes;
        match offset {
            SELECT => self.select = low,
            // The window takes whole registers only (data sheet section 3.1.2).
            WINDOW if data.len() == 4 => self.write_register(u32::from_le_bytes(bytes)),
            EOI => self.end_of_interrupt(low),
            _ => {}
        }
    }
}

/// One pin of an I/O APIC that several threads share.
#[derive(Clone)]
pub struct IoApicLine {
    io_apic: Arc<Mutex<IoApic>>,
    pin: usize,
}

impl IoApicLine {
    /// The line of `pin`.
    pub fn new(io_apic: Arc<Mutex<IoApic>>, pin: u8) -> Self {
        Self { io_apic, pin: usize::from(pin) }
    }
}

impl IrqLine for IoApicLine {
    fn pulse(&self) {
        self.io_apic.lock().unwrap_or_else(PoisonError::into_inner).pulse(self.pin);
    }
}

#[cfg(test)]
mod tests;
