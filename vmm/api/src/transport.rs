//! Packets on an `AF_UNIX` `SOCK_SEQPACKET` socket: one message each, file descriptors beside it.
//!
//! Runs on whichever thread calls it; nothing here blocks, spawns a thread or keeps state besides the socket. Calls
//! on a connection never rely on `O_NONBLOCK`, because that flag belongs to the open file that an inherited descriptor may share with
//! its parent: every call says `MSG_DONTWAIT` itself.
//!
//! This room must not know what a message means.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use prost::Message;
use rustix::fs::{Mode, fchmod, unlink};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recvmsg, sendmsg, socket_with, socketpair, sockopt as rustix_sockopt,
};
use thiserror::Error;

use crate::v1::Envelope;

#[cfg(test)]
mod tests;

/// The longest packet, in bytes.
pub const MAX_PACKET_BYTES: usize = 64 * 1024;

/// The most file descriptors that ride along with one packet.
pub const MAX_PACKET_FDS: usize = 16;

/// How many connections the kernel keeps waiting for [`Listener::accept`].
const BACKLOG: i32 = 16;

/// Space for [`MAX_PACKET_FDS`] descriptors in one control message.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_PACKET_FDS));

/// Why a packet, a connection or a listener did not come about.
#[derive(Debug, Error)]
pub enum TransportError {
    /// Nothing to receive now, or no room to send. Try again when the descriptor is ready.
    #[error("The socket is not ready")]
    WouldBlock,
    /// The peer closed its end.
    #[error("The peer closed the connection")]
    Closed,
    /// A message of ours does not fit into a packet.
    #[error("A message of {length} bytes does not fit into a packet of {MAX_PACKET_BYTES}")]
    TooLong {
        /// Length of the encoded message in bytes.
        length: usize,
    },
    /// More than [`MAX_PACKET_FDS`] descriptors, sent or received.
    #[error("{count} descriptors do not fit into a packet: the most is {MAX_PACKET_FDS}")]
    TooManyFds {
        /// How many there were.
        count: usize,
    },
    /// The peer sent more bytes or descriptors than a packet may have. The rest of it is lost, so the connection is of no
    /// further use.
    #[error("The peer sent a packet that is too long, or too many descriptors")]
    Truncated,
    /// The packet is complete but is not an envelope. The connection may go on.
    #[error("The packet is not a message of this protocol")]
    Malformed(#[source] prost::DecodeError),
    /// The descriptor is not a `SOCK_SEQPACKET` socket of family `AF_UNIX`.
    #[error("The descriptor is not a sequential-packet unix socket")]
    WrongSocket,
    /// Another process listens at this path.
    #[error("Another process listens at {}", path.display())]
    InUse {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A path of a socket could not be used.
    #[error("Cannot use the socket path {}", path.display())]
    Path {
        /// The path that was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A system call failed for another reason.
    #[error("Cannot {call} on the control socket")]
    System {
        /// The system call.
        call: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl TransportError {
    fn system(call: &'static str, errno: Errno) -> Self {
        Self::System { call, source: errno.into() }
    }

    fn path(path: &Path, errno: Errno) -> Self {
        Self::Path { path: path.to_owned(), source: errno.into() }
    }
}

/// Who is at the other end, as the kernel saw it when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id in our pid namespace; 0 when the peer is outside of it.
    pub pid: i32,
    /// User id in our user namespace; the overflow id when it has none there.
    pub uid: u32,
    /// Group id, likewise.
    pub gid: u32,
}

/// A received packet.
#[derive(Debug)]
pub struct Packet {
    /// The message.
    pub envelope: Envelope,
    /// The descriptors that came along, close-on-exec, in the sender's order.
    pub fds: Vec<OwnedFd>,
}

/// Where packets are received. One serves any number of connections, one after another.
///
/// Only as much of it becomes resident as the longest packet needed.
#[derive(Debug)]
pub struct PacketBuffer(Box<[u8]>);

impl PacketBuffer {
    /// A buffer for one packet.
    pub fn new() -> Self {
        Self(vec![0; MAX_PACKET_BYTES].into_boxed_slice())
    }
}

impl Default for PacketBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// Encodes a message for [`Connection::send_encoded`].
///
/// # Errors
/// [`TransportError::TooLong`] when it does not fit into a packet.
pub fn encode(envelope: &Envelope) -> Result<Vec<u8>, TransportError> {
    let length = envelope.encoded_len();
    if length > MAX_PACKET_BYTES {
        return Err(TransportError::TooLong { length });
    }
    Ok(envelope.encode_to_vec())
}

/// A socket that waits for connections.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: Option<PathBuf>,
}

impl Listener {
    /// Makes a socket at `path` that only the owner can connect to (mode 0600), and listens.
    ///
    /// A socket file that nobody listens at any more is replaced. The file stays when the listener is dropped,
    /// because a process in its sandbox may not remove files.
    ///
    /// # Errors
    /// [`TransportError::InUse`] when somebody listens there, [`TransportError::Path`] when the path cannot be used.
    pub fn bind(path: &Path) -> Result<Self, TransportError> {
        let fd = new_socket()?;
        // Linux gives the socket file the mode of the socket, so there is no moment at which others could connect.
        fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(|errno| TransportError::system("fchmod", errno))?;
        let address = SocketAddrUnix::new(path).map_err(|errno| TransportError::path(path, errno))?;
        let bound = match bind(&fd, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                bind(&fd, &address)
            }
            other => other,
        };
        bound.map_err(|errno| TransportError::path(path, errno))?;
        listen(&fd, BACKLOG).map_err(|errno| TransportError::system("listen", errno))?;
        Ok(Self { fd, path: Some(path.to_owned()) })
    }

    /// Takes over a socket that was bound elsewhere, and listens. Sets `O_NONBLOCK` on it, because accepting is the one
    /// call that knows no `MSG_DONTWAIT`.
    ///
    /// # Errors
    /// [`TransportError::WrongSocket`] when the descriptor is something else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TransportError> {
        check_socket(fd.as_fd())?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(|errno| TransportError::system("ioctl", errno))?;
        listen(&fd, BACKLOG).map_err(|errno| TransportError::system("listen", errno))?;
        Ok(Self { fd, path: None })
    }

    /// Takes one waiting connection.
    ///
    /// # Errors
    /// [`TransportError::WouldBlock`] when none waits, or when the one that did has gone.
    pub fn accept(&self) -> Result<Connection, TransportError> {
        match accept_with(&self.fd, SocketFlags::CLOEXEC) {
            Ok(fd) => Ok(Connection { fd }),
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Err(TransportError::WouldBlock),
            Err(errno) => Err(TransportError::system("accept4", errno)),
        }
    }

    /// Stops listening and removes the socket file, for a start that failed before the sandbox was entered.
    pub fn discard(self) {
        if let Some(path) = &self.path {
            // Nothing is left to do about a file that cannot be removed: the next `bind` replaces it.
            let _ = unlink(path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`TransportError::Path`] when nobody listens there; [`TransportError::WouldBlock`] when too many wait already.
    pub fn connect(path: &Path) -> Result<Self, TransportError> {
        let address = SocketAddrUnix::new(path).map_err(|errno| TransportError::path(path, errno))?;
        let fd = new_socket()?;
        match connect(&fd, &address) {
            Ok(()) => Ok(Self { fd }),
            Err(Errno::AGAIN) => Err(TransportError::WouldBlock),
            Err(errno) => Err(TransportError::path(path, errno)),
        }
    }

    /// Takes over a socket that was connected elsewhere.
    ///
    /// # Errors
    /// [`TransportError::WrongSocket`] when the descriptor is something else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TransportError> {
        check_socket(fd.as_fd())?;
        Ok(Self { fd })
    }

    /// Makes two ends that are connected to each other.
    ///
    /// # Errors
    /// [`TransportError::System`] when the process has no descriptors left.
    pub fn pair() -> Result<(Self, Self), TransportError> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| TransportError::system("socketpair", errno))?;
        Ok((Self { fd: one }, Self { fd: other }))
    }

    /// Who connected.
    ///
    /// # Errors
    /// [`TransportError::System`] when the kernel does not say.
    pub fn peer(&self) -> Result<Peer, TransportError> {
        peer_of(self.fd.as_fd())
    }

    /// Sends one message; all of it or nothing.
    ///
    /// # Errors
    /// [`TransportError::WouldBlock`] when the peer has not read enough yet, [`TransportError::TooLong`],
    /// [`TransportError::TooManyFds`], [`TransportError::Closed`].
    pub fn send(&self, envelope: &Envelope, fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        self.send_encoded(&encode(envelope)?, fds)
    }

    /// Sends what [`encode`] made, as [`Connection::send`] does.
    ///
    /// # Errors
    /// As for [`Connection::send`].
    pub fn send_encoded(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        send_on(self.fd.as_fd(), bytes, fds)
    }

    /// Receives one packet.
    ///
    /// # Errors
    /// [`TransportError::WouldBlock`] when there is none, [`TransportError::Closed`] at the end of the connection,
    /// [`TransportError::Truncated`] and [`TransportError::TooManyFds`] when the peer broke the rules (what came is
    /// closed), [`TransportError::Malformed`] when the bytes are no message.
    pub fn receive(&self, buffer: &mut PacketBuffer) -> Result<Packet, TransportError> {
        receive_on(self.fd.as_fd(), buffer)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> Self {
        connection.fd
    }
}

/// [`Connection::peer`] on a descriptor that something else owns.
pub(crate) fn peer_of(socket: BorrowedFd<'_>) -> Result<Peer, TransportError> {
    let who = getsockopt(&socket, sockopt::PeerCredentials)
        .map_err(|errno| TransportError::System { call: "getsockopt", source: errno.into() })?;
    Ok(Peer { pid: who.pid(), uid: who.uid(), gid: who.gid() })
}

/// [`Connection::send_encoded`] on a descriptor that something else owns.
pub(crate) fn send_on(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
    if bytes.len() > MAX_PACKET_BYTES {
        return Err(TransportError::TooLong { length: bytes.len() });
    }
    if fds.len() > MAX_PACKET_FDS {
        return Err(TransportError::TooManyFds { count: fds.len() });
    }
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(TransportError::TooManyFds { count: fds.len() });
    }
    loop {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        return match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => Ok(()),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Err(TransportError::WouldBlock),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(TransportError::Closed),
            Err(errno) => Err(TransportError::system("sendmsg", errno)),
        };
    }
}

/// [`Connection::receive`] on a descriptor that something else owns.
pub(crate) fn receive_on(socket: BorrowedFd<'_>, buffer: &mut PacketBuffer) -> Result<Packet, TransportError> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(&mut buffer.0)], &mut control, flags) {
            Ok(received) => break received,
            // Reset is told once, when the peer closed its end and left packets of ours unread. What it sent before is
            // still to be had, and then comes the end.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Err(TransportError::WouldBlock),
            Err(errno) => return Err(TransportError::system("recvmsg", errno)),
        }
    };
    // Take every descriptor out first: whatever is wrong below, dropping the vector closes them.
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(TransportError::Truncated);
    }
    // Alignment leaves room for one or two more than were meant.
    if fds.len() > MAX_PACKET_FDS {
        return Err(TransportError::TooManyFds { count: fds.len() });
    }
    let bytes = buffer.0.get(..received.bytes).unwrap_or_default();
    if bytes.is_empty() {
        return Err(TransportError::Closed);
    }
    let envelope = Envelope::decode(bytes).map_err(TransportError::Malformed)?;
    Ok(Packet { envelope, fds })
}

fn new_socket() -> Result<OwnedFd, TransportError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| TransportError::system("socket", errno))
}

fn check_socket(fd: BorrowedFd<'_>) -> Result<(), TransportError> {
    let family = rustix_sockopt::socket_domain(fd).map_err(|_| TransportError::WrongSocket)?;
    let kind = rustix_sockopt::socket_type(fd).map_err(|_| TransportError::WrongSocket)?;
    if family == AddressFamily::UNIX && kind == SocketType::SEQPACKET {
        Ok(())
    } else {
        Err(TransportError::WrongSocket)
    }
}

/// Removes a socket file that nobody listens at. Anything else at `path` stays.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), TransportError> {
    match connect(&new_socket()?, address) {
        Err(Errno::CONNREFUSED) => {
            let is_socket =
                rustix::fs::lstat(path).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket());
            if !is_socket {
                return Err(TransportError::path(path, Errno::EXIST));
            }
            unlink(path).map_err(|errno| TransportError::path(path, errno))
        }
        // Gone in the meantime.
        Err(Errno::NOENT) => Ok(()),
        _ => Err(TransportError::InUse { path: path.to_owned() }),
    }
}
