//! What the host's users typed and the guest has not read yet.
//!
//! Viewers push on the control thread, the device's worker takes on an I/O thread. It is bounded: when it is full, the
//! viewer is to stop reading from its client until there is room again.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::virtio::HostError;

/// Most bytes that wait for the guest.
pub const INPUT_BYTES: usize = 16 << 10;

struct Waiting {
    bytes: VecDeque<u8>,
    // Somebody was refused and wants to hear of room.
    refused: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    arrived: EventFd,
    room: EventFd,
}

/// The input side of a console; cheap to clone.
#[derive(Clone)]
pub struct ConsoleInput {
    shared: Arc<Shared>,
}

impl ConsoleInput {
    /// An empty one; an error when the host gives no eventfd.
    pub(super) fn new() -> Result<Self, HostError> {
        let eventfd = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let fail = |e| HostError::new("Could not make the console's eventfds", e);
        let waiting = Mutex::new(Waiting { bytes: VecDeque::new(), refused: false });
        let shared = Shared { waiting, arrived: eventfd().map_err(fail)?, room: eventfd().map_err(fail)? };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Types `bytes`; returns how many were taken. When it is fewer than all, [`Self::room_fd`] becomes readable as soon as
    /// the guest has read everything that waited.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let mut waiting = self.waiting();
        let taken = bytes.len().min(INPUT_BYTES.saturating_sub(waiting.bytes.len()));
        waiting.bytes.extend(bytes.iter().take(taken));
        waiting.refused |= taken < bytes.len();
        drop(waiting);
        if taken > 0 {
            // An error here is EAGAIN on a full counter: it is readable all the more.
            let _ = self.shared.arrived.write(1);
        }
        taken
    }

    /// Readable after [`Self::push`] took fewer bytes than it was given and the guest has read the rest since.
    pub fn room_fd(&self) -> RawFd {
        self.shared.room.as_raw_fd()
    }

    /// Takes note that there is room, so that [`Self::room_fd`] is not readable any more.
    pub fn clear_room(&self) {
        // An error here is EAGAIN: it was cleared already.
        let _ = self.shared.room.read();
    }

    pub(super) fn arrived_fd(&self) -> RawFd {
        self.shared.arrived.as_raw_fd()
    }

    pub(super) fn clear_arrived(&self) {
        // An error here is EAGAIN: it was cleared already.
        let _ = self.shared.arrived.read();
    }

    /// Moves bytes to the guest: `write` is given what waits, in up to two parts, and says how many of a part it took.
    pub(super) fn take(&self, mut write: impl FnMut(&[u8]) -> usize) -> usize {
        let mut waiting = self.waiting();
        let (first, second) = waiting.bytes.as_slices();
        let mut taken = write(first);
        if taken == first.len() {
            taken += write(second);
        }
        waiting.bytes.drain(..taken);
        if waiting.refused && waiting.bytes.is_empty() {
            waiting.refused = false;
            // As above: a full counter is readable.
            let _ = self.shared.room.write(1);
        }
        taken
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
