//! The one descriptor that the main loop polls for the control socket: an epoll of its own behind it.
//!
//! Runs on the main loop's thread. It hands tokens out, each once, so that an event that is late can never be taken
//! for one of a newer connection; and it always takes descriptors out before they are closed, because
//! a client may hold a copy of a socket that it passed.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Names a descriptor to the poller.
pub(super) type Token = u64;

/// How many events one turn of the main loop handles at most.
const EVENTS_A_TURN: usize = 32;

/// The poller.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: Epoll,
    last_token: Token,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, last_token: 0 })
    }

    /// Begins to watch `fd`.
    pub(super) fn add(&mut self, fd: RawFd, interest: EventSet) -> io::Result<Token> {
        self.last_token += 1;
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(interest, self.last_token))?;
        Ok(self.last_token)
    }

    /// Changes what `fd` is watched for.
    pub(super) fn change(&self, fd: RawFd, token: Token, interest: EventSet) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Modify, fd, EpollEvent::new(interest, token))
    }

    /// Stops watching `fd`.
    pub(super) fn remove(&self, fd: RawFd) {
        // It fails only for a descriptor that is not watched, which is what is wanted.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// What is ready now; never waits.
    pub(super) fn ready(&self) -> io::Result<Vec<(Token, EventSet)>> {
        let mut events = [EpollEvent::default(); EVENTS_A_TURN];
        let count = match self.epoll.wait(0, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(events.iter().take(count).map(|event| (event.data(), event.event_set())).collect())
    }
}

impl AsRawFd for Poller {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}
