//! Where the serial port's output goes when it goes straight to a descriptor of the host.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::devices::console::ConsoleSink;

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

/// Drops everything.
pub struct NoSink;

impl ConsoleSink for NoSink {
    fn write(&self, _bytes: &[u8]) {}
}
