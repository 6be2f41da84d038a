//! Events on their way from any thread to the control thread.
//!
//! Senders never wait: the queue is bounded, and what does not fit is counted and told with the next event that does.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quantix_vmm_api::v1::event::Kind;
use quantix_vmm_api::v1::{Event, EventKind};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::telemetry::monotonic_ns;

/// How many events wait for the control thread at most.
const QUEUED_EVENTS: usize = 256;

/// Makes a queue. Senders may be used, and forgotten, whether or not anybody receives.
///
/// # Errors
/// The host gives no eventfd.
pub fn event_queue() -> io::Result<(EventSender, EventReceiver)> {
    let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
    let shared = Arc::new(Shared { state: Mutex::new(State::default()), wake });
    Ok((EventSender(Arc::clone(&shared)), EventReceiver(shared)))
}

/// The sending side; any thread, any number of clones.
#[derive(Debug, Clone)]
pub struct EventSender(Arc<Shared>);

/// The receiving side: the control thread.
#[derive(Debug)]
pub struct EventReceiver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    sequence: u64,
    lost: u64,
}

impl EventSender {
    /// Tells that something happened now. Never waits.
    pub fn send(&self, kind: Kind) {
        let time_ns = monotonic_ns();
        let mut state = self.0.lock();
        state.sequence = state.sequence.saturating_add(1);
        if state.waiting.len() >= QUEUED_EVENTS {
            state.lost = state.lost.saturating_add(1);
            return;
        }
        let event = Event { sequence: state.sequence, time_ns, lost: state.lost, kind: Some(kind) };
        state.lost = 0;
        state.waiting.push_back(event);
        let first = state.waiting.len() == 1;
        drop(state);
        if first {
            // It fails only when the counter is full, and then it is readable all the more.
            let _ = self.0.wake.write(1);
        }
    }
}

impl EventReceiver {
    /// Takes everything that waits.
    pub(super) fn take(&self) -> VecDeque<Event> {
        // It fails only when nothing was signalled, and then there may still be an event in between.
        let _ = self.0.wake.read();
        std::mem::take(&mut self.0.lock().waiting)
    }
}

impl AsRawFd for EventReceiver {
    fn as_raw_fd(&self) -> RawFd {
        self.0.wake.as_raw_fd()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind under which a subscriber asks for such an event.
pub(super) fn kind_of(kind: &Kind) -> EventKind {
    match kind {
        Kind::PhaseChanged(_) => EventKind::PhaseChanged,
        Kind::GuestPanicked(_) => EventKind::GuestPanicked,
        Kind::GuestShutdown(_) | Kind::GuestReset(_) => EventKind::GuestPower,
        Kind::DeviceFault(_) => EventKind::DeviceFault,
        Kind::BalloonStatistics(_) => EventKind::BalloonStatistics,
        Kind::LogWarning(_) => EventKind::LogWarning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantix_vmm_api::v1::GuestShutdown;

    #[test]
    fn a_full_queue_counts_what_it_loses() {
        let (sender, receiver) = event_queue().expect("a queue");
        for _ in 0..QUEUED_EVENTS + 5 {
            sender.send(Kind::GuestShutdown(GuestShutdown {}));
        }
        let taken = receiver.take();
        assert_eq!(taken.len(), QUEUED_EVENTS);
        assert!(taken.iter().all(|event| event.lost == 0));
        sender.send(Kind::GuestShutdown(GuestShutdown {}));
        let next = receiver.take().pop_front().expect("an event");
        assert_eq!((next.lost, next.sequence), (5, QUEUED_EVENTS as u64 + 6));
    }
}
