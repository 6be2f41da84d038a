//! The worker of a queue pair whose frames the host's kernel moves (`vhost=auto|on`).
//!
//! Runs on a reactor thread. What is left to do here is to start and to stop the kernel's work, to pass its interrupts
//! on through MSI-X, and to count. Interrupts take this way, and not one through the kernel alone, so that masking, vectors
//! and reset work as for every other device: nothing of KVM's routing has to follow what the guest writes.

use std::num::Wrapping;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::tap::Tap;
use crate::backend::vhost_net::{VhostNet, VhostRing};
use crate::memory::GuestMemory;
use crate::telemetry::QueueCounters;
use crate::virtio::{GuestFault, HostError, Interest, Queue, Source, Worker, WorkerError};

/// Calls have the token of their ring, errors this much more.
const ERRORS: u32 = 2;

/// A place from which a worker takes its pair's device, and to which it gives it back.
pub(super) type Shelf = Arc<Mutex<Option<VhostNet>>>;

/// A queue whose rings the kernel works on.
struct Lent {
    queue: Queue,
    counters: Arc<QueueCounters>,
    /// The used index up to which was counted.
    counted: Wrapping<u16>,
}

impl Lent {
    fn ring(&self) -> VhostRing {
        let [descriptors, available, used] = self.queue.rings();
        let (next_available, _) = self.queue.positions();
        let kick = self.queue.kick_fd();
        VhostRing { size: self.queue.size(), descriptors, available, used, next_available, kick }
    }

    /// Counts what the kernel gave back; it does not tell how many bytes that was.
    fn count(&mut self) -> Result<(), GuestFault> {
        let used = Wrapping(self.queue.used_index()?);
        self.counters.add(u64::from((used - self.counted).0), 0);
        self.counted = used;
        Ok(())
    }
}

/// What a pair works with.
pub(super) struct Wires {
    pub(super) memory: GuestMemory,
    /// What the driver accepted.
    pub(super) features: u64,
    pub(super) tap: Arc<Tap>,
    /// Number of the pair, and of its queue of the tap.
    pub(super) index: usize,
    pub(super) id: String,
}

/// See the module's header.
pub(super) struct VhostPair {
    wires: Wires,
    /// `None` only after drop.
    device: Option<VhostNet>,
    shelf: Shelf,
    rings: [Lent; 2],
    running: bool,
}

impl VhostPair {
    /// Joins the (receive, transmit) queues by the device on `shelf`.
    pub(super) fn new(
        wires: Wires,
        shelf: &Shelf,
        (receive, transmit): (Queue, Queue),
        counters: (Arc<QueueCounters>, Arc<QueueCounters>),
    ) -> Result<Self, HostError> {
        let missing = || HostError::new("A queue pair has no vhost-net", std::io::ErrorKind::NotFound.into());
        let device = shelf.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(missing)?;
        let lent = |queue, counters| Lent { queue, counters, counted: Wrapping(0) };
        let rings = [lent(receive, counters.0), lent(transmit, counters.1)];
        Ok(Self { wires, device: Some(device), shelf: shelf.clone(), rings, running: false })
    }

    fn start(&mut self) -> Result<(), WorkerError> {
        let Self { wires, device: Some(device), rings, running: running @ false, .. } = self else { return Ok(()) };
        let missing = GuestFault::Protocol("More queue pairs than the network card has");
        let tap = wires.tap.queues().get(wires.index).ok_or(missing)?;
        // Before the attempt: one that fails half-way is to be stopped as well.
        *running = true;
        let started = device.start(wires.memory, wires.features, rings.each_ref().map(Lent::ring), tap);
        started.map_err(|e| HostError::new("Could not hand the network card's rings to vhost-net", e))?;
        for lent in rings {
            // A kick that came while nobody worked on the ring was lost.
            lent.queue.kick_self();
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), WorkerError> {
        let Self { device: Some(device), rings, running: running @ true, .. } = self else { return Ok(()) };
        *running = false;
        let stopped = device.stop();
        let next =
            stopped.map_err(|e| HostError::new("Could not take the network card's rings back from vhost-net", e))?;
        for (lent, next) in rings.iter_mut().zip(next) {
            lent.count()?;
            lent.queue.set_positions(next, lent.counted.0);
        }
        Ok(())
    }

    /// Passes interrupts on that the kernel has asked for.
    fn pass_on(&mut self) -> Result<(), WorkerError> {
        let Some(device) = &self.device else { return Ok(()) };
        for (index, lent) in self.rings.iter_mut().enumerate() {
            if device.take_call(index) {
                lent.count()?;
                lent.queue.interrupt();
            }
            if device.take_error(index) {
                lent.counters.add_guest_fault();
                return Err(GuestFault::Protocol("vhost-net found a ring of the network card broken").into());
            }
        }
        Ok(())
    }
}

impl Worker for VhostPair {
    fn sources(&self) -> Vec<Source> {
        let Some(device) = &self.device else { return Vec::new() };
        let source = |fd, token| Source { fd, token, interest: Interest::Readable };
        let calls = device.call_fds().into_iter().zip(0..).map(|(fd, token)| source(fd, token));
        let errors = device.error_fds().into_iter().zip(ERRORS..).map(|(fd, token)| source(fd, token));
        calls.chain(errors).collect()
    }

    fn on_event(&mut self, _token: u32) -> Result<(), WorkerError> {
        self.pass_on()
    }

    fn quiesce(&mut self) -> Result<(), WorkerError> {
        self.stop()?;
        self.pass_on()
    }

    fn resume(&mut self) -> Result<(), WorkerError> {
        self.start()
    }
}

impl Drop for VhostPair {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::error!("{}: vhost-net could not be stopped: {error}", self.wires.id);
            // Closing the device stops it for good; the next activation fails and says so.
            self.device = None;
        }
        if let Some(device) = self.device.take() {
            for ring in 0..2 {
                // What was left from this activation means nothing to the next one.
                device.take_call(ring);
                device.take_error(ring);
            }
            *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(device);
        }
    }
}
