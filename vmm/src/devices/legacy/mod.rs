//! Devices from before PCI that guests still expect. Called by vCPU threads on exits.
//!
//! Each is a state machine on plain calls. What one of them asks of the machine it says by a [`Signal`]; it must not end,
//! reset or pause anything itself.

#![forbid(unsafe_code)]

pub mod i8042;
pub mod ioapic;
pub mod power;
pub mod pvpanic;
pub mod rtc;
pub mod serial;

use std::sync::Arc;

/// What a guest asks of the machine, or tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Switch off.
    PowerOff,
    /// Start again.
    Reset,
    /// Its kernel panicked and goes no further.
    Panicked,
    /// Its kernel crashed and starts another one that saves the memory.
    CrashLoaded,
}

/// Who hears signals. Called on a vCPU thread in the middle of an access: it must neither block nor call back.
pub type SignalSink = Arc<dyn Fn(Signal) + Send + Sync>;

/// What a read gives where nothing is.
const NOTHING: u8 = 0xff;

/// Answers a one-byte register: wider accesses get its value in the first byte and ones above.
fn answer(data: &mut [u8], value: u8) {
    data.fill(NOTHING);
    if let Some(first) = data.first_mut() {
        *first = value;
    }
}

#[cfg(test)]
mod testing {
    //! What the tests of these devices share: a sink that remembers, and one-byte accesses.

    use std::sync::{Arc, Mutex};

    use super::{Signal, SignalSink};
    use crate::bus::BusDevice;

    pub(super) fn signals() -> (SignalSink, Arc<Mutex<Vec<Signal>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = heard.clone();
        (Arc::new(move |signal| sink.lock().unwrap().push(signal)), heard)
    }

    pub(super) fn read(device: &mut dyn BusDevice, offset: u64) -> u8 {
        let mut data = [0];
        device.read(offset, &mut data);
        data[0]
    }

    pub(super) fn write(device: &mut dyn BusDevice, offset: u64, value: u8) {
        device.write(offset, &[value]);
    }

    /// Any offset and any width, read and written: nothing may panic.
    pub(super) fn batter(device: &mut dyn BusDevice, length: u64) {
        for offset in 0..length + 2 {
            for width in [0, 1, 2, 3, 4, 8, 16] {
                for pattern in [0x00, 0x0f, 0x80, 0xfe, 0xff] {
                    device.write(offset, &vec![pattern; width]);
                    device.read(offset, &mut vec![0; width]);
                }
            }
        }
    }
}
