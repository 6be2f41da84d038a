//! pvpanic: one port on which a guest's kernel says that it panicked (QEMU's `docs/specs/pvpanic`).
//!
//! Reading tells which events are understood. Called by vCPU threads.

use super::{Signal, SignalSink, answer};
use crate::bus::BusDevice;

/// Event: the kernel panicked.
const PANICKED: u8 = 1 << 0;
/// Event: the kernel crashed and runs a crash kernel.
const CRASH_LOADED: u8 = 1 << 1;

/// The port.
pub struct PvPanic {
    signals: SignalSink,
}

impl PvPanic {
    /// A port that says what it heard to `signals`.
    pub fn new(signals: SignalSink) -> Self {
        Self { signals }
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        answer(data, PANICKED | CRASH_LOADED);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let Some(events) = data.first() else { return };
        // A guest that says both goes on in its crash kernel.
        if events & CRASH_LOADED != 0 {
            (self.signals)(Signal::CrashLoaded);
        } else if events & PANICKED != 0 {
            (self.signals)(Signal::Panicked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batter, read, signals, write};
    use super::*;

    #[test]
    fn events_become_signals() {
        let (sink, heard) = signals();
        let mut device = PvPanic::new(sink);
        for events in [0, 4, PANICKED, CRASH_LOADED, PANICKED | CRASH_LOADED] {
            write(&mut device, 0, events);
        }
        assert_eq!(*heard.lock().unwrap(), [Signal::Panicked, Signal::CrashLoaded, Signal::CrashLoaded]);
    }

    #[test]
    fn a_guest_can_ask_which_events_are_understood() {
        let mut device = PvPanic::new(signals().0);
        batter(&mut device, 1);
        assert_eq!(read(&mut device, 0), 3);
    }
}
