//! virtio-vsock through the driver crate. The host end is a unix socket: `PATH_PORT` for connections of the guest,
//! `CONNECT PORT` on `PATH` for those of the host (`quantix-bench vsock` is such an end).

mod bench;
mod stream;

pub use bench::round_trip;
pub use stream::{answer, echo, stream};

use alloc::format;
use alloc::string::String;

use virtio_drivers::device::socket::{VirtIOSocket, VsockAddr, VsockConnectionManager, VsockEvent, VsockEventType};
use virtio_drivers::transport::DeviceType;

use crate::dma::Identity;
use crate::ensure;
use crate::machine::Machine;
use crate::report::Outcome;
use crate::transport::Kicking;

const HOST: u64 = 2;
/// Bytes the guest takes before it must have read some.
const CREDIT: u32 = 64 << 10;
/// Bytes of a receive buffer, packet header included.
const BUFFER: usize = 4096 + 44;
const LOCAL_PORT: u32 = 1025;

/// A connection with what it needs to go on.
pub(self) struct Connection {
    manager: VsockConnectionManager<Identity, Kicking, BUFFER>,
    peer: VsockAddr,
    local: u32,
    /// The other end will send no more.
    pub closed: bool,
}

fn words(error: virtio_drivers::Error) -> String {
    format!("The socket failed: {error}")
}

fn patience(machine: &Machine<'_>) -> u64 {
    machine.options.number("wait_ms").unwrap_or(10_000)
}

impl Connection {
    fn manager(machine: &mut Machine<'_>) -> Result<VsockConnectionManager<Identity, Kicking, BUFFER>, String> {
        let socket = VirtIOSocket::new(machine.transport(DeviceType::Socket)?).map_err(words)?;
        Ok(VsockConnectionManager::new_with_capacity(socket, CREDIT))
    }

    /// Connects to `port=` of the host (default 5000).
    pub fn connect(machine: &mut Machine<'_>) -> Result<Self, String> {
        let port = machine.options.number("port").unwrap_or(5000) as u32;
        let mut manager = Self::manager(machine)?;
        let peer = VsockAddr { cid: HOST, port };
        manager.connect(peer, LOCAL_PORT).map_err(words)?;
        let mut connection = Self { manager, peer, local: LOCAL_PORT, closed: false };
        let deadline = machine.clock.deadline(patience(machine));
        loop {
            match connection.manager.poll().map_err(words)?.map(|event| event.event_type) {
                Some(VsockEventType::Connected) => return Ok(connection),
                Some(VsockEventType::Disconnected { .. }) => return Err(format!("The host refused port {port}")),
                _ => ensure!(!deadline.passed(), "The host did not answer on port {port}"),
            }
        }
    }

    /// Waits for a connection of the host to `port=` (default 5001).
    pub fn accept(machine: &mut Machine<'_>) -> Result<Self, String> {
        let port = machine.options.number("port").unwrap_or(5001) as u32;
        let mut manager = Self::manager(machine)?;
        manager.listen(port);
        crate::report::Report::new("event", "listening").value("cid", manager.guest_cid()).value("port", port).print();
        let deadline = machine.clock.deadline(patience(machine));
        loop {
            if let Some(VsockEvent { source, event_type: VsockEventType::ConnectionRequest, .. }) =
                manager.poll().map_err(words)?
            {
                return Ok(Self { manager, peer: source, local: port, closed: false });
            }
            ensure!(!deadline.passed(), "Nobody connected to port {port}");
        }
    }

    /// Handles at most one packet; true if there was one.
    pub fn poll(&mut self) -> Result<bool, String> {
        let event = self.manager.poll().map_err(words)?;
        if let Some(VsockEventType::Disconnected { .. }) = event.as_ref().map(|event| &event.event_type) {
            self.closed = true;
        }
        Ok(event.is_some())
    }

    /// Sends all of `bytes`, or none where the peer has no room for them; says which.
    pub fn send(&mut self, bytes: &[u8]) -> Result<bool, String> {
        use virtio_drivers::Error::SocketDeviceError;
        use virtio_drivers::device::socket::SocketError::InsufficientBufferSpaceInPeer;
        match self.manager.send(self.peer, self.local, bytes) {
            Ok(()) => Ok(true),
            Err(SocketDeviceError(InsufficientBufferSpaceInPeer)) => Ok(false),
            Err(error) => Err(words(error)),
        }
    }

    /// Bytes that have come and were not read.
    pub fn waiting(&mut self) -> usize {
        self.manager.recv_buffer_available_bytes(self.peer, self.local).unwrap_or(0)
    }

    /// Reads what has come, up to the buffer's length.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, String> {
        if self.waiting() == 0 {
            return Ok(0);
        }
        self.manager.recv(self.peer, self.local, buffer).map_err(words)
    }

    /// Tells the peer how much was read.
    pub fn update_credit(&mut self) -> Outcome {
        match self.manager.update_credit(self.peer, self.local) {
            Err(error) if !self.closed => Err(words(error)),
            _ => Ok(()),
        }
    }

    /// Closes the connection and waits until the host has confirmed it.
    pub fn close(&mut self, machine: &Machine<'_>) -> Outcome {
        if self.closed {
            return Ok(());
        }
        self.manager.shutdown(self.peer, self.local).map_err(words)?;
        let deadline = machine.clock.deadline(patience(machine));
        while !self.closed {
            self.poll()?;
            ensure!(!deadline.passed(), "The host did not confirm the end of the connection");
        }
        Ok(())
    }
}
