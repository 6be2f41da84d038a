//! The client of the node daemon, on tokio: many calls at once, events as a stream.
//!
//! One task of the caller's runtime reads the connection; calls are matched with answers by their id. The task ends
//! when the machine does, when the peer breaks the protocol, or when the last [`Client`] is dropped.
//!
//! What the machine sends is not trusted: answers nobody asked for are thrown away with their descriptors, and an
//! event stream that is read too slowly loses events instead of memory.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, oneshot};
use tokio::task::AbortHandle;

use crate::call::{Call, CallError};
use crate::transport::{Connection, Packet, PacketBuffer, Peer, TransportError, encode, peer_of, receive_on, send_on};
use crate::v1::envelope::Message;
use crate::v1::response::Outcome;
use crate::v1::{Envelope, Event, EventKind, Request, SubscribeEvents};

#[cfg(test)]
mod tests;

/// How many events an [`EventStream`] holds before it loses the oldest.
pub const EVENT_BUFFER: usize = 256;

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The socket could not be used.
    #[error("The control connection failed")]
    Transport(#[from] TransportError),
    /// The machine refused, or did not understand.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The machine did not answer in time. It may still do what it was told.
    #[error("The machine did not answer within {} ms", after.as_millis())]
    Deadline {
        /// How long the caller allowed.
        after: Duration,
    },
    /// The connection ended: the machine is gone, or it broke the protocol.
    #[error("The control connection is closed")]
    Disconnected,
}

/// What an [`EventStream`] yields.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamItem {
    /// The next event.
    Event(Event),
    /// So many events are missing here, because this stream or this connection was read too slowly. Whoever
    /// follows a state must ask for it anew.
    Lagged(u64),
}

/// Answers that are waited for, by request id; [`None`] once the connection is closed.
type Pending = Mutex<Option<HashMap<u64, oneshot::Sender<(Option<Outcome>, Vec<OwnedFd>)>>>>;

#[derive(Debug)]
struct Shared {
    /// The connection. Of the stream's own methods only those that tell about readiness are used: the socket is
    /// one of packets, which tokio has no type for, and only a type of its own lets us wait for it without `unsafe`.
    socket: UnixStream,
    pending: Pending,
    events: Mutex<Option<broadcast::Sender<Event>>>,
    last_id: AtomicU64,
}

/// A connection to one machine. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _reader: Arc<ReaderTask>,
}

/// Ends the task with the last client.
#[derive(Debug)]
struct ReaderTask(AbortHandle);

impl Drop for ReaderTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Connects to the control socket at `path`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As for [`Connection::connect`].
    pub fn connect(path: &Path) -> Result<Self, TransportError> {
        Self::new(Connection::connect(path)?)
    }

    /// Uses a socket that was connected elsewhere. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`TransportError::WrongSocket`] when it is not a sequential-packet unix socket.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TransportError> {
        Self::new(Connection::from_fd(fd)?)
    }

    fn new(connection: Connection) -> Result<Self, TransportError> {
        let stream = StdUnixStream::from(OwnedFd::from(connection));
        let socket = stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream))
            .map_err(|source| TransportError::System { call: "epoll_ctl", source })?;
        let shared = Arc::new(Shared {
            socket,
            pending: Mutex::new(Some(HashMap::new())),
            events: Mutex::new(Some(broadcast::Sender::new(EVENT_BUFFER))),
            last_id: AtomicU64::new(0),
        });
        let reader = tokio::spawn(read_all(Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, _reader: Arc::new(ReaderTask(reader)) })
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// [`TransportError::System`] when the kernel does not say.
    pub fn peer(&self) -> Result<Peer, TransportError> {
        peer_of(self.shared.socket.as_fd())
    }

    /// Sends a command and waits for its answer, at most `deadline`.
    ///
    /// # Errors
    /// See [`ClientError`]. After a refusal or a missed deadline the connection is good for further calls.
    pub async fn call<C: Call>(&self, command: C, deadline: Duration) -> Result<C::Reply, ClientError> {
        self.call_with_fds(command, &[], deadline).await.map(|(reply, _)| reply)
    }

    /// The same with descriptors: `fds` go with the command, and those that come with the answer are returned.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub async fn call_with_fds<C: Call>(
        &self,
        command: C,
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<(C::Reply, Vec<OwnedFd>), ClientError> {
        let exchange = self.shared.exchange(command.into_command(), fds);
        let (outcome, fds) =
            tokio::time::timeout(deadline, exchange).await.map_err(|_| ClientError::Deadline { after: deadline })??;
        Ok((C::reply(outcome, fds.len())?, fds))
    }

    /// Subscribes to events, waiting for the machine's word at most `deadline`. No kinds means all kinds.
    ///
    /// The subscription belongs to the connection: a further call adds kinds, and every stream of this client sees
    /// them. The stream begins with the first event after this call began.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub async fn events(&self, kinds: &[EventKind], deadline: Duration) -> Result<EventStream, ClientError> {
        let receiver = lock(&self.shared.events).as_ref().ok_or(ClientError::Disconnected)?.subscribe();
        let kinds = kinds.iter().map(|&kind| kind.into()).collect();
        self.call(SubscribeEvents { kinds }, deadline).await?;
        Ok(EventStream { receiver, held: None })
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        let receiver = lock(&self.shared.events).as_ref().map(broadcast::Sender::subscribe);
        if let Some(mut receiver) = receiver {
            while !matches!(receiver.recv().await, Err(broadcast::error::RecvError::Closed)) {}
        }
    }
}

/// The events of one connection, in order.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Event>,
    /// An event whose `lost` count was told first.
    held: Option<Event>,
}

impl EventStream {
    /// Waits for the next item; [`None`] when the connection has ended. Safe to cancel.
    pub async fn next(&mut self) -> Option<StreamItem> {
        if let Some(event) = self.held.take() {
            return Some(StreamItem::Event(event));
        }
        match self.receiver.recv().await {
            Ok(event) if event.lost > 0 => {
                let lost = event.lost;
                self.held = Some(event);
                Some(StreamItem::Lagged(lost))
            }
            Ok(event) => Some(StreamItem::Event(event)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(StreamItem::Lagged(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Shared {
    async fn exchange(
        &self,
        command: crate::v1::request::Command,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Option<Outcome>, Vec<OwnedFd>), ClientError> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = encode(&Envelope { message: Some(Message::Request(Request { id, command: Some(command) })) })?;
        let (sender, receiver) = oneshot::channel();
        lock(&self.pending).as_mut().ok_or(ClientError::Disconnected)?.insert(id, sender);
        // Whatever happens below, cancellation too, nobody waits for this answer any longer.
        let _entry = PendingEntry { pending: &self.pending, id };
        self.send(&bytes, fds).await?;
        receiver.await.map_err(|_| ClientError::Disconnected)
    }

    async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        loop {
            self.socket.writable().await.map_err(|_| ClientError::Disconnected)?;
            match try_io(&self.socket, Interest::WRITABLE, || send_on(self.socket.as_fd(), bytes, fds)) {
                Err(TransportError::WouldBlock) => {}
                Err(TransportError::Closed) => return Err(ClientError::Disconnected),
                other => return Ok(other?),
            }
        }
    }

    fn dispatch(&self, packet: Packet) {
        match packet.envelope.message {
            Some(Message::Response(response)) => {
                let waiting = lock(&self.pending).as_mut().and_then(|pending| pending.remove(&response.id));
                if let Some(waiting) = waiting {
                    // The caller may have given up this very moment.
                    let _ = waiting.send((response.outcome, packet.fds));
                }
            }
            Some(Message::Event(event)) => {
                if let Some(events) = lock(&self.events).as_ref() {
                    // Nobody may be listening.
                    let _ = events.send(event);
                }
            }
            Some(Message::Request(_)) | None => {}
        }
    }
}

struct PendingEntry<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for PendingEntry<'_> {
    fn drop(&mut self) {
        if let Some(pending) = lock(self.pending).as_mut() {
            pending.remove(&self.id);
        }
    }
}

/// Closes both maps when the reader ends, however it ends, so that every caller hears of it.
struct CloseOnDrop<'a>(&'a Shared);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        *lock(&self.0.pending) = None;
        *lock(&self.0.events) = None;
    }
}

async fn read_all(shared: Arc<Shared>) {
    let _close = CloseOnDrop(&shared);
    let mut buffer = PacketBuffer::new();
    while shared.socket.readable().await.is_ok() {
        match try_io(&shared.socket, Interest::READABLE, || receive_on(shared.socket.as_fd(), &mut buffer)) {
            Ok(packet) => shared.dispatch(packet),
            Err(TransportError::WouldBlock) => {}
            Err(_) => return,
        }
        // A machine that sends without end must not keep this thread of the runtime.
        tokio::task::consume_budget().await;
    }
}

/// Runs one operation and tells tokio when the socket turned out not to be ready.
fn try_io<T>(
    socket: &UnixStream,
    interest: Interest,
    operation: impl FnOnce() -> Result<T, TransportError>,
) -> Result<T, TransportError> {
    let mut result = Err(TransportError::WouldBlock);
    let told = socket.try_io(interest, || {
        result = operation();
        match result {
            Err(TransportError::WouldBlock) => Err(std::io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    match told {
        Ok(()) => result,
        Err(_) => Err(TransportError::WouldBlock),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
