//! Fills the guest's buffers with random bytes, within a budget. Runs on an I/O thread; never blocks.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::backend::entropy;
use crate::devices::{Step, SteppedQueue};
use crate::telemetry::QueueCounters;
use crate::virtio::{Chain, HostError, Interest, Queue, Source, Worker, WorkerError};

/// Most bytes that one request yields. A driver must take a short answer (section 5.4.6.1).
pub const REQUEST_BYTES: u32 = 4096;
/// Most bytes in each [`WINDOW`].
pub const WINDOW_BYTES: u32 = 256 << 10;
/// Length of a window: it begins with the first request after the last one ended.
pub const WINDOW: Duration = Duration::from_millis(50);

/// What a request costs at least, in bytes of the budget: tiny requests are work as well.
const REQUEST_MINIMUM: u32 = 64;
/// Requests answered before other devices of the same thread get their turn.
const STEPS: u32 = 16;

pub(super) const KICK: u32 = 0;
pub(super) const WINDOW_END: u32 = 1;

/// How much a guest may still have in this window.
pub(super) struct Budget {
    left: AtomicU32,
    timer: TimerFd,
}

impl Budget {
    pub(super) fn new() -> Result<Self, HostError> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags);
        let timer = timer.map_err(|e| HostError::new("Could not make the entropy device's timer", e.into()))?;
        Ok(Self { left: AtomicU32::new(WINDOW_BYTES), timer })
    }

    /// Takes up to `wanted` bytes; `None` when the window is used up. Starts a window if none runs.
    fn take(&self, wanted: u32) -> Result<Option<u32>, HostError> {
        let left = self.left.load(Relaxed);
        if left < REQUEST_MINIMUM {
            return Ok(None);
        }
        if left == WINDOW_BYTES {
            self.start_window()?;
        }
        let granted = wanted.min(left);
        // Workers of this device follow each other, they never overlap: no other write comes between.
        self.left.store(left.saturating_sub(granted.max(REQUEST_MINIMUM)), Relaxed);
        Ok(Some(granted))
    }

    fn start_window(&self) -> Result<(), HostError> {
        let end = Expiration::OneShot(TimeSpec::from_duration(WINDOW));
        let set = self.timer.set(end, TimerSetTimeFlags::empty());
        set.map_err(|e| HostError::new("Could not start the entropy device's timer", e.into()))
    }

    fn refill(&self) {
        // An error here is EAGAIN: the expiry was taken note of already.
        let _ = self.timer.wait();
        self.left.store(WINDOW_BYTES, Relaxed);
    }

    /// The host has no entropy yet: the rest of this window is given up.
    fn give_up_window(&self) -> Result<(), HostError> {
        self.left.store(0, Relaxed);
        self.start_window()
    }
}

/// The one worker of the device.
pub(super) struct RngWorker {
    queue: SteppedQueue,
    budget: Arc<Budget>,
    counters: Arc<QueueCounters>,
}

impl RngWorker {
    pub(super) fn new(queue: Queue, budget: Arc<Budget>, counters: Arc<QueueCounters>) -> Self {
        Self { queue: SteppedQueue::new(queue), budget, counters }
    }

    fn turn(&mut self) -> Result<(), WorkerError> {
        let Self { queue, budget, counters } = self;
        queue.turn(STEPS, |chain, _| answer(chain, budget, counters))
    }
}

/// Answers one request whole; without budget it waits.
fn answer(chain: &Chain, budget: &Budget, counters: &QueueCounters) -> Result<Step, WorkerError> {
    let wanted = chain.writable.len().min(REQUEST_BYTES);
    if wanted == 0 {
        counters.add_error();
    }
    let Some(granted) = budget.take(wanted)? else {
        return Ok(Step::Wait);
    };
    let mut bytes = [0; entropy::MAX_FILL];
    let mut done = 0;
    while done < granted as usize {
        let piece = bytes.get_mut(..entropy::MAX_FILL.min(granted as usize - done)).unwrap_or_default();
        match entropy::fill(piece) {
            Ok(()) => done += chain.writable.write(done, piece),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                budget.give_up_window()?;
                return Ok(Step::Wait);
            }
            Err(e) => return Err(HostError::new("Could not get entropy from the host", e).into()),
        }
    }
    counters.add(1, u64::from(granted));
    Ok(Step::Done(granted))
}

impl Worker for RngWorker {
    fn sources(&self) -> Vec<Source> {
        let source = |fd, token| Source { fd, token, interest: Interest::Readable };
        vec![source(self.queue.kick_fd(), KICK), source(self.budget.timer.as_fd().as_raw_fd(), WINDOW_END)]
    }

    fn on_event(&mut self, token: u32) -> Result<(), WorkerError> {
        if token == WINDOW_END {
            self.budget.refill();
        }
        self.turn()
    }

    fn quiesce(&mut self) -> Result<(), WorkerError> {
        // No request stays half answered: one that waits for the next window is put back.
        let Self { queue, budget, counters } = self;
        queue.settle(|chain, _| answer(chain, budget, counters))
    }

    fn resume(&mut self) -> Result<(), WorkerError> {
        self.turn()
    }
}
