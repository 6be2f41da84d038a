//! Asks somebody outside of the sandbox to connect: the protocol between the VMM and its broker or the node daemon.
//!
//! Over a SEQPACKET socket, all numbers little-endian: the VMM sends `id: u32, port: u32`, and gets back, in any order,
//! `id: u32, error: u32`, with the connected stream as one descriptor (`SCM_RIGHTS`) where `error` (an errno) is zero.
//!
//! Used by a reactor thread; no call blocks.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::Stream;

/// Length of a request and of an answer in bytes.
const PACKET: usize = 8;

fn encode(id: u32, value: u32) -> [u8; PACKET] {
    (u64::from(id) | u64::from(value) << 32).to_le_bytes()
}

fn decode(packet: [u8; PACKET]) -> (u32, u32) {
    let both = u64::from_le_bytes(packet);
    (both as u32, (both >> 32) as u32)
}

/// The answer to one request.
#[derive(Debug)]
pub struct Answer {
    /// The request's id.
    pub id: u32,
    /// The connected stream, or why there is none.
    pub stream: io::Result<Stream>,
}

/// The VMM's end of the socket.
#[derive(Debug)]
pub struct Connector {
    socket: OwnedFd,
}

impl Connector {
    /// Takes a connected SEQPACKET socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The fd, for waiting on it.
    pub fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Asks for a connection to host port `port`. `WouldBlock` when too many requests wait already.
    pub fn request(&self, id: u32, port: u32) -> io::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let packet = encode(id, port);
        sendmsg::<()>(self.as_raw_fd(), &[IoSlice::new(&packet)], &[], flags, None)?;
        Ok(())
    }

    /// The next answer; `WouldBlock` when there is none, `UnexpectedEof` when there will never be one again.
    pub fn answer(&self) -> io::Result<Answer> {
        let (packet, fd) = receive(self.as_raw_fd(), MsgFlags::MSG_DONTWAIT)?;
        let (id, error) = decode(packet);
        let stream = match (error, fd) {
            (0, Some(fd)) => Ok(Stream::new(fd)),
            // The descriptor is lost when this process may have no more of them.
            (0, None) => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            (error, _) => Err(io::Error::from_raw_os_error(error.cast_signed())),
        };
        Ok(Answer { id, stream })
    }
}

/// The next request at the other end, as (id, port). Blocks.
pub(super) fn next_request(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    Ok(decode(receive(socket.as_raw_fd(), MsgFlags::empty())?.0))
}

/// Answers a request. Blocks while the VMM does not read.
pub(super) fn give_answer(socket: &OwnedFd, id: u32, stream: &io::Result<OwnedFd>) -> io::Result<()> {
    let fd = stream.as_ref().ok().map(|fd| [fd.as_raw_fd()]);
    let error = stream.as_ref().err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO)).cast_unsigned();
    let rights: Vec<ControlMessage<'_>> = fd.iter().map(|fd| ControlMessage::ScmRights(fd)).collect();
    let packet = encode(id, error);
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&packet)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one packet and at most one descriptor.
fn receive(socket: RawFd, flags: MsgFlags) -> io::Result<([u8; PACKET], Option<OwnedFd>)> {
    let mut packet = [0; PACKET];
    let mut space = nix::cmsg_space!(RawFd);
    let mut vectors = [IoSliceMut::new(&mut packet)];
    let message = recvmsg::<()>(socket, &mut vectors, Some(&mut space), flags | MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fd = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for raw in fds {
                // SAFETY: the kernel just put this descriptor into our table; nobody else owns it.
                fd = Some(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    if message.bytes != PACKET {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((packet, fd))
}
