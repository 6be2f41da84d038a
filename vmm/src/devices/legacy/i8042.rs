//! Keyboard controller (Intel 8042), of which only the reset line is wired, and the system control port between its two.
//!
//! Old kernels and bootloaders reset by it when nothing else works. There is no keyboard and no mouse: the status says that
//! the controller can take a command and has nothing to give, so a driver that probes sees no answer and goes away.
//! Called by vCPU threads.

use super::{Signal, SignalSink, answer};
use crate::bus::BusDevice;

/// Offset of the system control port B (0x61).
const CONTROL_B: u64 = 1;
/// Offset of status and command (0x64).
const COMMAND: u64 = 4;

/// Status: the last byte written was a command; input and output buffers are empty.
const STATUS_IDLE: u8 = 1 << 3;
/// System control port B: the output of timer 2 is high, so nobody waits for a timer that is not there; no NMI source.
const TIMER_2_DONE: u8 = 1 << 5;
/// Commands 0xf0 to 0xff pulse the output lines whose bits are clear for 6 µs; bit 0 is the reset line.
const PULSE: u8 = 0xf0;
const PULSE_NOT_RESET: u8 = 1 << 0;

/// The keyboard controller, ports 0x60 to 0x64.
pub struct I8042 {
    signals: SignalSink,
}

impl I8042 {
    /// A controller that says [`Signal::Reset`] to `signals`.
    pub fn new(signals: SignalSink) -> Self {
        Self { signals }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            CONTROL_B => TIMER_2_DONE,
            COMMAND => STATUS_IDLE,
            _ => 0,
        };
        answer(data, value);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (COMMAND, [command, ..]) = (offset, data)
            && command & (PULSE | PULSE_NOT_RESET) == PULSE
        {
            (self.signals)(Signal::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batter, read, signals, write};
    use super::*;

    #[test]
    fn only_a_pulse_of_the_reset_line_resets() {
        let (sink, heard) = signals();
        let mut device = I8042::new(sink);
        for command in [0xff, 0xf1, 0xaa, 0xd1, 0x00] {
            write(&mut device, COMMAND, command);
        }
        write(&mut device, 0, 0xfe);
        assert_eq!(*heard.lock().unwrap(), []);
        write(&mut device, COMMAND, 0xfe);
        assert_eq!(*heard.lock().unwrap(), [Signal::Reset]);
    }

    #[test]
    fn it_can_always_take_a_command_and_never_has_a_byte() {
        const OUTPUT_FULL: u8 = 1 << 0;
        const INPUT_FULL: u8 = 1 << 1;
        let mut device = I8042::new(signals().0);
        batter(&mut device, 5);
        assert_eq!(read(&mut device, COMMAND) & (OUTPUT_FULL | INPUT_FULL), 0);
    }
}
