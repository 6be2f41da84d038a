//! A guest that speaks the socket device's protocol, and the host programs and the broker around it.

use std::io::{IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};
use quantix_vmm::backend::vsock_unix::{Connector, Host, Listener};
use quantix_vmm::devices::vsock::Vsock;
use quantix_vmm::virtio::testing::BUFFERS;
use serde::{Deserialize, Serialize};

use crate::driver::{Buffer, DriverOp, RingOp};

/// The guest's context id.
pub const CID: u32 = 3;
/// Most streams that the host keeps.
const MAX_STREAMS: usize = 16;
/// Bytes of a receive buffer.
const ROOM: u32 = 2048;

/// What a guest, or the host around it, does next. A packet's other fields are right: wrong ones are `queue_vsock`'s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PacketOp {
    /// Sends a packet.
    Send {
        /// Operation.
        op: u8,
        /// Which connection, by its ports.
        port: (u32, u32),
        /// Flags.
        flags: u8,
        /// Credit: size of the guest's buffer, and what it has taken from it.
        credit: (u32, u32),
        /// Length that the header tells, less that of the data.
        lie: i8,
        /// Data.
        data: Vec<u8>,
    },
    /// Gives so many receive buffers.
    Room(u8),
    /// Anything else, on the rings or on the host.
    Other(DriverOp),
}

/// Turns packets into what a driver does for them.
pub fn driver_ops(ops: impl Iterator<Item = PacketOp>) -> impl Iterator<Item = DriverOp> {
    ops.flat_map(|op| match op {
        PacketOp::Send { op, port: (host, guest), flags, credit: (size, taken), lie, data } => {
            let len = (data.len() as u32).wrapping_add_signed(i32::from(lie));
            let header = header([host, guest, len], u16::from(op), [u32::from(flags), size, taken]);
            let len = (header.len() + data.len()) as u32;
            let packet = DriverOp::Memory { at: BUFFERS as u32, bytes: [header, data].concat() };
            vec![packet, chain(1, Buffer { at: 0, len, writable: false }), DriverOp::Event(1)]
        }
        PacketOp::Room(count) => {
            let buffer = |i| chain(0, Buffer { at: 0x1_0000 + u32::from(i % 64) * ROOM, len: ROOM, writable: true });
            (0..count).map(buffer).chain([DriverOp::Event(0)]).collect()
        }
        PacketOp::Other(op) => vec![op],
    })
}

fn chain(queue: u8, buffer: Buffer) -> DriverOp {
    DriverOp::Ring { queue, op: RingOp::Chain(vec![buffer]) }
}

/// A packet's header from the guest to the host (virtio 1.3 section 5.10.6).
pub fn header([host, guest, len]: [u32; 3], op: u16, tail: [u32; 3]) -> Vec<u8> {
    let cids = [u64::from(CID), 2].map(u64::to_le_bytes).concat();
    let ports = [guest, host, len].map(u32::to_le_bytes).concat();
    // Type 1: a stream.
    [cids, ports, [1, op].map(u16::to_le_bytes).concat(), tail.map(u32::to_le_bytes).concat()].concat()
}

/// The other side of the device: programs that connect, and a broker that answers.
pub struct Programs {
    address: SocketAddr,
    broker: OwnedFd,
    streams: Vec<UnixStream>,
}

/// A socket device and the host around it.
pub fn device() -> (Vsock, Programs) {
    let name = format!("quantix-fuzz-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).expect("a short name");
    let listener = UnixListener::bind_addr(&address).expect("a name that is only ours");
    let (ours, broker) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).expect("a socket pair");
    let listener = Listener::from_fd(listener.into()).expect("a listener");
    let device = Vsock::new("vsock0", CID, Host { listener, connector: Some(Connector::new(ours)) });
    (device, Programs { address, broker, streams: Vec::new() })
}

impl Programs {
    /// Does what `bytes` say: the first is what, the second which stream, the rest is sent. Errors are the game.
    pub fn play(&mut self, bytes: &[u8]) {
        let &[what, which, ref rest @ ..] = bytes else { return };
        let index = usize::from(which) % self.streams.len().max(1);
        match (what % 6, self.streams.get_mut(index)) {
            (0, _) => self.connect(rest),
            (1, _) => self.answer(which, rest),
            (2, Some(stream)) => drop(stream.write(rest)),
            (3, Some(stream)) => drop(stream.read(&mut [0; 4096])),
            (4, Some(stream)) => drop(stream.shutdown(if which < 128 { Shutdown::Write } else { Shutdown::Read })),
            (_, Some(_)) => drop(self.streams.remove(index)),
            _ => {}
        }
    }

    fn keep(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_ok() && self.streams.len() < MAX_STREAMS {
            self.streams.push(stream);
        }
    }

    /// A program connects and says its greeting.
    fn connect(&mut self, greeting: &[u8]) {
        // A full backlog would block; the device accepts 128 before that.
        if self.streams.len() < MAX_STREAMS
            && let Ok(mut stream) = UnixStream::connect_addr(&self.address)
        {
            let _ = stream.write(greeting);
            self.keep(stream);
        }
    }

    /// The broker answers a request: with a stream, an error, or (`how` is odd) what it made up itself.
    fn answer(&mut self, how: u8, made_up: &[u8]) {
        let mut packet = [0; 8];
        let asked = recv(self.broker.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).is_ok();
        packet[4..].fill(how & 2);
        let packet = if asked && how & 1 == 0 { &packet } else { made_up };
        let Ok((ours, theirs)) = UnixStream::pair() else { return };
        let fd = [theirs.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fd)];
        let rights = if how & 4 == 0 { &rights[..] } else { &[] };
        let _ = sendmsg::<()>(self.broker.as_raw_fd(), &[IoSlice::new(packet)], rights, MsgFlags::MSG_NOSIGNAL, None);
        self.keep(ours);
    }
}
