//! The host side of one connection: its stream, and what the host program has not taken yet.
//!
//! Runs on the worker's thread. The backlog never holds more than the credit that the guest was given.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::RawFd;

use crate::backend::IoVecs;
use crate::backend::vsock_unix::Stream;
use crate::virtio::SliceList;

/// Longest line by which a host program names a port: `CONNECT 4294967295`.
const LONGEST_LINE: usize = 19;

/// What a host program that has just connected has said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Not enough yet.
    Unfinished,
    /// The port that it wants in the guest.
    Port(u32),
    /// Nothing that could be understood, or it has gone.
    Nonsense,
}

/// A stream and its backlog.
#[derive(Debug, Default)]
pub(super) struct Link {
    stream: Option<Stream>,
    backlog: VecDeque<u8>,
}

fn not_connected() -> io::Error {
    ErrorKind::NotConnected.into()
}

/// How many bytes went, where "none just now" is no error.
fn some_or_none(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

impl Link {
    pub(super) fn new(stream: Option<Stream>) -> Self {
        Self { stream, backlog: VecDeque::new() }
    }

    pub(super) fn connect(&mut self, stream: Stream) {
        self.stream = Some(stream);
    }

    pub(super) fn into_stream(self) -> Option<Stream> {
        self.stream
    }

    pub(super) fn fd(&self) -> Option<RawFd> {
        self.stream.as_ref().map(Stream::as_raw_fd)
    }

    /// Whether all bytes of the guest have been taken by the host.
    pub(super) fn is_flushed(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Reads the line by which the host program names a port; what follows the line stays in the stream.
    pub(super) fn greeting(&self) -> Greeting {
        let Some(stream) = &self.stream else { return Greeting::Nonsense };
        let mut bytes = [0; LONGEST_LINE + 1];
        let seen = match stream.receive_bytes(&mut bytes, true) {
            Ok(0) => return Greeting::Nonsense,
            Ok(n) => bytes.get(..n).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Greeting::Unfinished,
            Err(_) => return Greeting::Nonsense,
        };
        let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
            return if seen.len() > LONGEST_LINE { Greeting::Nonsense } else { Greeting::Unfinished };
        };
        let line = seen.get(..end).and_then(|line| std::str::from_utf8(line).ok());
        let port = line.and_then(|line| line.strip_prefix("CONNECT ")).and_then(|port| port.parse().ok());
        let taken = bytes.get_mut(..=end).map(|line| stream.receive_bytes(line, false));
        match (port, taken) {
            (Some(port), Some(Ok(_))) => Greeting::Port(port),
            _ => Greeting::Nonsense,
        }
    }

    /// Tells the host program that it is connected, as `port`.
    pub(super) fn greet(&self, port: u32) -> io::Result<()> {
        let line = format!("OK {port}\n");
        let sent = self.stream.as_ref().ok_or_else(not_connected)?.send_bytes(line.as_bytes())?;
        if sent < line.len() { Err(ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// Reads from the host program into guest buffers.
    pub(super) fn receive(&self, room: &IoVecs) -> io::Result<usize> {
        self.stream.as_ref().ok_or_else(not_connected)?.receive(room)
    }

    /// Passes bytes of the guest on; returns how many the host took now. The others are in the backlog.
    pub(super) fn write(&mut self, data: &SliceList, vectors: &mut IoVecs) -> io::Result<u32> {
        let stream = self.stream.as_ref().ok_or_else(not_connected)?;
        let mut taken = 0;
        if self.backlog.is_empty() {
            vectors.clear();
            vectors.extend(data.slices());
            taken = some_or_none(stream.send(vectors))?;
        }
        let mut at = taken;
        let mut piece = [0; 4096];
        loop {
            let n = data.read(at, &mut piece);
            if n == 0 {
                break;
            }
            self.backlog.extend(piece.get(..n).unwrap_or_default());
            at += n;
        }
        Ok(taken as u32)
    }

    /// Tries to get rid of the backlog; returns how many bytes the host took.
    pub(super) fn flush(&mut self) -> io::Result<u32> {
        let stream = self.stream.as_ref().ok_or_else(not_connected)?;
        let mut taken = 0;
        while !self.backlog.is_empty() {
            let n = some_or_none(stream.send_bytes(self.backlog.as_slices().0))?;
            if n == 0 {
                return Ok(taken);
            }
            self.backlog.drain(..n);
            taken += n as u32;
        }
        // An idle connection keeps no memory.
        self.backlog = VecDeque::new();
        Ok(taken)
    }

    /// Forgets the backlog; returns its length.
    pub(super) fn discard(&mut self) -> u32 {
        std::mem::take(&mut self.backlog).len() as u32
    }

    /// Whether the host program reads no more.
    pub(super) fn is_deaf(&self) -> bool {
        self.stream.as_ref().is_none_or(Stream::is_deaf)
    }

    /// Ends one direction of the stream.
    pub(super) fn shutdown(&self, how: Shutdown) {
        if let Some(stream) = &self.stream {
            stream.shutdown(how);
        }
    }
}
