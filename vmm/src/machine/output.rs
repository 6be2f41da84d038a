//! Where the output of serial port and console goes: to a ring that viewers look at, and to a descriptor of the host.
//!
//! Called by vCPU threads and I/O threads, which must not wait for whoever reads: a pipe or a terminal that takes no more is
//! left alone, and what it has not taken goes out when the main loop hears that there is room again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::open::Stream;
use crate::control::ConsoleOutput;
use crate::devices::console::ConsoleSink;
use crate::telemetry::{Step, mark};
use crate::virtio::HostError;

/// What is kept for a reader that takes no more, in bytes; what comes after it is lost to that reader, and the log says so.
const HELD: usize = 256 << 10;
/// A pipe or a terminal that has room takes so many bytes at once without making the writer wait (`PIPE_BUF`).
const PIECE: usize = 4096;

/// A console's output, the sink that prints to it and to `stream`, and the part of it that may be held back.
pub fn printed_to(stream: &Stream) -> Result<Printed, HostError> {
    let seen = ConsoleOutput::new().map_err(|e| HostError::new("Could not make a console's event fd", e))?;
    let seen = Arc::new(seen);
    let held = sink_of(stream)?;
    Ok(Printed { output: seen.clone(), sink: Arc::new(Tee { seen, besides: held.clone() }), held })
}

/// See [`printed_to`].
pub struct Printed {
    /// For viewers.
    pub output: Arc<ConsoleOutput>,
    /// For the device.
    pub sink: Arc<dyn ConsoleSink>,
    /// For the main loop.
    pub held: Option<Arc<HeldOutput>>,
}

/// Where output goes that is meant for `stream`.
fn sink_of(stream: &Stream) -> Result<Option<Arc<HeldOutput>>, HostError> {
    let file = match stream {
        Stream::Off | Stream::Listener(_) | Stream::Socket(_) => return Ok(None),
        Stream::Stdio => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        Stream::File(file) => file.try_clone(),
    };
    let file = file.map_err(|e| HostError::new("Could not duplicate a console's output", e))?;
    Ok(Some(Arc::new(HeldOutput::new(file))))
}

/// What was printed and not taken yet.
#[derive(Default)]
struct Backlog {
    bytes: VecDeque<u8>,
    /// Whether the log has said that output is being lost.
    told: bool,
}

/// Writes to a file, a pipe or a terminal, and never waits for a reader.
pub struct HeldOutput {
    file: File,
    /// A regular file has no reader to wait for, and no way to ask whether it has room.
    may_stall: bool,
    backlog: Mutex<Backlog>,
}

impl HeldOutput {
    fn new(file: File) -> Self {
        let may_stall = !file.metadata().is_ok_and(|metadata| metadata.is_file());
        Self { file, may_stall, backlog: Mutex::default() }
    }

    /// Writable, as an edge, when held output may go on; `None` where nothing is ever held.
    pub fn room_fd(&self) -> Option<RawFd> {
        self.may_stall.then(|| self.file.as_raw_fd())
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes of what is held as much as there is room for.
    pub fn flush(&self) {
        let mut backlog = self.lock();
        while !backlog.bytes.is_empty() && self.has_room(PollTimeout::ZERO) {
            let piece = backlog.bytes.len().min(PIECE);
            let piece: Vec<u8> = backlog.bytes.drain(..piece).collect();
            self.put(&piece, &mut backlog);
        }
    }

    /// The end: waits a moment for a reader that is only slow.
    pub fn finish(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let end = Instant::now() + PATIENCE;
        loop {
            self.flush();
            let left = end.saturating_duration_since(Instant::now());
            if self.lock().bytes.is_empty() || left.is_zero() {
                return;
            }
            self.has_room(PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        }
    }

    fn has_room(&self, patience: PollTimeout) -> bool {
        let mut asked = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        // A reader that is gone is an error of the write, which says so.
        !self.may_stall || poll(&mut asked, patience).is_ok_and(|ready| ready > 0)
    }

    fn put(&self, bytes: &[u8], backlog: &mut Backlog) {
        if let Err(error) = (&self.file).write_all(bytes) {
            lost(backlog, &error.to_string());
        }
    }
}

/// Says once that output is being lost.
fn lost(backlog: &mut Backlog, reason: &str) {
    if !std::mem::replace(&mut backlog.told, true) {
        log::warn!("Console output is being lost: {reason}");
    }
}

impl ConsoleSink for HeldOutput {
    fn write(&self, bytes: &[u8]) {
        self.flush();
        let mut backlog = self.lock();
        let mut rest = bytes;
        while backlog.bytes.is_empty() && !rest.is_empty() && self.has_room(PollTimeout::ZERO) {
            let (piece, behind) = rest.split_at(rest.len().min(PIECE));
            self.put(piece, &mut backlog);
            rest = behind;
        }
        let room = HELD.saturating_sub(backlog.bytes.len());
        backlog.bytes.extend(rest.iter().take(room));
        if rest.len() > room {
            lost(&mut backlog, "nobody reads it");
        }
    }
}

/// Prints to a console that viewers can look at, and to where the user wants it besides.
struct Tee {
    seen: Arc<ConsoleOutput>,
    besides: Option<Arc<HeldOutput>>,
}

impl ConsoleSink for Tee {
    fn write(&self, bytes: &[u8]) {
        mark(Step::FirstGuestWrite);
        if let Some(besides) = &self.besides {
            besides.write(bytes);
        }
        self.seen.print(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_pipe_that_nobody_reads_stalls_no_writer_and_gets_the_rest_later() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let output = HeldOutput::new(File::from(std::os::fd::OwnedFd::from(writer)));
        let printed: Vec<u8> = (0..150_000_u32).map(|i| (i % 251) as u8).collect();
        for piece in printed.chunks(7_000) {
            output.write(piece);
        }
        assert!(output.room_fd().is_some());
        let mut seen = Vec::new();
        while seen.len() < printed.len() {
            output.flush();
            let mut some = [0; 10_000];
            let count = reader.read(&mut some).unwrap();
            seen.extend_from_slice(&some[..count]);
        }
        assert!(seen == printed, "something was lost or moved");
        for _ in 0..10 {
            output.write(&printed);
        }
        assert!(output.lock().bytes.len() <= HELD && output.lock().told);
    }

    #[test]
    fn a_file_gets_everything_at_once() {
        let file = tempfile::tempfile().unwrap();
        let output = HeldOutput::new(file.try_clone().unwrap());
        output.write(&vec![7; 300_000]);
        assert_eq!(file.metadata().unwrap().len(), 300_000);
        assert_eq!(output.room_fd(), None);
    }
}
