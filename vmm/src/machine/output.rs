//! Where the output of serial port and console goes: to a ring that viewers look at, and to a descriptor of the host.
//!
//! Called by vCPU threads and I/O threads.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::open::Stream;
use crate::control::ConsoleOutput;
use crate::devices::console::ConsoleSink;
use crate::telemetry::{Step, mark};
use crate::virtio::HostError;

/// A console's output, and the sink that prints to it and to `stream`.
pub fn printed_to(stream: &Stream) -> Result<(Arc<ConsoleOutput>, Arc<dyn ConsoleSink>), HostError> {
    let seen = ConsoleOutput::new().map_err(|e| HostError::new("Could not make a console's event fd", e))?;
    let seen = Arc::new(seen);
    Ok((seen.clone(), Arc::new(Tee { seen, besides: sink_of(stream)? })))
}

/// Where output goes that is meant for `stream`.
fn sink_of(stream: &Stream) -> Result<Arc<dyn ConsoleSink>, HostError> {
    let doubled = |result: std::io::Result<std::os::fd::OwnedFd>| {
        result.map(std::fs::File::from).map_err(|e| HostError::new("Could not duplicate a console's output", e))
    };
    Ok(match stream {
        Stream::Off | Stream::Listener(_) | Stream::Socket(_) => Arc::new(NoSink),
        Stream::Stdio => Arc::new(FileSink::new(doubled(std::io::stdout().as_fd().try_clone_to_owned())?)),
        Stream::File(file) => Arc::new(FileSink::new(doubled(file.try_clone().map(Into::into))?)),
    })
}

/// Writes to a file; what cannot be written is dropped, and said once.
struct FileSink {
    file: File,
    failed: AtomicBool,
}

impl FileSink {
    fn new(file: File) -> Self {
        Self { file, failed: AtomicBool::new(false) }
    }
}

impl ConsoleSink for FileSink {
    fn write(&self, bytes: &[u8]) {
        if let Err(error) = (&self.file).write_all(bytes)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            log::warn!("Console output is being lost: {error}");
        }
    }
}

/// Prints to a console that viewers can look at, and to where the user wants it besides.
struct Tee {
    seen: Arc<ConsoleOutput>,
    besides: Arc<dyn ConsoleSink>,
}

impl ConsoleSink for Tee {
    fn write(&self, bytes: &[u8]) {
        mark(Step::FirstGuestWrite);
        self.besides.write(bytes);
        self.seen.print(bytes);
    }
}

/// Drops everything.
struct NoSink;

impl ConsoleSink for NoSink {
    fn write(&self, _bytes: &[u8]) {}
}
