//! Where the output of serial port and console goes: to a ring that viewers look at, and to a descriptor of the host.
//!
//! Called by vCPU threads and I/O threads.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::control::ConsoleOutput;
use crate::devices::console::ConsoleSink;
use crate::telemetry::{Step, mark};

/// Writes to a file; what cannot be written is dropped, and said once.
pub struct FileSink {
    file: File,
    failed: AtomicBool,
}

impl FileSink {
    /// Prints to `file`.
    pub fn new(file: File) -> Self {
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
pub struct Tee {
    seen: Arc<ConsoleOutput>,
    besides: Arc<dyn ConsoleSink>,
}

impl Tee {
    /// Prints to both.
    pub fn new(seen: Arc<ConsoleOutput>, besides: Arc<dyn ConsoleSink>) -> Self {
        Self { seen, besides }
    }
}

impl ConsoleSink for Tee {
    fn write(&self, bytes: &[u8]) {
        mark(Step::FirstGuestWrite);
        self.besides.write(bytes);
        self.seen.print(bytes);
    }
}

/// Drops everything.
pub struct NoSink;

impl ConsoleSink for NoSink {
    fn write(&self, _bytes: &[u8]) {}
}
