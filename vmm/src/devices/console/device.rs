//! The face of virtio-console: features, window size, emergency writes (sections 5.3.3 and 5.3.4).
//!
//! Called by vCPU threads under the transport's lock; [`ConsoleHandle`] by the control thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::worker::ConsoleWorker;
use super::{ConsoleInput, ConsoleSink};
use crate::devices::{ConfigSignal, read_config};
use crate::telemetry::QueueCounters;
use crate::virtio::{Activation, Device, DeviceType, GuestFault, HostError, Worker, WorkerError};

const QUEUE_SIZE: u16 = 128;

/// `VIRTIO_CONSOLE_F_SIZE`, section 5.3.3.
const F_SIZE: u64 = 1 << 0;
/// `VIRTIO_CONSOLE_F_EMERG_WRITE`, section 5.3.3.
const F_EMERG_WRITE: u64 = 1 << 2;
/// Offset of `emerg_wr` in the configuration, section 5.3.4.
const EMERG_WRITE: u64 = 8;

/// Size of the viewer's window in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

#[derive(Default)]
struct Window {
    // Columns in the low half: the two change together.
    size: AtomicU32,
    signal: ConfigSignal,
}

/// What the control side holds of a console.
#[derive(Clone)]
pub struct ConsoleHandle {
    window: Arc<Window>,
    input: ConsoleInput,
}

impl ConsoleHandle {
    /// The viewer's window changed; the guest is told by a configuration interrupt.
    pub fn resize(&self, size: ConsoleSize) {
        let packed = u32::from(size.columns) | u32::from(size.rows) << 16;
        if self.window.size.swap(packed, Relaxed) != packed {
            self.window.signal.raise();
        }
    }

    /// Where viewers type.
    pub fn input(&self) -> ConsoleInput {
        self.input.clone()
    }
}

/// A console of one port.
pub struct Console {
    id: String,
    sink: Arc<dyn ConsoleSink>,
    handle: ConsoleHandle,
    counters: [Arc<QueueCounters>; 2],
}

impl Console {
    /// A console whose output goes to `sink`; an error when the host gives no eventfds.
    pub fn new(id: impl Into<String>, sink: Arc<dyn ConsoleSink>) -> Result<Self, HostError> {
        let handle = ConsoleHandle { window: Arc::default(), input: ConsoleInput::new()? };
        Ok(Self { id: id.into(), sink, handle, counters: [Arc::default(), Arc::default()] })
    }

    /// The control side's handle.
    pub fn handle(&self) -> ConsoleHandle {
        self.handle.clone()
    }
}

impl Device for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        F_SIZE | F_EMERG_WRITE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // cols and rows; max_nr_ports and emerg_wr read as zero.
        read_config(&self.handle.window.size.load(Relaxed).to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // Section 5.3.5.2: the lowest byte is a character to print, whatever the device's state.
        if let (EMERG_WRITE, Some(character)) = (offset, data.first()) {
            self.sink.write(std::slice::from_ref(character));
        }
    }

    fn counters(&self) -> Vec<Arc<QueueCounters>> {
        self.counters.to_vec()
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Box<dyn Worker>>, WorkerError> {
        let mut queues = activation.queues.into_iter().flatten();
        let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) else {
            return Err(GuestFault::Protocol("The console's queues are not both enabled").into());
        };
        self.handle.window.signal.set(Some(activation.interrupt));
        let worker =
            ConsoleWorker::new([receive, transmit], self.handle.input(), self.sink.clone(), self.counters.clone());
        Ok(vec![Box::new(worker)])
    }

    fn reset(&mut self) {
        self.handle.window.signal.set(None);
    }
}
