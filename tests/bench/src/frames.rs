//! The host end of the payload's network commands: a packet socket on the tap that echoes, floods or checks frames.
//!
//! One thread, blocking calls with a time-out. It knows the frames by their Ethernet type and ignores all others.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use payload_logic::frame;

/// A packet socket bound to one interface, for the payload's Ethernet type only.
pub struct Port {
    socket: OwnedFd,
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Port {
    /// Opens the interface; reads give up after `patience`.
    ///
    /// # Errors
    ///
    /// Without `CAP_NET_RAW`, or if there is no such interface.
    pub fn open(interface: &str, patience: Duration) -> Result<Self> {
        let protocol = u16::from_ne_bytes(frame::TYPE);
        // SAFETY: plain integers; the result is checked.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
        checked(raw as isize).context("Cannot open a packet socket")?;
        // SAFETY: a fresh descriptor that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let name = CString::new(interface).context("An interface name without zero bytes is needed")?;
        // SAFETY: `name` is a C string that lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "No network interface is called {interface}");
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol,
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address is a whole `sockaddr_ll` of the length that is given.
        let bound = unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        };
        checked(bound as isize).with_context(|| format!("Cannot bind to {interface}"))?;
        let port = Self { socket };
        port.set_patience(patience)?;
        Ok(port)
    }

    fn set_patience(&self, patience: Duration) -> Result<()> {
        let time =
            libc::timeval { tv_sec: patience.as_secs().cast_signed(), tv_usec: i64::from(patience.subsec_micros()) };
        // SAFETY: the option is a whole `timeval` of the length that is given.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const time).cast(),
                size_of_val(&time) as libc::socklen_t,
            )
        };
        checked(set as isize).context("Cannot set the time-out")?;
        Ok(())
    }

    /// The next frame that came in from the guest; what the host itself sent is skipped.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a mut [u8]> {
        loop {
            let mut from = libc::sockaddr_ll {
                sll_family: 0,
                sll_protocol: 0,
                sll_ifindex: 0,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let mut length = size_of_val(&from) as libc::socklen_t;
            // SAFETY: buffer and address are writable for the lengths that are given.
            let received = checked(unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            })?;
            if from.sll_pkttype != libc::PACKET_OUTGOING && frame::is_ours(&buffer[..received]) {
                return Ok(&mut buffer[..received]);
            }
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the frame is readable for the length that is given.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        checked(sent).map(|_| ())
    }
}

/// Sends every frame back to where it came from, until none comes for the port's patience. Returns their number.
///
/// # Errors
///
/// If the socket fails otherwise than by a time-out.
pub fn echo(port: &Port) -> Result<u64> {
    echo_until(port, &AtomicBool::new(true))
}

/// As [`echo`], but goes on when nothing comes until `over` is set: for guests that take their time to start.
///
/// # Errors
///
/// As [`echo`].
pub fn echo_until(port: &Port, over: &AtomicBool) -> Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let mut frames = 0;
    loop {
        match port.receive(&mut buffer) {
            Ok(bytes) => {
                frame::turn(bytes);
                // A full queue is a lost frame, as on any network; the guest notices.
                if port.send(bytes).is_ok() {
                    frames += 1;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if over.load(Ordering::Acquire) {
                    return Ok(frames);
                }
            }
            Err(error) => return Err(error).context("Cannot receive"),
        }
    }
}

/// Sends frames of `length` bytes as fast as the interface takes them, for `time`. Returns their number.
///
/// # Errors
///
/// If the length is no frame's, or the socket fails otherwise than by a full queue.
pub fn flood(port: &Port, length: usize, time: Duration) -> Result<u64> {
    const BATCH: usize = 64;
    ensure!((frame::SMALLEST..=frame::LARGEST).contains(&length), "No frame has {length} bytes");
    let mut bytes = vec![0; length];
    frame::write(&mut bytes, [0xff; 6], [2, 0, 0, 0, 0, 1], 0);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    // SAFETY: all zero is a message without name, parts and control data.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = &raw mut part;
    message.msg_hdr.msg_iovlen = 1;
    let mut messages = [message; BATCH];
    let end = Instant::now() + time;
    let mut frames = 0;
    while Instant::now() < end {
        // SAFETY: every message points to `part`, which points to `bytes`; both live through the call.
        let sent = unsafe { libc::sendmmsg(port.socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
        match checked(sent as isize) {
            Ok(sent) => frames += sent as u64,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => std::thread::yield_now(),
            Err(error) => return Err(error).context("Cannot send"),
        }
    }
    Ok(frames)
}

/// Sends `count` frames of all sizes to an answering guest and checks that each comes back whole.
///
/// # Errors
///
/// If one does not.
pub fn check(port: &Port, count: u64) -> Result<()> {
    let from = [2, 0, 0, 0, 0, 1];
    let mut buffer = vec![0; 1 << 16];
    for number in 0..count {
        let mut bytes = vec![0; frame::length_of(number)];
        frame::write(&mut bytes, [0xff; 6], from, number);
        port.send(&bytes).context("Cannot send")?;
        let back = port.receive(&mut buffer).with_context(|| format!("Frame {number} did not come back"))?;
        ensure!(frame::number(back) == Some(number), "Frame {number} came back changed");
        ensure!(back.len() == bytes.len() && back.starts_with(&from), "Frame {number} came back in another shape");
    }
    Ok(())
}
