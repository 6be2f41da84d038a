//! COM1, a 16550A UART (National Semiconductor PC16550D), on the `vm-superio` crate.
//!
//! The guest's side is called by vCPU threads; input comes from the main thread. Output goes to a sink that never blocks.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::{BusDevice, IrqLine};
use crate::devices::console::ConsoleSink;
use crate::virtio::HostError;

struct Line(Arc<dyn IrqLine>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse();
        Ok(())
    }
}

struct Sink(Arc<dyn ConsoleSink>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells whoever was refused that the guest has read everything.
struct Room {
    refused: AtomicBool,
    there_is: EventFd,
}

impl SerialEvents for Room {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if self.refused.swap(false, SeqCst) {
            // An error here is EAGAIN on a full counter: it is readable all the more.
            let _ = self.there_is.write(1);
        }
    }
}

type Port = Uart<Line, Arc<Room>, Sink>;

/// The serial port.
#[derive(Clone)]
pub struct Serial {
    port: Arc<Mutex<Port>>,
    room: Arc<Room>,
}

impl Serial {
    /// A port that prints to `sink` and interrupts by `irq`; an error when the host gives no eventfd.
    pub fn new(sink: Arc<dyn ConsoleSink>, irq: Arc<dyn IrqLine>) -> Result<Self, HostError> {
        let there_is = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let there_is = there_is.map_err(|e| HostError::new("Could not make the serial port's eventfd", e))?;
        let room = Arc::new(Room { refused: AtomicBool::new(false), there_is });
        let port = Uart::with_events(Line(irq), room.clone(), Sink(sink));
        Ok(Self { port: Arc::new(Mutex::new(port)), room })
    }

    /// Types `bytes` to the guest; returns how many its FIFO took. After fewer than all, [`Self::room_fd`] becomes readable
    /// once the guest has read them.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let part = bytes.get(..port.fifo_capacity().min(bytes.len())).unwrap_or_default();
        if part.len() < bytes.len() {
            // Under the lock, so that the guest cannot empty the FIFO in between.
            self.room.refused.store(true, SeqCst);
        }
        match port.enqueue_raw_bytes(part) {
            // In loop-back mode nothing is taken: the wire is cut, and what was typed is gone.
            Ok(0) | Err(_) => part.len(),
            Ok(taken) => taken,
        }
    }

    /// Readable after [`Self::input`] took fewer bytes than it was given and the guest has read the rest since.
    pub fn room_fd(&self) -> RawFd {
        self.room.there_is.as_raw_fd()
    }

    /// Takes note that there is room, so that [`Self::room_fd`] is not readable any more.
    pub fn clear_room(&self) {
        // An error here is EAGAIN: it was cleared already.
        let _ = self.room.there_is.read();
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (Ok(register), Some(first)) = (u8::try_from(offset), data.first_mut()) {
            *first = self.port.lock().unwrap_or_else(PoisonError::into_inner).read(register);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(register), Some(first)) = (u8::try_from(offset), data.first()) {
            let written = self.port.lock().unwrap_or_else(PoisonError::into_inner).write(register, *first);
            if let Err(error) = written {
                log::debug!("The serial port dropped a write: {error:?}");
            }
        }
    }
}
