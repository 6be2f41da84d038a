//! ACPI power registers: sleep control and status, reset, and the events of the generic event device
//! (ACPI 6.5 sections 4.8.3.6, 4.8.3.7 and 5.6.9).
//!
//! ```text
//! +0 sleep control   writing "enable" with the type of S5 switches off
//! +1 sleep status    always awake
//! +2 reset           writing the reset value resets
//! +4 events          4 bytes, reading takes what is pending
//! ```
//!
//! The guest's side is called by vCPU threads; events are raised by the main thread. The DSDT in `board/` reads the events
//! and passes them on inside the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Signal, SignalSink, answer};
use crate::board::map::{
    EVENT_GENERATION, EVENT_POWER_BUTTON, EVENTS_PORT, POWER_PORT, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT,
    SLEEP_STATUS_PORT, SLEEP_TYPE_OFF,
};
use crate::bus::{BusDevice, IrqLine};

const SLEEP_CONTROL: u64 = (SLEEP_CONTROL_PORT - POWER_PORT) as u64;
const SLEEP_STATUS: u64 = (SLEEP_STATUS_PORT - POWER_PORT) as u64;
const RESET: u64 = (RESET_PORT - POWER_PORT) as u64;
const EVENTS: u64 = (EVENTS_PORT - POWER_PORT) as u64;
const EVENTS_END: u64 = EVENTS + 4;

/// Sleep control: bits 4:2 are the sleep type, bit 5 starts it.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
const SLEEP_ENABLE: u8 = 1 << 5;

/// The end of the event line that the machine holds: presses the button, tells of a new generation.
#[derive(Clone)]
pub struct Events {
    pending: Arc<AtomicU32>,
    line: Arc<dyn IrqLine>,
}

impl Events {
    /// Nothing pending; `line` is the pin of the generic event device.
    pub fn new(line: Arc<dyn IrqLine>) -> Self {
        Self { pending: Arc::default(), line }
    }

    /// Presses the power button. The guest decides what comes of it.
    pub fn press_power_button(&self) {
        self.raise(EVENT_POWER_BUTTON);
    }

    /// Tells the guest that its generation id is another one now.
    pub fn generation_changed(&self) {
        self.raise(EVENT_GENERATION);
    }

    /// What the guest has not taken yet: to be saved, and passed to [`Events::restore`].
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Acquire)
    }

    /// Raises again what was pending when the machine was saved.
    pub fn restore(&self, pending: u32) {
        if pending != 0 {
            self.raise(pending);
        }
    }

    fn raise(&self, events: u32) {
        self.pending.fetch_or(events, Ordering::AcqRel);
        self.line.pulse();
    }

    /// Takes those pending events that are in `mask`.
    fn take(&self, mask: u32) -> u32 {
        self.pending.fetch_and(!mask, Ordering::AcqRel) & mask
    }
}

/// The registers.
pub struct Power {
    events: Events,
    signals: SignalSink,
}

impl Power {
    /// Registers that show `events` and say [`Signal::PowerOff`] and [`Signal::Reset`] to `signals`.
    pub fn new(events: Events, signals: SignalSink) -> Self {
        Self { events, signals }
    }

    fn sleep(&self, control: u8) {
        let kind = control >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
        if control & SLEEP_ENABLE != 0 && kind == SLEEP_TYPE_OFF {
            (self.signals)(Signal::PowerOff);
        }
    }
}

impl BusDevice for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if !(EVENTS..EVENTS_END).contains(&offset) {
            let here = matches!(offset, SLEEP_CONTROL | SLEEP_STATUS | RESET);
            return answer(data, if here { 0 } else { super::NOTHING });
        }
        data.fill(0);
        // A narrow read takes only the events that it shows.
        for (byte, register) in data.iter_mut().zip(offset..EVENTS_END) {
            let shift = (register - EVENTS) * 8;
            *byte = (self.events.take(0xff << shift) >> shift) as u8;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data.first()) {
            (SLEEP_CONTROL, Some(control)) => self.sleep(*control),
            (RESET, Some(value)) if *value == RESET_VALUE => (self.signals)(Signal::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::testing::{batter, read, signals, write};
    use super::*;

    #[derive(Default)]
    struct Line(Mutex<u32>);

    impl IrqLine for Line {
        fn pulse(&self) {
            *self.0.lock().unwrap() += 1;
        }
    }

    #[test]
    fn only_s5_and_the_reset_value_have_an_effect() {
        let (sink, heard) = signals();
        let mut power = Power::new(Events::new(Arc::new(Line::default())), sink);
        let enable = |kind: u8| SLEEP_ENABLE | kind << SLEEP_TYPE_SHIFT;
        for control in [0, SLEEP_ENABLE, SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT, enable(1), enable(7)] {
            write(&mut power, SLEEP_CONTROL, control);
        }
        write(&mut power, RESET, 0);
        assert_eq!(*heard.lock().unwrap(), []);
        write(&mut power, SLEEP_CONTROL, enable(SLEEP_TYPE_OFF));
        write(&mut power, RESET, RESET_VALUE);
        assert_eq!(*heard.lock().unwrap(), [Signal::PowerOff, Signal::Reset]);
    }

    #[test]
    fn an_event_interrupts_once_and_is_taken_once() {
        let line = Arc::new(Line::default());
        let events = Events::new(line.clone());
        let mut power = Power::new(events.clone(), signals().0);
        events.press_power_button();
        events.generation_changed();
        assert_eq!(*line.0.lock().unwrap(), 2);
        let mut data = [0; 4];
        power.read(EVENTS, &mut data);
        assert_eq!(u32::from_le_bytes(data), EVENT_POWER_BUTTON | EVENT_GENERATION);
        assert_eq!(events.pending(), 0);
    }

    #[test]
    fn a_narrow_read_takes_what_it_shows() {
        let events = Events::new(Arc::new(Line::default()));
        let mut power = Power::new(events.clone(), signals().0);
        events.press_power_button();
        assert_eq!(read(&mut power, EVENTS + 1), 0);
        assert_eq!(events.pending(), EVENT_POWER_BUTTON);
        assert_eq!(u32::from(read(&mut power, EVENTS)), EVENT_POWER_BUTTON);
    }

    #[test]
    fn what_was_pending_is_raised_again_after_a_restore() {
        let line = Arc::new(Line::default());
        let events = Events::new(line.clone());
        events.restore(0);
        assert_eq!(*line.0.lock().unwrap(), 0);
        events.restore(EVENT_POWER_BUTTON);
        assert_eq!((*line.0.lock().unwrap(), events.pending()), (1, EVENT_POWER_BUTTON));
    }

    #[test]
    fn any_access_is_answered() {
        batter(&mut Power::new(Events::new(Arc::new(Line::default())), signals().0), 8);
    }
}
