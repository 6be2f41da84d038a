//! COM1, a 16550A UART (National Semiconductor PC16550D), on the `vm-superio` crate.
//!
//! The guest's side is called by vCPU threads; input comes from the main thread. Output goes to a sink that never blocks.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::{Serial as Uart, Trigger, serial::NoEvents};

use crate::bus::{BusDevice, IrqLine};
use crate::devices::console::ConsoleSink;

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

type Port = Uart<Line, NoEvents, Sink>;

/// The serial port.
#[derive(Clone)]
pub struct Serial {
    port: Arc<Mutex<Port>>,
}

impl Serial {
    /// A port that prints to `sink` and interrupts by `irq`.
    pub fn new(sink: Arc<dyn ConsoleSink>, irq: Arc<dyn IrqLine>) -> Self {
        Self { port: Arc::new(Mutex::new(Uart::new(Line(irq), Sink(sink)))) }
    }

    /// Types `bytes` to the guest; returns how many its FIFO took. The rest is to be offered again later.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let room = port.fifo_capacity().min(bytes.len());
        // Fails when the FIFO is full, which `room` excludes, or in loop-back mode, where input is dropped.
        bytes.get(..room).map_or(0, |part| port.enqueue_raw_bytes(part).unwrap_or(part.len()))
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
