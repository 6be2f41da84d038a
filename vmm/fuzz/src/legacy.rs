//! A hostile kernel on the devices from before PCI: any access to any of their registers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quantix_vmm::bus::{BusDevice, IrqLine, MsiSink};
use quantix_vmm::devices::console::ConsoleSink;
use quantix_vmm::devices::legacy::SignalSink;
use quantix_vmm::devices::legacy::i8042::I8042;
use quantix_vmm::devices::legacy::ioapic::{IoApic, IoApicLine};
use quantix_vmm::devices::legacy::power::{Events, Power};
use quantix_vmm::devices::legacy::pvpanic::PvPanic;
use quantix_vmm::devices::legacy::rtc::Rtc;
use quantix_vmm::devices::legacy::serial::Serial;
use serde::{Deserialize, Serialize};

/// What a kernel, or the host, does next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum LegacyOp {
    /// Reads a register.
    Read {
        /// Which device: serial, RTC, i8042, power, pvpanic, I/O APIC; modulo their number.
        device: u8,
        /// Offset of the register.
        offset: u8,
        /// Width in bytes, less one; modulo 8.
        width: u8,
    },
    /// Writes a register.
    Write {
        /// As for reading.
        device: u8,
        /// As for reading.
        offset: u8,
        /// As for reading.
        width: u8,
        /// What is written.
        value: u64,
    },
    /// Somebody types on the serial port.
    Type(Vec<u8>),
    /// A pin of the I/O APIC goes up and down.
    Pulse(u8),
    /// The power button is pressed.
    Press,
    /// The host's clock shows so many seconds since 1970, of less than four billion.
    Clock(u32),
}

/// Takes output and interrupts, and forgets them.
struct Sink;

impl ConsoleSink for Sink {
    fn write(&self, _bytes: &[u8]) {}
}

impl MsiSink for Sink {
    fn signal(&self, _address: u64, _data: u32) -> std::io::Result<()> {
        Ok(())
    }
}

/// Plays `data` against the devices.
pub fn drive(data: &[u8]) {
    let seconds = Arc::new(AtomicU64::new(0));
    let clock = seconds.clone();
    let signals: SignalSink = Arc::new(|_| ());
    let io_apic = Arc::new(Mutex::new(IoApic::new(Arc::new(Sink))));
    let line = |pin| Arc::new(IoApicLine::new(io_apic.clone(), pin)) as Arc<dyn IrqLine>;
    let mut serial = Serial::new(Arc::new(Sink), line(4)).expect("a serial port");
    let typist = serial.clone();
    let events = Events::new(line(5));
    let mut rtc = Rtc::new(Box::new(move || Duration::from_secs(clock.load(Ordering::Relaxed))));
    let mut i8042 = I8042::new(signals.clone());
    let mut power = Power::new(events.clone(), signals.clone());
    let mut panic = PvPanic::new(signals);
    let mut access = |device: u8, reach: &mut dyn FnMut(&mut dyn BusDevice)| match device % 6 {
        0 => reach(&mut serial),
        1 => reach(&mut rtc),
        2 => reach(&mut i8042),
        3 => reach(&mut power),
        4 => reach(&mut panic),
        _ => reach(&mut *io_apic.lock().unwrap_or_else(PoisonError::into_inner)),
    };
    for op in super::operations(data) {
        match op {
            LegacyOp::Read { device, offset, width } => {
                let mut bytes = [0; 8];
                access(device, &mut |d| d.read(offset.into(), &mut bytes[..=usize::from(width % 8)]));
            }
            LegacyOp::Write { device, offset, width, value } => {
                let bytes = value.to_le_bytes();
                access(device, &mut |d| d.write(offset.into(), &bytes[..=usize::from(width % 8)]));
            }
            LegacyOp::Type(bytes) => drop(typist.input(&bytes)),
            LegacyOp::Pulse(pin) => line(pin).pulse(),
            LegacyOp::Press => events.press_power_button(),
            LegacyOp::Clock(now) => seconds.store(now.into(), Ordering::Relaxed),
        }
    }
}
