//! The device contract: what a virtio device says about itself, and what its workers do.
//!
//! A device never names a transport, spawns a thread, registers an fd, allocates an address or writes ACPI. It
//! describes; others act. The face ([`Device`]) is called by vCPU threads under the transport's lock and must return
//! quickly; the work ([`Worker`]) happens on a reactor thread.
//!
//! ```text
//!            features, config                 DRIVER_OK
//!  Device ─────────────────────► transport ──────────────► Device::activate ──► [Worker] ──► reactor
//!     ▲                                                                            │
//!     └───────────── reset: the transport drops the workers, the Device stays ◄────┘
//! ```

use std::os::fd::RawFd;
use std::sync::Arc;

use super::queue::{Interrupt, Queue};
use crate::memory::GuestMemory;
use crate::telemetry::QueueCounters;

/// Device types, virtio 1.3 section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceType {
    /// Network card, section 5.1.
    Net = 1,
    /// Block device, section 5.2.
    Block = 2,
    /// Console, section 5.3.
    Console = 3,
    /// Entropy source, section 5.4.
    Rng = 4,
    /// Memory balloon, section 5.5.
    Balloon = 5,
    /// Socket device, section 5.10.
    Vsock = 19,
}

/// The guest broke the virtio specification. Its device stops with `DEVICE_NEEDS_RESET`; nothing else is touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// The available index runs further ahead than the queue is long (section 2.7.13.3).
    #[error("Available index {index} is more than {size} entries ahead of {next}")]
    AvailIndex {
        /// Index that the driver wrote.
        index: u16,
        /// Index that the device expected next.
        next: u16,
        /// Queue size in entries.
        size: u16,
    },
    /// A descriptor index is not in the table.
    #[error("Descriptor index {index} is not below the table's size {size}")]
    DescriptorIndex {
        /// The index.
        index: u16,
        /// Number of descriptors in the table.
        size: u32,
    },
    /// A chain is longer than its table: it loops.
    #[error("Descriptor chain from {head} loops")]
    Loop {
        /// Head of the chain.
        head: u16,
    },
    /// A buffer or a table is not in guest RAM.
    #[error("Descriptor points outside of memory: {address:#x}+{len:#x}")]
    OutsideMemory {
        /// Guest-physical address.
        address: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A readable descriptor follows a writable one (section 2.7.4.2).
    #[error("Readable descriptor behind a writable one in the chain from {head}")]
    Order {
        /// Head of the chain.
        head: u16,
    },
    /// An indirect table is nested, misaligned, empty, too long or mixed with NEXT (section 2.7.5.3).
    #[error("Bad indirect table of {len} bytes in the chain from {head}")]
    Indirect {
        /// Head of the chain.
        head: u16,
        /// Length of the table in bytes.
        len: u32,
    },
    /// A chain's buffers exceed 2^32 bytes (section 2.7.5.2), or are too short for the request.
    #[error("Chain from {head} has a wrong length: {reason}")]
    Length {
        /// Head of the chain.
        head: u16,
        /// What was expected.
        reason: &'static str,
    },
    /// A ring could not be read or written; its address was valid at activation.
    #[error("Ring of queue {queue} is not accessible")]
    Ring {
        /// Queue index.
        queue: u16,
    },
    /// Anything that only this kind of device calls a breach.
    #[error("{0}")]
    Protocol(&'static str),
}

/// The host failed a device: the message says what, the source says why.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct HostError {
    /// What was being done.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: std::io::Error,
}

impl HostError {
    /// A failure of `what` because of `source`.
    pub fn new(what: impl Into<String>, source: std::io::Error) -> Self {
        Self { what: what.into(), source }
    }
}

/// Why a worker stopped.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The guest's fault: the device needs a reset by its driver.
    #[error(transparent)]
    Guest(#[from] GuestFault),
    /// The host's fault: the device needs a reset as well, and the operator hears of it.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Which readiness of an fd wakes a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Level-triggered readability.
    Readable,
    /// Level-triggered writability.
    Writable,
    /// Edge-triggered: one event for each change of readability. The worker must drain the fd, or remember that it has not.
    ReadableEdge,
    /// Edge-triggered, both directions.
    BothEdge,
}

/// An fd that wakes a worker, and the token by which the worker knows it.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The fd; owned by the worker, open as long as the worker lives or until it says [`Worker::sources_changed`].
    pub fd: RawFd,
    /// Handed back to [`Worker::on_event`].
    pub token: u32,
    /// What to wait for.
    pub interest: Interest,
}

/// What a turn of polling found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Nothing to do.
    Idle,
    /// Some work was done.
    Worked,
}

/// The work of a device (or of one of its queues): rings on one side, a back end on the other.
///
/// All calls come from one thread at a time. Dropping a worker ends it: `drop` waits until nothing that it started may
/// touch guest memory any more.
pub trait Worker: Send {
    /// The fds that wake it. Queue kicks are among them: see [`Queue::kick_fd`].
    fn sources(&self) -> Vec<Source>;

    /// Whether [`Self::sources`] changed since this was last asked; asked after every call. For devices whose set of
    /// fds moves (vsock connections).
    fn sources_changed(&mut self) -> bool {
        false
    }

    /// Something happened on the source with this token. Plain call: needs no thread and no KVM. Must not block.
    fn on_event(&mut self, token: u32) -> Result<(), WorkerError>;

    /// Looks for new work without having been woken; called in a row while the device is busy, between
    /// [`Self::start_polling`] and [`Self::stop_polling`]. A device that gains nothing from it leaves the default.
    fn poll(&mut self) -> Result<Polled, WorkerError> {
        Ok(Polled::Idle)
    }

    /// Polling begins: ask the driver for no kicks.
    fn start_polling(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }

    /// Polling ends: ask the driver for kicks again. `Worked` when work slipped in between, so that the reactor goes on.
    fn stop_polling(&mut self) -> Result<Polled, WorkerError> {
        Ok(Polled::Idle)
    }

    /// Finishes what is in flight: after it returns, guest memory is not touched until [`Self::resume`].
    fn quiesce(&mut self) -> Result<(), WorkerError>;

    /// Goes on after [`Self::quiesce`]: looks at queues and back end as if every source had fired.
    fn resume(&mut self) -> Result<(), WorkerError>;
}

/// Everything a device is given when the driver says `DRIVER_OK`.
pub struct Activation {
    /// Guest RAM.
    pub memory: GuestMemory,
    /// One entry for each queue that the device has; `None` where the driver left it disabled.
    pub queues: Vec<Option<Queue>>,
    /// For configuration-change interrupts.
    pub interrupt: Arc<dyn Interrupt>,
    /// The feature bits that both sides agreed on.
    pub features: u64,
}

/// The face of a virtio device: identity, features, configuration, and the making of its workers.
///
/// The order is always: (features, config)* → `activate` → (config)* → `reset` → again. `activate` is called at most
/// once between two resets.
pub trait Device: Send {
    /// Which device this is.
    fn device_type(&self) -> DeviceType;

    /// Instance name for logs, statistics and control requests: unique in the VM (`disk0`, `net0`).
    fn id(&self) -> &str;

    /// Largest size in entries of each queue, powers of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Device-specific feature bits offered (section 5). The transport adds `VERSION_1`, `INDIRECT_DESC`, `EVENT_IDX`.
    fn features(&self) -> u64;

    /// Reads the device configuration at `offset` (section 2.5); what lies beyond its end reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device configuration; writes to read-only or unknown places are ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Counters of each queue, in queue order; they survive resets.
    fn counters(&self) -> Vec<Arc<QueueCounters>>;

    /// The driver is ready: make the workers. The first worker runs on the first I/O thread, the second on the next…
    fn activate(&mut self, activation: Activation) -> Result<Vec<Box<dyn Worker>>, WorkerError>;

    /// The driver reset the device; its workers are gone already. Configuration returns to its initial values.
    fn reset(&mut self);
}

/// Where workers run. The reactor implements it; the transport calls it.
pub trait WorkerHost: Send + Sync {
    /// Starts workers; `on_error` is called, on the worker's thread, with the reason why one of them stopped. The worker
    /// that failed is dropped before.
    fn start(&self, workers: Vec<Box<dyn Worker>>, on_error: Arc<dyn Fn(WorkerError) + Send + Sync>) -> WorkerGroup;

    /// Ends and drops the workers of a group; on return they touch guest memory no more. Workers that failed are gone
    /// already.
    fn stop(&self, group: WorkerGroup);
}

/// Names the workers of one activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerGroup(pub u64);
