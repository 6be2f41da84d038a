//! A client for programs without an async runtime, such as `quantix-vmm ctl` and tests.
//!
//! Runs on the caller's thread and waits there, never longer than the caller allows. One call at a time; events that
//! come in between are kept for [`BlockingClient::next_event`].

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use thiserror::Error;

use crate::call::{Call, CallError};
use crate::transport::{Connection, Packet, PacketBuffer, TransportError, encode};
use crate::v1::envelope::Message;
use crate::v1::{Envelope, Event, Request, Response};

#[cfg(test)]
mod tests;

/// How many events are kept while nobody asks for them.
const KEPT_EVENTS: usize = 1024;

/// Why a call or a wait failed.
#[derive(Debug, Error)]
pub enum BlockingError {
    /// The socket failed, or the machine ended.
    #[error("The control connection failed")]
    Transport(#[from] TransportError),
    /// The machine refused, or did not understand.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The machine did not answer in time.
    #[error("The machine did not answer within {} ms", after.as_millis())]
    Deadline {
        /// How long the caller allowed.
        after: Duration,
    },
}

/// A connection to one machine.
#[derive(Debug)]
pub struct BlockingClient {
    connection: Connection,
    buffer: PacketBuffer,
    last_id: u64,
    events: VecDeque<Event>,
    lost: u64,
}

impl BlockingClient {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// As for [`Connection::connect`].
    pub fn connect(path: &Path) -> Result<Self, TransportError> {
        Ok(Self::new(Connection::connect(path)?))
    }

    /// Uses a connection that was made elsewhere.
    pub fn new(connection: Connection) -> Self {
        Self { connection, buffer: PacketBuffer::new(), last_id: 0, events: VecDeque::new(), lost: 0 }
    }

    /// Sends a command and waits for its answer, at most `deadline`.
    ///
    /// # Errors
    /// [`BlockingError::Call`] when the machine refuses; the connection is good for further calls then, and after
    /// [`BlockingError::Deadline`] too: a late answer is thrown away.
    pub fn call<C: Call>(&mut self, command: C, deadline: Duration) -> Result<C::Reply, BlockingError> {
        self.call_with_fds(command, &[], deadline).map(|(reply, _)| reply)
    }

    /// The same with descriptors: `fds` go with the command, and those that come with the answer are returned.
    ///
    /// # Errors
    /// As for [`BlockingClient::call`].
    pub fn call_with_fds<C: Call>(
        &mut self,
        command: C,
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<(C::Reply, Vec<OwnedFd>), BlockingError> {
        let limit = Limit::new(deadline);
        self.last_id += 1;
        let request = Request { id: self.last_id, command: Some(command.into_command()) };
        self.send(&encode(&Envelope { message: Some(Message::Request(request)) })?, fds, &limit)?;
        loop {
            let packet = self.receive(&limit)?;
            match packet.envelope.message {
                // Id 0 says that our packet was not understood; with one call at a time there is no doubt which.
                Some(Message::Response(Response { id, outcome })) if id == self.last_id || id == 0 => {
                    return Ok((C::reply(outcome, packet.fds.len())?, packet.fds));
                }
                Some(Message::Event(event)) => self.keep(event),
                _ => {}
            }
        }
    }

    /// Waits for the next event, at most `deadline`; [`None`] when there was none.
    ///
    /// # Errors
    /// [`BlockingError::Transport`], above all when the machine ended.
    pub fn next_event(&mut self, deadline: Duration) -> Result<Option<Event>, BlockingError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let limit = Limit::new(deadline);
        loop {
            match self.receive(&limit) {
                Ok(Packet { envelope: Envelope { message: Some(Message::Event(event)) }, .. }) => {
                    return Ok(Some(event));
                }
                Ok(_) => {}
                Err(BlockingError::Deadline { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps an event for later. When there are too many the newest are dropped, and the next that is kept says so.
    fn keep(&mut self, mut event: Event) {
        if self.events.len() >= KEPT_EVENTS {
            self.lost = self.lost.saturating_add(event.lost).saturating_add(1);
            return;
        }
        event.lost = event.lost.saturating_add(std::mem::take(&mut self.lost));
        self.events.push_back(event);
    }

    fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], limit: &Limit) -> Result<(), BlockingError> {
        loop {
            match self.connection.send_encoded(bytes, fds) {
                Err(TransportError::WouldBlock) => limit.wait(&self.connection, PollFlags::OUT)?,
                other => return Ok(other?),
            }
        }
    }

    fn receive(&mut self, limit: &Limit) -> Result<Packet, BlockingError> {
        loop {
            match self.connection.receive(&mut self.buffer) {
                Err(TransportError::WouldBlock) => limit.wait(&self.connection, PollFlags::IN)?,
                other => return Ok(other?),
            }
        }
    }
}

impl AsFd for BlockingClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// When to give up.
struct Limit {
    after: Duration,
    start: Instant,
}

impl Limit {
    fn new(after: Duration) -> Self {
        Self { after, start: Instant::now() }
    }

    /// Waits until the connection may be ready, or the time is over.
    fn wait(&self, connection: &Connection, flags: PollFlags) -> Result<(), BlockingError> {
        let left = self.after.saturating_sub(self.start.elapsed());
        // A time that does not fit means for ever.
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(connection, flags)], timeout.as_ref()) {
            Ok(0) => Err(BlockingError::Deadline { after: self.after }),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(TransportError::System { call: "poll", source: errno.into() }.into()),
        }
    }
}
