//! What happens to the machine, told to the main thread by vCPU threads and devices.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::legacy::Signal;
use crate::kvm::Failure;

/// An event of the machine.
#[derive(Debug)]
pub enum MachineEvent {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked and said so (pvpanic).
    Panicked,
    /// The guest's kernel crashed and loads another (pvpanic).
    CrashLoaded,
    /// A client of the control socket wants the machine to be reset.
    ResetAsked,
    /// A client of the control socket wants the machine to end.
    StopAsked,
    /// KVM gave up on a vCPU.
    Failed(Box<Failure>),
}

impl From<Signal> for MachineEvent {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::PowerOff => Self::PowerOff,
            Signal::Reset => Self::Reset,
            Signal::Panicked => Self::Panicked,
            Signal::CrashLoaded => Self::CrashLoaded,
        }
    }
}

/// Most events that wait: a guest can make them faster than they are handled, and the first ones decide.
const MOST: usize = 64;

/// Where events are left for the main thread.
pub struct EventSink {
    events: Mutex<VecDeque<MachineEvent>>,
    wake: EventFd,
}

impl EventSink {
    /// An empty sink.
    pub fn new() -> io::Result<Self> {
        Ok(Self { events: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Leaves an event and wakes the main thread.
    pub fn send(&self, event: MachineEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() < MOST {
            events.push_back(event);
        }
        drop(events);
        // EAGAIN: the counter is full, the main thread is due anyway.
        let _ = self.wake.write(1);
    }

    /// Readable while there are events.
    pub fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Takes the next event.
    pub fn take(&self) -> Option<MachineEvent> {
        let event = self.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if event.is_none() {
            // EAGAIN: nobody sent anything.
            let _ = self.wake.read();
        }
        event
    }
}
